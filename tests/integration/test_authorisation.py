from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount

from pipeline.dicom.sandbox import Sandbox
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.web.door import Door
from pipeline.web.hardening import LARGEST_BODY
from tests.reading_room_cases import ORIGIN, Clock, Wanted, add_case, make_room, seat, visitor

OPEN = {"/sign-in", "/live", "/ready"}
DOOR = "/dicom-web/"  # other systems come in there with a token and never with a session
FOR_SYSTEMS = {
    ("POST", "/dicom-web/studies"),
    ("POST", "/dicom-web/studies/{study}"),
    ("GET", "/dicom-web/workitems"),
    ("POST", "/dicom-web/workitems"),
    ("GET", "/dicom-web/workitems/{item}"),
    ("PUT", "/dicom-web/workitems/{item}/state"),
    ("POST", "/dicom-web/workitems/{item}/cancelrequest"),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, clock)


def endpoints(routes: Sequence[BaseRoute]) -> Iterator[APIRoute]:
    """Every endpoint, also of routers that were included; nothing else but the static files may be there."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from endpoints(included.routes)
        elif isinstance(route, Mount):
            assert route.path == "/static"
        else:
            assert isinstance(route, APIRoute), f"{route} is neither an endpoint nor the static files"
            yield route


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path template of the application."""
    found = [(method, route.path) for route in endpoints(app.routes) for method in sorted(route.methods)]
    assert len(found) > 20
    return found


def for_people(app: FastAPI) -> list[tuple[str, str]]:
    """Those of them that a session opens."""
    return [(method, path) for method, path in routes(app) if not path.startswith(DOOR)]


def filled(path: str, case_id: str) -> str:
    for name, value in {"case_id": case_id, "index": "0", "study": "1.2.3", "item": f"2.25.{int(case_id, 16)}"}.items():
        path = path.replace("{" + name + "}", value)
    return path


def test_without_a_session_every_route_but_the_open_ones_is_closed(
    app: FastAPI, database: Database, blobs: BlobStore
) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk = visitor(app)
    for method, template in for_people(app):
        if template in OPEN:
            continue
        answer = desk.client.request(method, filled(template, case_id), headers={"Origin": ORIGIN})
        if template.startswith("/api/"):
            assert answer.status_code == 401, template
            assert answer.headers["content-type"] == "application/problem+json"
        else:
            assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in"), template
        assert "MRN-4711" not in answer.text


def test_what_other_systems_may_ask_is_what_this_table_says(app: FastAPI) -> None:
    assert {route for route in routes(app) if route[1].startswith(DOOR)} == FOR_SYSTEMS


@pytest.mark.parametrize("agreed", [False, True])
def test_a_session_of_whatever_role_opens_nothing_that_is_for_systems(
    app: FastAPI, database: Database, blobs: BlobStore, agreed: bool
) -> None:
    case_id = add_case(database, blobs, Wanted())
    if agreed:
        with_door = Door(token="t" * 32, pseudonym_key=b"k" * 32, sandbox=app.state.room.shelf._sandbox)
        app.state.room = replace(app.state.room, door=with_door)
    desk = seat(app, database, "dr.lead", role="lead")
    own = {"Origin": ORIGIN, "X-CSRF-Token": desk.token}
    for method, template in FOR_SYSTEMS:
        for shown in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {desk.token}"},
                      {"Authorization": "Basic " + "t" * 32}, {"Authorization": "t" * 32}):  # fmt: skip
            answer = desk.client.request(method, filled(template, case_id), headers=own | shown)
            assert answer.status_code == (401 if agreed else 404), (method, template, shown)
            assert answer.headers["content-type"] == "application/problem+json"
            assert "MRN-4711" not in answer.text


def test_the_token_of_systems_opens_nothing_that_is_for_people(
    app: FastAPI, database: Database, blobs: BlobStore
) -> None:
    case_id = add_case(database, blobs, Wanted())
    with_door = Door(token="t" * 32, pseudonym_key=b"k" * 32, sandbox=app.state.room.shelf._sandbox)
    app.state.room = replace(app.state.room, door=with_door)
    headers = {"Authorization": "Bearer " + "t" * 32, "Origin": ORIGIN}
    for method, template in for_people(app):
        if template not in OPEN:
            answer = visitor(app).client.request(method, filled(template, case_id), headers=headers)
            assert answer.status_code in {303, 401}, template


@pytest.mark.parametrize("value", ["", "x", "0" * 43])
def test_an_invented_cookie_opens_nothing(app: FastAPI, value: str) -> None:
    desk = visitor(app)
    desk.client.cookies.set("secondread", value)
    assert desk.get("/worklist").status_code == 303


