from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI

from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Reason
from pipeline.domain.study import Completeness
from pipeline.domain.volume import Volume
from pipeline.errors import RetryLater
from pipeline.store import audit_rows, worklist_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from tests.reading_room_cases import NOW, Clock, Desk, Wanted, add_case, make_room, mr_series, seat, visitor


class CountedSandbox(Sandbox):
    """A sandbox that counts how often it reads."""

    reads = 0

    def read_series(self, paths: Sequence[Path], digests: Sequence[str]) -> Volume:
        self.reads += 1
        return super().read_series(paths, digests)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[CountedSandbox]:
    with CountedSandbox() as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, sandbox: CountedSandbox, clock: Clock) -> FastAPI:
    return make_room(database, blobs, sandbox, clock)


@pytest.fixture
def desk(app: FastAPI, database: Database) -> Desk:
    return seat(app, database)


def test_the_worklist_tells_due_wait_reasons_and_holder(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk
) -> None:
    late = Wanted(age=timedelta(hours=4, minutes=12), reasons=(Reason.INCOMPLETE,), item_reasons=(Reason.INCOMPLETE,))
    add_case(database, blobs, late, files=mr_series(name="Roe^Rita"))
    held = add_case(database, blobs, Wanted())
    seat(app, database, "dr.weiss").post(f"/cases/{held}/claim")
    page = desk.get("/worklist?show=all").text
    for words in ("overdue 12 min", "4 h 12 min", "Images are missing", "Roe, Rita", "Being read by dr.weiss"):
        assert words in page
    assert "in 3 h 30 min" in page
    assert page.index("Roe, Rita") < page.index("Doe, Jane")


@pytest.mark.parametrize("show", ["mine", "specialty", "all", "done", "unread"])
def test_an_empty_worklist_says_so(desk: Desk, show: str) -> None:
    page = desk.get(f"/worklist?show={show}")
    assert page.status_code == 200
    assert "empty-title" in page.text


