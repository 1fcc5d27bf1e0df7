from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import Response

from pipeline import claiming
from pipeline.dicom.sandbox import Sandbox
from pipeline.errors import RetryLater
from pipeline.store import idempotency_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.web import hardening
from pipeline.web.etags import tag_of_case
from tests.reading_room_cases import ORIGIN, PLANTED, Clock, Desk, Wanted, add_case, make_room, seat, visitor

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, sandbox: Sandbox, clock: Clock) -> FastAPI:
    return make_room(database, blobs, sandbox, clock)


@pytest.fixture
def desk(app: FastAPI, database: Database) -> Desk:
    return seat(app, database)


@pytest.fixture
def case_id(database: Database, blobs: BlobStore) -> str:
    return add_case(database, blobs, Wanted())


def send(desk: Desk, path: str, content: Any, *, key: str | None = None, **headers: str) -> Response:
    own = {"Origin": ORIGIN, "X-CSRF-Token": desk.token, "Content-Type": "application/json"}
    if key is not None:
        own["Idempotency-Key"] = key
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return desk.client.post(path, content=body, headers=own | {n.replace("_", "-"): v for n, v in headers.items()})


def test_a_read_goes_from_claim_to_comparison(desk: Desk, case_id: str) -> None:
    path = f"/api/cases/{case_id}"
    held = send(desk, "/api/claim", {}).json()
    assert (held["case_id"], held["fence"]) == (case_id, 1)
    assert send(desk, "/api/claim", {}).status_code == 404
    assert send(desk, f"{path}/extend", {"fence": 1}).status_code == 200
    assert desk.get(path).json()["answer"] is None
    assert send(desk, f"{path}/commit", {"fence": 1, "finding": "tumour", "certainty": 3}).status_code == 201
    assert not any(str(number) in desk.get(path).text for number in PLANTED)
    revealed = send(desk, f"{path}/reveal", {}).json()
    assert (revealed["answer"]["route"], revealed["read"]["finding"]) == ("REVIEW", "tumour")
    assert send(desk, f"{path}/compare", {"agreement": "agree"}).status_code == 204
    assert desk.get(path).json()["read"]["agreement"] == "agree"


def test_who_is_signed_in_learns_what_the_role_allows(app: FastAPI, database: Database, desk: Desk) -> None:
    told = desk.get("/api/session").json()
    assert (told["name"], told["csrf_token"]) == ("dr.okafor", desk.token)
    assert "read" in told["may"]
    assert "manage_people" not in told["may"]
    assert seat(app, database, "carol", role="admin").get("/api/session").json()["may"] == [
        "see_figures",
        "stop",
        "manage_people",
        "break_glass",
    ]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nowhere", 404),
        ("GET", "/api/cases/" + "0" * 32, 404),
        ("GET", "/api/cases/not-an-id", 422),
        ("GET", "/api/cases/0%00", 422),
        ("GET", "/api/session?x=%00", 422),
        ("DELETE", "/api/session", 405),
        ("TRACE", "/api/session", 405),
    ],
)
def test_every_refusal_is_a_problem(desk: Desk, method: str, path: str, status: int) -> None:
    answer = desk.client.request(method, path, headers={"Origin": ORIGIN, "X-CSRF-Token": desk.token})
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert set(answer.json()) >= {"type", "title", "status", "detail"}
    assert answer.json()["status"] == status
    if status == 405:
        assert answer.headers["allow"] == "GET"


def test_a_session_that_is_missing_is_a_problem_too(app: FastAPI) -> None:
    answer = visitor(app).get("/api/session")
    assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM)


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b'{"fence": -1}', 422, "/fence"),
        (b'{"fence": 2147483648}', 422, "/fence"),
        (b'{"fence": 9999999999999999999999}', 422, "/fence"),
        (b'{"fence": "MRN-4711"}', 422, "/fence"),
        (b'{"fence": 1, "MRN-4711": 2}', 422, ""),
        (b'{"fence": 1, "fence": 1}', 422, None),
        (b'{"fence": NaN}', 422, None),
        (b'{"fence": "\\u0000MRN-4711"}', 422, "/fence"),
        (b"{}", 422, "/fence"),
        (b"[]", 422, ""),
        (b"", 422, ""),
        (b"{MRN-4711", 422, None),
        (b"\xff", 400, None),
        (b"[" * 30_000, 400, None),
        (b'{"fence": 1}' + b" " * hardening.LARGEST_BODY, 413, None),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_by_its_field_and_never_repeated(
    desk: Desk, case_id: str, body: bytes, status: int, pointer: str | None
) -> None:
    answer = send(desk, f"/api/cases/{case_id}/extend", body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert answer.json().get("pointer") == pointer
    assert "MRN-4711" not in answer.text


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", ""])
def test_a_body_of_another_kind_is_refused(desk: Desk, case_id: str, content_type: str) -> None:
    answer = send(desk, f"/api/cases/{case_id}/extend", b'{"fence": 1}', Content_Type=content_type)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)


