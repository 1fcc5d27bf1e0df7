from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI

from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Reason, Route
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from tests.reading_room_cases import (
    AUDIT,
    PLANTED,
    PRIORITY,
    RELEASE,
    ROUTINE,
    Clock,
    Desk,
    Wanted,
    add_case,
    make_room,
    mr_series,
    seat,
)

FORBIDDEN_WORDS = re.compile(r"\b(normal|abnormal|negative|positive|cleared|rule[ds]?[- ]out)\b", re.IGNORECASE)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, Clock())


def numbers_in(text: str) -> list[str]:
    """Planted numbers that a text shows, to three digits or as per cent."""
    spelt = {f"{p:.3f}" for p in PLANTED} | {f"{p:.2f}" for p in PLANTED} | {f"{100 * p:.1f}" for p in PLANTED}
    spelt |= {str(p) for p in PLANTED} | {RELEASE[:8], "abab"}
    found = re.findall(r"\d+\.\d+", text)
    return sorted({word for word in spelt if word in found} | {word for word in (RELEASE[:8], "abab") if word in text})


def everything(desk: Desk, case_id: str) -> dict[str, str]:
    """The whole answer, headers too, of everything that can be asked about a case."""
    paths = [f"/worklist?show={show}" for show in ("mine", "specialty", "all", "done", "unread")]
    paths += [f"/api/worklist?show={show}" for show in ("mine", "specialty", "all", "done", "unread")]
    paths += [f"/cases/{case_id}", f"/api/cases/{case_id}", f"/cases/{case_id}/series", f"/cases/{case_id}/series/0"]
    paths += ["/live", "/ready", "/api/session", f"/cases/{case_id}/nothing", f"/api/cases/{case_id}/nothing"]
    answers = {path: desk.get(path) for path in paths}
    return {path: f"{dict(answer.headers)}\n{answer.text}" for path, answer in answers.items()}


CASES = {
    "review": Wanted(),
    "novel": Wanted(reasons=(Reason.NOVEL,), item_reasons=(Reason.NOVEL,)),
    "priority": PRIORITY,
    "audit": AUDIT,
    "leaky": Wanted(
        problems=((Reason.UNCERTAIN, f"route score {PLANTED[1]} lies between {PLANTED[8]} and {PLANTED[9]}"),)
    ),
}


@pytest.mark.parametrize("wanted", CASES.values(), ids=CASES)
def test_nothing_shows_the_models_answer_before_the_read_is_committed(
    app: FastAPI, database: Database, blobs: BlobStore, wanted: Wanted
) -> None:
    case_id = add_case(database, blobs, wanted)
    desk, colleague = seat(app, database), seat(app, database, "dr.weiss", role="lead")
    for step in ("", "claim"):
        if step:
            assert desk.post(f"/cases/{case_id}/{step}").status_code == 303
        for who in (desk, colleague):
            for path, text in everything(who, case_id).items():
                assert numbers_in(text) == [], path
                assert not re.search(r"ROUTINE|CONFIDENT_ABSENCE|No priority flag|audit", text), path
    assert desk.get(f"/api/cases/{case_id}").json()["answer"] is None


def test_the_answer_is_shown_after_the_reveal_and_to_its_reader_alone(
    app: FastAPI, database: Database, blobs: BlobStore
) -> None:
    case_id = add_case(database, blobs, AUDIT)
    desk, colleague = seat(app, database), seat(app, database, "dr.weiss", role="lead")
    desk.post(f"/cases/{case_id}/claim")
    desk.post(f"/cases/{case_id}/commit", fence=1, finding="tumour", certainty=2)
    for path, text in everything(desk, case_id).items():
        assert numbers_in(text) == [], path
    desk.post(f"/cases/{case_id}/reveal")
    page = desk.get(f"/cases/{case_id}").text
    assert {"61.7", "38.3", "0.383", "0.313", "0.029", "0.072", "0.662", "0.121", "0.838"} <= set(numbers_in(page))
    assert RELEASE[:16] in page
    assert "Drawn for a blind audit read" in page
    for path, text in everything(colleague, case_id).items():
        assert numbers_in(text) == [], path


def test_the_search_for_planted_numbers_has_teeth(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    assert numbers_in(f"score {PLANTED[1]}") != []
    assert numbers_in("61.7 %") != []
    assert numbers_in(f"release {RELEASE}") != []


def test_an_audit_item_looks_like_any_other(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    data = [mr_series(), mr_series()]
    ids = [
        add_case(database, blobs, wanted, files=files)
        for wanted, files in zip((Wanted(), replace(AUDIT, wait=Wanted().wait)), data, strict=True)
    ]
    desk = seat(app, database)
    shown = []
    for case_id in ids:
        texts = everything(desk, case_id)
        own = {
            path.replace(case_id, "ID"): text.replace(case_id, "ID") for path, text in texts.items() if case_id in path
        }
        shown.append(own)
    assert shown[0] == shown[1]
    lines = desk.get("/api/worklist?show=all").json()["items"]
    for line in lines:
        del line["case_id"]
    assert lines[0] == lines[1]


def test_counts_do_not_tell_an_audit_item_from_another(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    add_case(database, blobs, AUDIT)
    desk = seat(app, database)
    assert desk.get("/api/worklist").json()["counts"]["unread"] == 0
    assert desk.get("/api/worklist?show=unread").json()["items"] == []
    add_case(database, blobs, ROUTINE)
    assert desk.get("/api/worklist").json()["counts"]["unread"] == 1


def test_a_case_decided_without_a_read_shows_reasons_and_no_number(
    app: FastAPI, database: Database, blobs: BlobStore
) -> None:
    routine = add_case(database, blobs, ROUTINE)
    out = Wanted(route=Route.OUT_OF_SCOPE, reasons=(Reason.WRONG_BODY_PART,), item_reasons=None, answered=False)
    add_case(database, blobs, out)
    desk = seat(app, database)
    page = desk.get("/worklist?show=unread").text
    assert "No priority flag" in page
    assert "Other body part" in page
    for path, text in everything(desk, routine).items():
        assert numbers_in(text) == [], path


def test_no_page_says_a_study_is_normal_negative_or_cleared(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    desk = seat(app, database)
    ids = [add_case(database, blobs, wanted) for wanted in (*CASES.values(), ROUTINE)]
    ids += [add_case(database, blobs, Wanted(reasons=tuple(Reason), item_reasons=tuple(Reason)))]
    for case_id in ids:
        for path, text in everything(desk, case_id).items():
            assert not FORBIDDEN_WORDS.search(text), path
    desk.post(f"/cases/{ids[3]}/claim")
    desk.post(f"/cases/{ids[3]}/commit", fence=1, finding="no_tumour", certainty=5)
    desk.post(f"/cases/{ids[3]}/reveal")
    assert not FORBIDDEN_WORDS.search(desk.get(f"/cases/{ids[3]}").text)


def test_the_reading_room_imports_no_torch_and_no_orchestration() -> None:
    code = (
        "import sys, json, pipeline.web.app; "
        "print(json.dumps([m for m in ('torch', 'monai', 'mlflow', 'prefect') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert json.loads(done.stdout) == []
