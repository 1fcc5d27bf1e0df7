from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI

from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Reason, Route
from pipeline.protocol import Reading, SecondReads
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database, open_database
from tests.integration.test_authorisation import endpoints
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
    protocol,
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
    spelt |= {str(p) for p in PLANTED} | {RELEASE[:12]}
    found = re.findall(r"\d+\.\d+", text)
    return sorted({word for word in spelt if word in found} | {word for word in (RELEASE[:12],) if word in text})


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
        own = {path.replace(case_id, "ID"): masked(text) for path, text in texts.items() if case_id in path}
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


SAME_FOR_EVERY_CASE = {"/api/openapi.json", "/api/docs"}  #: the interface's description names routes and reasons
STREAM = "/worklist/events"  #: it never ends, and says that something changed and never what
HOLES = {"index": "0", "k": "0", "kind": "SALIENCY", "prior": "0" * 32, "account_id": "0" * 32}
FIGURES = {"lena"}  #: whose pages speak of audit reads as such


def every_answer(app: FastAPI, desk: Desk, case_id: str) -> dict[str, str]:
    """What every endpoint of the application that can be asked tells this person, headers and objects too."""
    templates = {route.path for route in endpoints(app.routes) if "GET" in route.methods}
    assert len(templates) > 30
    paths = {}
    for template in templates - SAME_FOR_EVERY_CASE - {STREAM}:
        path = template.replace("{case_id}", case_id)
        for name, value in HOLES.items():
            path = path.replace("{" + name + "}", value)
        paths[template] = path
    for show in ("mine", "specialty", "all", "done", "unread"):
        paths |= {f"{path} {show}": f"{path}?show={show}" for path in ("/worklist", "/worklist/lines", "/api/worklist")}
    answers = {template: desk.get(path) for template, path in paths.items()}
    answers["search"] = desk.post("/worklist/search", text="ACC-1")
    answers["search of programs"] = desk.send("/api/worklist/search", text="ACC-1")
    return {
        template: f"{answer.status_code}\n{dict(answer.headers)}\n{answer.content.decode('latin-1')}"
        for template, answer in answers.items()
    }


def told_too_much(text: str) -> list[str]:
    """What a text tells of the model's answer, of an audit read or of a second read."""
    return numbers_in(text) + re.findall(r"ROUTINE|CONFIDENT_ABSENCE|No priority flag|audit|second read", text)


SECOND = Reading(second_reads=SecondReads(share=1.0))


def test_no_endpoint_tells_anybody_the_answer_before_their_own_reveal(
    app: FastAPI, database: Database, blobs: BlobStore
) -> None:
    app.state.room.protocols["brain-tumour-mr"] = protocol().model_copy(update={"reading": SECOND})
    case_id = add_case(database, blobs, AUDIT)
    roles = {"ann": "reader", "ben": "reader", "cleo": "adjudicator", "vera": "viewer", "lena": "lead"}
    desks = {name: seat(app, database, name, role=role) for name, role in roles.items()}
    steps = (
        ("ann", "claim", {}),
        ("ann", "commit", {"fence": 1, "finding": "tumour", "certainty": 4}),
        ("ann", "reveal", {}),
        ("ann", "compare", {"agreement": "amend", "amended_to": "no_tumour"}),
        ("ben", "claim", {}),
        ("ben", "commit", {"fence": 2, "finding": "no_tumour", "certainty": 4}),
        ("cleo", "claim", {}),
        ("cleo", "commit", {"fence": 3, "finding": "no_tumour", "certainty": 4}),
    )
    revealed: set[str] = set()
    for who, step, fields in steps:
        assert desks[who].post(f"/cases/{case_id}/{step}", **fields).status_code == 303, (who, step)
        revealed |= {who} if step == "reveal" else set()
        blind = {} if step == "claim" and who != "cleo" else {name: desks[name] for name in desks.keys() - revealed}
        for name, desk in blind.items():
            for path, text in every_answer(app, desk, case_id).items():
                told = numbers_in(text) if name in FIGURES else told_too_much(text)
                assert told == [], (who, step, name, path)
    assert told_too_much(every_answer(app, desks["ann"], case_id)["/cases/{case_id}"]) != []  # the search has teeth


def test_an_audit_read_and_a_second_read_look_like_any_other(migrated_sqlite: Path, tmp_path: Path) -> None:
    """Three houses with one open case each, the same to the minute; what people are shown is the same text."""
    made = {name: a_house(migrated_sqlite, tmp_path / name, name) for name in ("ordinary", "audit", "second")}
    for path in made["ordinary"]:
        for other in ("audit", "second"):
            assert made[other][path] == made["ordinary"][path], (other, path)


def a_house(empty: Path, folder: Path, kind: str) -> dict[str, str]:
    folder.mkdir()
    shutil.copy(empty, folder / "room.db")
    database, blobs, clock = open_database(f"sqlite:///{folder / 'room.db'}"), BlobStore(folder / "blobs"), Clock()
    with Sandbox() as sandbox:
        app = make_room(database, blobs, sandbox, clock)
        app.state.room.protocols["brain-tumour-mr"] = protocol().model_copy(update={"reading": SECOND})
        roles = {"ben": "reader", "cleo": "adjudicator", "vera": "viewer"}
        desks = {name: seat(app, database, name, role=role) for name, role in roles.items()}
        case_id = an_open_case(app, database, blobs, clock, kind)
        shown = {}
        for step in ("before", "claim"):
            if step == "claim":
                assert desks["ben"].post(f"/cases/{case_id}/claim").status_code == 303
            for name, desk in desks.items():
                texts = every_answer(app, desk, case_id)
                shown |= {
                    f"{name} {step} {path}": masked(text.replace(case_id, "ID").replace(case_id[:8], "ID"))
                    for path, text in texts.items()
                }
    database.close()
    return shown


def an_open_case(app: FastAPI, database: Database, blobs: BlobStore, clock: Clock, kind: str) -> str:
    """A case on the list for half an hour and due in three and a half, which somebody has opened and left: to read on."""
    times = {"age": timedelta(minutes=30), "wait": timedelta(hours=4)}
    case_id = add_case(database, blobs, replace(AUDIT if kind == "audit" else Wanted(), **times), now=clock())  # type: ignore[arg-type]
    ann = seat(app, database, "ann")
    ann.post(f"/cases/{case_id}/claim")
    read = {"finding": "tumour", "certainty": 4} if kind == "second" else {}
    step = "commit" if kind == "second" else "release"
    assert ann.post(f"/cases/{case_id}/{step}", fence=1, **read).status_code == 303
    return case_id


def masked(text: str) -> str:
    """A text without ids, tokens, UIDs and the digests that rest on them."""
    text = re.sub(r"\b[12]\.[0-9.]{8,}", "UID", text)
    return re.sub(r"[\w-]{32,}", "ID", text)


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