def test_a_form_with_a_nul_is_refused_and_writes_nothing(desk: Desk, case_id: str) -> None:
    desk.post(f"/cases/{case_id}/claim")
    sent = {"fence": 1, "finding": "tumour", "certainty": 3}
    assert desk.post(f"/cases/{case_id}/commit", comment="a\0b", **sent).status_code == 422
    assert desk.post(f"/cases/{case_id}/commit", comment="ab", **sent).is_redirect


def test_an_unexpected_failure_is_a_problem_without_insides(
    desk: Desk, case_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("MRN-4711")

    monkeypatch.setattr("pipeline.review.view_case", broken)
    answer = desk.get(f"/api/cases/{case_id}")
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert "MRN-4711" not in answer.text


def test_the_same_request_under_its_key_is_answered_again_and_done_once(
    desk: Desk, database: Database, blobs: BlobStore, case_id: str
) -> None:
    second = add_case(database, blobs, Wanted())
    first = send(desk, "/api/claim", {}, key="k1")
    again = send(desk, "/api/claim", {}, key="k1")
    assert (again.status_code, again.json()) == (200, first.json())
    assert "idempotency-replayed" not in first.headers
    assert (again.headers["idempotency-replayed"], again.headers["content-type"]) == ("true", "application/json")
    assert send(desk, "/api/claim", {}, key="k2").json()["case_id"] in {case_id, second} - {first.json()["case_id"]}


def test_a_commit_that_is_repeated_after_a_lost_answer_tells_the_same_read(desk: Desk, case_id: str) -> None:
    send(desk, "/api/claim", {})
    sent = {"fence": 1, "finding": "tumour", "certainty": 3}
    path = f"/api/cases/{case_id}"
    tag = desk.get(path).headers["etag"]
    first = send(desk, f"{path}/commit", sent, key="k", If_Match=tag)
    again = send(desk, f"{path}/commit", sent, key="k", If_Match=tag)
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert send(desk, f"{path}/commit", sent).status_code == 403


def test_an_answer_without_a_body_is_answered_again_too(desk: Desk, case_id: str) -> None:
    send(desk, "/api/claim", {})
    path = f"/api/cases/{case_id}/release"
    assert send(desk, path, {"fence": 1}, key="k").status_code == 204
    again = send(desk, path, {"fence": 1}, key="k")
    assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (204, b"", "true")


@pytest.mark.parametrize("other", ["body", "path", "query"])
def test_a_key_is_refused_for_another_request(desk: Desk, database: Database, blobs: BlobStore, other: str) -> None:
    first, second = (add_case(database, blobs, Wanted()) for _ in range(2))
    for case in (first, second):
        send(desk, "/api/claim", {"case_id": case})
    assert send(desk, f"/api/cases/{first}/extend", {"fence": 1}, key="k").status_code == 200
    path, sent = {
        "body": (f"/api/cases/{first}/extend", {"fence": 2}),
        "path": (f"/api/cases/{second}/extend", {"fence": 1}),
        "query": (f"/api/cases/{first}/extend?x=1", {"fence": 1}),
    }[other]
    answer = send(desk, path, sent, key="k")
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert "another request" in answer.json()["detail"]


def test_keys_of_two_accounts_do_not_meet(app: FastAPI, database: Database, blobs: BlobStore, desk: Desk) -> None:
    cases = {add_case(database, blobs, Wanted()) for _ in range(2)}
    other = seat(app, database, "dr.weiss")
    taken = {send(who, "/api/claim", {}, key="k").json()["case_id"] for who in (desk, other)}
    assert taken == cases


def test_a_refused_request_frees_its_key(desk: Desk, case_id: str) -> None:
    path = f"/api/cases/{case_id}/extend"
    assert send(desk, path, {"fence": 1}, key="k").status_code == 409
    send(desk, "/api/claim", {})
    assert send(desk, path, {"fence": 1}, key="k").status_code == 200


def test_a_failure_of_ours_frees_its_key(desk: Desk, case_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("inside")

    with monkeypatch.context() as patch:
        patch.setattr(claiming, "claim_case", broken)
        assert send(desk, "/api/claim", {"case_id": case_id}, key="k").status_code == 500
    assert send(desk, "/api/claim", {"case_id": case_id}, key="k").status_code == 200


def test_a_request_of_another_page_takes_no_key_and_gets_no_answer_again(desk: Desk, case_id: str) -> None:
    assert send(desk, "/api/claim", {}, key="k", Origin="http://evil.example").status_code == 403
    assert send(desk, "/api/claim", {}, key="k").status_code == 200
    assert send(desk, "/api/claim", {}, key="k", Origin="http://evil.example").status_code == 403


def test_a_key_of_the_wrong_form_is_refused(desk: Desk, case_id: str) -> None:
    for key in ("", " ", "a b", "ä", "x" * 256, "\t"):
        own = {"Origin": ORIGIN, "X-CSRF-Token": desk.token, "Idempotency-Key": key.encode()}
        assert desk.client.post("/api/claim", json={}, headers=own).status_code == 422, key
    assert send(desk, "/api/claim", {}, key="x" * 255).status_code == 200


def test_two_that_arrive_at_once_are_carried_out_once(
    app: FastAPI, database: Database, blobs: BlobStore, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        add_case(database, blobs, Wanted())
    inside, go_on = threading.Event(), threading.Event()
    real = claiming.claim_next

    def slow(*given: Any, **named: Any) -> Any:
        inside.set()
        assert go_on.wait(20)
        return real(*given, **named)

    monkeypatch.setattr(claiming, "claim_next", slow)
    answers: list[Response] = []
    thread = threading.Thread(target=lambda: answers.append(send(desk, "/api/claim", {}, key="k")))
    thread.start()
    assert inside.wait(20)
    second = replace(desk, client=visitor(app).client)
    second.client.cookies = desk.client.cookies
    meanwhile = send(second, "/api/claim", {}, key="k")
    go_on.set()
    thread.join(20)
    assert (meanwhile.status_code, meanwhile.headers["retry-after"]) == (409, "1")
    again = send(second, "/api/claim", {}, key="k")
    assert (again.json(), again.headers["idempotency-replayed"]) == (answers[0].json(), "true")
    with database.read() as connection:
        assert (
            connection.exec_driver_sql("SELECT count(*) FROM worklist_item WHERE state = 'IN_PROGRESS'").scalar() == 1
        )


def test_a_process_that_died_before_it_kept_the_answer_does_no_second_harm(
    desk: Desk, clock: Clock, case_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise RetryLater("the database is away")

    sent = {"fence": 1, "finding": "tumour", "certainty": 3}
    path = f"/api/cases/{case_id}/commit"
    send(desk, "/api/claim", {})
    with monkeypatch.context() as patch:
        patch.setattr(idempotency_rows, "finish", away)
        assert send(desk, path, sent, key="k").status_code == 201
    early = send(desk, path, sent, key="k")
    assert (early.status_code, early.json()["detail"][:16]) == (409, "the same request")
    clock.advance(seconds=61)
    late = send(desk, path, sent, key="k")
    assert (late.status_code, late.json()["detail"][:24]) == (403, "you have read this case;")
    assert desk.get(f"/api/cases/{case_id}").json()["read"]["finding"] == "tumour"


def test_a_role_that_was_taken_away_gets_no_answer_again(
    app: FastAPI, database: Database, desk: Desk, case_id: str
) -> None:
    assert send(desk, "/api/claim", {}, key="k").status_code == 200
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE account SET role = 'viewer' WHERE name = 'dr.okafor'")
    assert send(desk, "/api/claim", {}, key="k").status_code == 422


def test_a_case_that_is_known_is_not_sent_again(app: FastAPI, database: Database, desk: Desk, case_id: str) -> None:
    path = f"/api/cases/{case_id}"
    first = desk.get(path)
    tag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    known = desk.client.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    send(desk, "/api/claim", {})
    changed = desk.client.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert seat(app, database, "dr.weiss").client.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_the_tag_moves_at_claim_commit_reveal_and_comparison_and_not_when_the_hold_is_lengthened(
    desk: Desk, clock: Clock, case_id: str
) -> None:
    path = f"/api/cases/{case_id}"
    steps: list[tuple[str, Any]] = [
        ("/api/claim", {}),
        (f"{path}/commit", {"fence": 1, "finding": "tumour", "certainty": 3}),
        (f"{path}/reveal", {}),
        (f"{path}/compare", {"agreement": "agree"}),
    ]
    tags = [desk.get(path).headers["etag"]]
    for step, sent in steps:
        send(desk, step, sent)
        tags.append(desk.get(path).headers["etag"])
        if step == "/api/claim":
            clock.advance(minutes=1)
            send(desk, f"{path}/extend", {"fence": 1})
            assert desk.get(path).headers["etag"] == tags[-1]
    assert len(set(tags)) == len(tags)


def test_the_tag_of_a_case_is_made_of_nothing_but_what_is_told(desk: Desk, case_id: str) -> None:
    path = f"/api/cases/{case_id}"
    for step, sent in (
        ("/api/claim", {}),
        (f"{path}/commit", {"fence": 1, "finding": "tumour", "certainty": 3}),
        (f"{path}/reveal", {}),
    ):
        assert desk.get(path).headers["etag"] == tag_of_case(desk.get(path).json())
        send(desk, step, sent)
    assert desk.get(path).headers["etag"] == tag_of_case(desk.get(path).json())


def test_a_request_about_an_older_view_is_refused_with_the_present_tag(
    app: FastAPI, database: Database, desk: Desk, case_id: str
) -> None:
    path = f"/api/cases/{case_id}"
    old = desk.get(path).headers["etag"]
    send(desk, "/api/claim", {})
    refused = send(desk, f"{path}/release", {"fence": 1}, If_Match=old)
    present = desk.get(path).headers["etag"]
    assert (refused.status_code, refused.headers["content-type"], refused.headers["etag"]) == (412, PROBLEM, present)
    assert send(desk, f"{path}/extend", {"fence": 7}, If_Match=present).status_code == 409
    assert send(desk, f"{path}/extend", {"fence": 1}, If_Match=f"W/{present}").status_code == 412
    assert send(desk, "/api/claim", {}, If_Match=present).status_code == 412
    assert send(desk, f"{path}/extend", {"fence": 1}, If_Match="*").status_code == 200
    assert send(desk, f"{path}/release", {"fence": 1}, If_Match=present).status_code == 204


def test_who_may_not_see_a_case_learns_nothing_from_its_tag(app: FastAPI, database: Database, case_id: str) -> None:
    admin = seat(app, database, "carol", role="admin")
    for tag in ('"x"', "*"):
        answer = send(admin, f"/api/cases/{case_id}/extend", {"fence": 1}, If_Match=tag)
        assert answer.status_code == 403
        assert "etag" not in answer.headers


def test_a_secret_is_told_once_and_kept_nowhere(app: FastAPI, database: Database) -> None:
    admin = seat(app, database, "carol", role="admin")
    sent = {"name": "dr.new", "role": "viewer"}
    first = send(admin, "/api/people", sent, key="k")
    again = send(admin, "/api/people", sent, key="k")
    assert (first.status_code, again.status_code) == (201, 409)
    assert "told only once" in again.json()["detail"]
    with database.read() as connection:
        kept = connection.exec_driver_sql("SELECT status, body FROM idempotent_answer").all()
        people = connection.exec_driver_sql("SELECT count(*) FROM account WHERE name = 'dr.new'").scalar()
    assert [tuple(row) for row in kept] == [(201, None)]
    assert people == 1


def test_a_read_that_was_refused_is_kept_in_its_draft(desk: Desk, clock: Clock, case_id: str) -> None:
    send(desk, "/api/claim", {})
    begun = {"fence": 1, "draft": {"finding": "tumour", "comment": "one sentence"}}
    own = {"Origin": ORIGIN, "X-CSRF-Token": desk.token}
    assert desk.client.put(f"/api/cases/{case_id}/draft", json=begun, headers=own).status_code == 200
    for minutes in (10, 6):  # longer than the hold, and never idle for as long as a session lasts
        clock.advance(minutes=minutes)
        desk.get("/api/session")
    sent = {"fence": 1, "finding": "tumour", "certainty": 3, "comment": "three sentences of thought"}
    assert send(desk, f"/api/cases/{case_id}/commit", sent).status_code == 409
    assert desk.get(f"/api/cases/{case_id}/draft").json()["draft"]["comment"] == "three sentences of thought"


def test_programs_get_the_very_values_of_the_images(desk: Desk, case_id: str) -> None:
    (series,) = desk.get(f"/api/cases/{case_id}/series").json()["series"]
    assert (series["words"], series["images"], series["chosen"]) == ("3: AX T1", 3, True)
    about = desk.get(f"/api/cases/{case_id}/series/0").json()
    assert (about["depth"], about["height"], about["width"]) == (3, 16, 16)
    raw = desk.get(f"/api/cases/{case_id}/series/0/pixels").content
    assert len(raw) == 2 * 3 * 16 * 16
    last = desk.get(f"/api/cases/{case_id}/series/0/pixels?from=2&to=3").content
    assert last == raw[-2 * 16 * 16 :]