def test_every_unsafe_route_needs_token_and_own_origin(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk = seat(app, database)
    for method, template in for_people(app):
        if method == "GET" or template in OPEN:
            continue
        path = filled(template, case_id)
        own = {"Origin": ORIGIN, "X-CSRF-Token": desk.token}
        for headers in (
            {"Origin": ORIGIN},
            {"Origin": ORIGIN, "X-CSRF-Token": desk.token[:-1]},
            own | {"Origin": "http://evil.example"},
            own | {"Origin": "null"},
            own | {"Origin": "http://localhost:81"},
            {"X-CSRF-Token": desk.token},
        ):
            assert desk.client.request(method, path, headers=headers).status_code == 403, (template, headers)
    assert desk.get("/worklist").status_code == 200


def test_a_referer_of_our_own_stands_in_for_an_absent_origin(app: FastAPI, database: Database) -> None:
    desk = seat(app, database)
    headers = {"Referer": f"{ORIGIN}/worklist", "X-CSRF-Token": desk.token}
    assert desk.client.post("/worklist/next", headers=headers).status_code == 303


def test_a_viewer_may_look_everywhere_and_change_nothing(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk = seat(app, database, "dr.look", role="viewer")
    for method, template in for_people(app):
        path = filled(template, case_id)
        if template in {*OPEN, "/sign-out"}:
            continue
        if method == "GET":
            assert desk.get(path).status_code in {200, 303}, template
        else:
            headers = {"Origin": ORIGIN, "X-CSRF-Token": desk.token}
            assert desk.client.request(method, path, headers=headers, json={}).status_code == 403, template


def test_a_reader_may_not_claim_for_another_specialty(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted(specialty="general_radiology"))
    desk = seat(app, database)
    assert desk.post(f"/cases/{case_id}/claim").status_code == 403
    assert desk.send("/api/claim", case_id=case_id).status_code == 403
    assert seat(app, database, "dr.lead", role="lead").post(f"/cases/{case_id}/claim").status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "evil.example/api", ""])
def test_a_poisoned_host_reaches_no_endpoint(app: FastAPI, database: Database, host: str) -> None:
    desk = seat(app, database)
    assert desk.client.get("/worklist", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    "path", ["//worklist", "/worklist/", "/static/../worklist", "/%2e%2e/worklist", "/live/../worklist", "/worklist%00"]
)
def test_spelling_a_path_otherwise_opens_nothing(app: FastAPI, path: str) -> None:
    answer = visitor(app).get(path)
    assert answer.status_code in {303, 307, 404}
    assert "Worklist</h1>" not in answer.text


@pytest.mark.parametrize("path", ["/worklist", "/sign-in", "/live", "/ready", "/static/room.css", "/nowhere", "/api/x"])
def test_every_answer_carries_the_security_headers(app: FastAPI, path: str) -> None:
    headers = visitor(app).get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"


def test_pages_hold_no_inline_script_or_style(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    desk = seat(app, database)
    for path in ("/sign-in", "/worklist", f"/cases/{case_id}"):
        text = desk.get(path).text
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", text), path
        assert not re.search(r"(src|href)=\"(?!/)", text.replace('href="#main"', "")), path


def test_a_body_above_the_limit_is_refused_before_it_is_read(app: FastAPI, database: Database) -> None:
    desk = seat(app, database)
    assert desk.post("/worklist/next", comment="x" * LARGEST_BODY).status_code == 413


def test_health_tells_nothing_about_cases(app: FastAPI, database: Database, blobs: BlobStore) -> None:
    add_case(database, blobs, Wanted())
    assert visitor(app).get("/live").json() == {"live": True}
    assert visitor(app).get("/ready").json() == {"ready": True}


def test_errors_tell_no_insides(app: FastAPI, database: Database) -> None:
    desk = seat(app, database)
    for path in ("/cases/" + "0" * 32, "/cases/..%2f..%2fetc", "/worklist?show=everything", "/api/cases/zz"):
        answer = desk.get(path)
        assert answer.status_code in {404, 422}
        assert not re.search(r"Traceback|sqlalchemy|pydantic|everything|etc/", answer.text), path


def test_a_short_session_key_is_refused(database: Database, blobs: BlobStore, clock: Clock) -> None:
    with pytest.raises(ValueError, match="32 bytes"), Sandbox() as sandbox:
        make_room(database, blobs, sandbox, clock, session_key=b"short")