def test_take_next_opens_the_most_pressing_case_or_says_that_none_waits(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    add_case(database, blobs, Wanted())
    pressing = add_case(database, blobs, replace(Wanted(), age=timedelta(hours=3)))
    assert desk.post("/worklist/next").headers["location"] == f"/cases/{pressing}"
    desk.post("/worklist/next")
    last = desk.post("/worklist/next").headers["location"]
    assert "Nothing is waiting for you to take" in desk.get(last).text


def test_a_case_is_read_committed_revealed_and_compared(database: Database, blobs: BlobStore, desk: Desk) -> None:
    case_id = add_case(database, blobs, Wanted())
    path = f"/cases/{case_id}"
    assert "Claim and read" in desk.get(path).text
    assert desk.post(f"{path}/claim").status_code == 303
    form = desk.get(path).text
    assert "Cannot be read because" in form
    assert "Does this brain MR study show a tumour?" in form
    assert desk.post(f"{path}/commit", fence=1, finding="tumour", certainty=4, comment="clear <b>edge</b>").is_redirect
    committed = desk.get(path).text
    assert "Your read is committed" in committed
    assert "clear &lt;b&gt;edge&lt;/b&gt;" in committed
    assert desk.post(f"{path}/reveal").is_redirect
    revealed = desk.get(path).text
    assert "What the model said" in revealed
    assert "networks among each other" in revealed
    assert "It is" not in revealed
    assert "Certified with confidence 95.0 % that at most 8.0 % of studies with the finding" in revealed
    assert desk.post(f"{path}/compare", agreement="amend", amended_to="no_tumour").is_redirect
    assert "You would now read it otherwise" in desk.get(path).text
    assert "Doe, Jane" in desk.get("/worklist?show=done").text
    with database.read() as connection:
        assert audit_rows.verify_chain(connection) == []


def test_where_the_model_gave_no_numbers_nothing_is_there_to_agree_with(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted(answered=False))
    desk.post(f"/cases/{case_id}/claim")
    desk.post(f"/cases/{case_id}/commit", fence=1, finding="tumour", certainty=4)
    desk.post(f"/cases/{case_id}/reveal")
    page = desk.get(f"/cases/{case_id}").text
    assert "The model gave no numbers" in page
    assert "I agree" not in page


def test_the_releases_own_certificate_is_shown_where_it_is_at_hand(
    database: Database, blobs: BlobStore, sandbox: CountedSandbox, clock: Clock
) -> None:
    app = make_room(database, blobs, sandbox, clock, certificates=lambda digest: (f"Sentence of {digest[:4]}.",))
    desk = seat(app, database)
    case_id = add_case(database, blobs, Wanted())
    desk.post(f"/cases/{case_id}/claim")
    desk.post(f"/cases/{case_id}/commit", fence=1, finding="tumour", certainty=4)
    desk.post(f"/cases/{case_id}/reveal")
    assert "Sentence of 9f9f." in desk.get(f"/cases/{case_id}").text


def test_an_expired_claim_answers_409_and_keeps_the_draft(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk, clock: Clock
) -> None:
    case_id = add_case(database, blobs, Wanted())
    path = f"/cases/{case_id}"
    desk.post(f"{path}/claim")
    clock.advance(minutes=10)
    desk.get("/worklist")
    clock.advance(minutes=5)
    draft = {"finding": "tumour", "certainty": "4", "comment": "three sentences of thought"}
    answer = desk.post(f"{path}/commit", fence=1, **draft)
    assert answer.status_code == 409
    assert "your draft is kept" in answer.text
    assert 'name="comment" value="three sentences of thought"' in answer.text
    again = desk.post(f"{path}/claim", **draft)
    assert again.status_code == 200
    assert re.search(r'value="tumour"[^>]*checked', again.text)
    assert re.search(r'name="certainty" value="4"[^>]*checked', again.text)
    assert "three sentences of thought</textarea>" in again.text
    assert desk.post(f"{path}/commit", fence=2, **draft).is_redirect


def test_a_stolen_claim_answers_409_names_the_holder_and_keeps_the_draft(
    app: FastAPI, database: Database, blobs: BlobStore, clock: Clock
) -> None:
    case_id = add_case(database, blobs, Wanted())
    path = f"/cases/{case_id}"
    first, second = seat(app, database), seat(app, database, "dr.weiss")
    first.post(f"{path}/claim")
    clock.advance(minutes=14)
    first.get("/worklist")
    second.get("/worklist")
    clock.advance(minutes=2)
    assert second.post(f"{path}/claim").is_redirect
    answer = first.post(f"{path}/commit", fence=1, finding="tumour", certainty="4", comment="my thoughts")
    assert answer.status_code == 409
    assert "dr.weiss is reading this case" in answer.text
    assert "my thoughts" in answer.text
    assert second.post(f"{path}/commit", fence=2, finding="no_tumour", certainty=3).is_redirect


def test_a_superseded_case_answers_409_and_points_to_the_newer_one(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    files = mr_series(slices=4)
    old = add_case(database, blobs, Wanted(), files=files[:3])
    desk.post(f"/cases/{old}/claim")
    with database.transaction() as connection:
        worklist_rows.cancel_open_items(connection, case_id=old, now=NOW)
    new = add_case(database, blobs, Wanted(), files=files[3:])
    answer = desk.post(f"/cases/{old}/commit", fence=1, finding="tumour", certainty="4", comment="my thoughts")
    assert answer.status_code == 409
    assert f"/cases/{new}" in answer.text
    assert "my thoughts" in answer.text


def test_an_unfinished_read_answers_422_and_keeps_the_draft(database: Database, blobs: BlobStore, desk: Desk) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk.post(f"/cases/{case_id}/claim")
    answer = desk.post(f"/cases/{case_id}/commit", fence=1, finding="cannot_be_read", certainty="5", comment="")
    assert answer.status_code == 422
    assert "Say in the comment why" in answer.text
    assert re.search(r'value="cannot_be_read"[^>]*checked', answer.text)


def test_a_case_given_back_waits_for_the_next_reader(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk.post(f"/cases/{case_id}/claim")
    assert desk.post(f"/cases/{case_id}/release", fence=1).headers["location"] == "/worklist"
    assert seat(app, database, "dr.weiss").post(f"/cases/{case_id}/claim").is_redirect


def test_a_case_decided_without_review_can_be_asked_for(database: Database, blobs: BlobStore, desk: Desk) -> None:
    case_id = add_case(database, blobs, replace(Wanted(), item_reasons=None))
    assert "Ask for a read" in desk.get(f"/cases/{case_id}").text
    assert desk.post(f"/cases/{case_id}/request").is_redirect
    assert "A colleague asked" in desk.get("/worklist?show=all").text


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><b onclick>', "</textarea><b>", "' autofocus '"])
def test_text_from_dicom_is_escaped_everywhere(database: Database, blobs: BlobStore, desk: Desk, hostile: str) -> None:
    wanted = Wanted(
        completeness=Completeness.CONTRADICTED, detail=f"gap {hostile}", problems=((Reason.INCOMPLETE, hostile),)
    )
    case_id = add_case(database, blobs, wanted, files=mr_series(name=hostile))
    for path in ("/worklist?show=all", f"/cases/{case_id}"):
        text = desk.get(path).text
        assert hostile not in text
        assert hostile in html.unescape(text)


def test_text_from_dicom_is_no_template(database: Database, blobs: BlobStore, desk: Desk) -> None:
    case_id = add_case(database, blobs, Wanted(), files=mr_series(name="{{ 7*7 }}"))
    assert "{{ 7*7 }}" in desk.get(f"/cases/{case_id}").text


def test_the_viewer_gets_the_very_values_of_the_images(database: Database, blobs: BlobStore, desk: Desk) -> None:
    case_id = add_case(database, blobs, Wanted())
    (series,) = desk.get(f"/cases/{case_id}/series").json()["series"]
    assert (series["words"], series["images"], series["chosen"]) == ("3: AX T1", 3, True)
    about = desk.get(f"/cases/{case_id}/series/0").json()
    assert (about["depth"], about["height"], about["width"], about["notes"]) == (3, 16, 16, [])
    assert about["edges"] == ["R", "L", "A", "P"]
    assert about["modality"] == "MR"
    raw = desk.get(f"/cases/{case_id}/series/0/pixels").content
    values = np.frombuffer(raw, dtype="<u2").reshape(3, 16, 16)
    intensities = about["slope"] * values + about["intercept"]
    assert intensities[2, 5, 7] == 2057
    assert intensities[0, 15, 0] == 150


def test_pixels_are_decoded_once_for_a_revision(
    database: Database, blobs: BlobStore, desk: Desk, sandbox: CountedSandbox
) -> None:
    case_id = add_case(database, blobs, Wanted())
    before = sandbox.reads
    for path in ("series/0", "series/0/pixels", "series/0/pixels"):
        desk.get(f"/cases/{case_id}/{path}")
    assert sandbox.reads == before + 1


def test_a_series_with_a_gap_is_shown_image_by_image_with_the_reason(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted(), files=mr_series(slices=6, missing=[3]))
    about = desk.get(f"/cases/{case_id}/series/0").json()
    assert about["depth"] == 5
    assert "do not form one volume" in about["notes"][0]
    values = np.frombuffer(desk.get(f"/cases/{case_id}/series/0/pixels").content, dtype="<u2").reshape(5, 16, 16)
    slope, intercept = about["slope"], about["intercept"]
    assert [slope * value + intercept for value in values[:, 0, 0]] == [0, 1000, 2000, 4000, 5000]


def test_changed_bytes_are_never_shown(database: Database, blobs: BlobStore, desk: Desk) -> None:
    files = mr_series()
    case_id = add_case(database, blobs, Wanted(), files=files)
    for data in files[:2]:
        path = blobs.path(blobs.put(data))
        path.write_bytes(data[:-2] + b"\x00\x01")
    about = desk.get(f"/cases/{case_id}/series/0").json()
    assert about["depth"] == 1
    assert "2 of 3 images of this series cannot be shown" in about["notes"][1]
    blobs.path(blobs.put(files[2])).write_bytes(b"")


def test_images_that_cannot_be_read_at_all_leave_an_explanation(
    database: Database, blobs: BlobStore, desk: Desk
) -> None:
    files = mr_series()
    case_id = add_case(database, blobs, Wanted(), files=files)
    for data in files:
        blobs.path(blobs.put(data)).write_bytes(b"rubbish")
    about = desk.get(f"/cases/{case_id}/series/0").json()
    assert about["depth"] == 0
    assert "None of these images can be shown" in about["notes"][0]
    assert desk.get(f"/cases/{case_id}/series/0/pixels").status_code == 404
    assert desk.get(f"/cases/{case_id}").status_code == 200
    assert desk.get(f"/cases/{case_id}/series/7").status_code == 404


def test_a_release_by_a_program_frees_the_case(database: Database, blobs: BlobStore, desk: Desk) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk.send("/api/claim", case_id=case_id)
    assert desk.send(f"/api/cases/{case_id}/release", fence=1).status_code == 204
    assert desk.get("/api/worklist").json()["items"][0]["state"] == "SCHEDULED"


def test_programs_get_no_identity(database: Database, blobs: BlobStore, desk: Desk) -> None:
    case_id = add_case(database, blobs, Wanted())
    for path in ("/api/worklist", f"/api/cases/{case_id}", f"/cases/{case_id}/series"):
        assert not re.search(r"Jane|MRN-4711|ACC-1|19700203", desk.get(path).text), path


def test_nothing_about_a_person_is_logged(
    database: Database, blobs: BlobStore, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    case_id = add_case(database, blobs, Wanted())
    desk.post(f"/cases/{case_id}/claim")
    desk.post(f"/cases/{case_id}/commit", fence=1, finding="tumour", certainty=3, comment="Jane told me MRN-4711")
    desk.get(f"/cases/{case_id}/series/0")
    assert not re.search(r"MRN-4711|ACC-1|Jane", caplog.text)


def test_a_database_that_is_away_answers_503_and_later(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> None:
        raise RetryLater("the database is away")

    monkeypatch.setattr(Database, "read", away)
    desk = visitor(app)
    desk.client.cookies.set("secondread", "x")
    for path in ("/worklist", "/api/worklist", "/ready"):
        answer = desk.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert desk.get("/live").status_code == 200


def test_an_unexpected_failure_tells_its_type_to_the_log_and_nothing_to_the_page(
    app: FastAPI, desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("MRN-4711")

    monkeypatch.setattr("pipeline.claiming.open_worklist", broken)
    answer = desk.get("/worklist")
    assert answer.status_code == 500
    assert "MRN-4711" not in answer.text
    assert "unexpected KeyError" in caplog.text
