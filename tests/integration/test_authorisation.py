from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute
from httpx import Response
from starlette.routing import BaseRoute, Mount

from pipeline.dicom.sandbox import Sandbox
from pipeline.store import account_rows, session_rows, token_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.token_rows import Scope
from pipeline.web import access
from pipeline.web.door import Door
from pipeline.web.hardening import LARGEST_BODY
from pipeline.web.room import Room, RoomKeys
from tests.reading_room_cases import ORIGIN, Clock, Wanted, add_account, add_case, make_room, seat, visitor

TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("authorisation.yaml").read_text())
OPEN = {tuple(route.split()) for route in TABLE["open"]}
FOR_SYSTEMS = {tuple(route.split()) for route in TABLE["systems"]}
STREAMS = {tuple(route.split()) for route in TABLE["streams"]}
NEEDS: dict[tuple[str, str], str] = {
    (route.split()[0], route.split()[1]): what for route, what in TABLE["needs"].items()
}
PEOPLE = ("viewer", "reader", "adjudicator", "lead", "data_scientist", "admin")
SERVICES = {"worklist token": Scope.WORKLIST, "figures token": Scope.FIGURES, "revoked token": Scope.WORKLIST}
REFUSALS = re.compile("|".join(re.escape(said[1:]) for said in access._REFUSALS.values()))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, clock, keys=RoomKeys(sealing=b"s" * 32))


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
    return [route for route in routes(app) if route not in FOR_SYSTEMS | OPEN]


def filled(path: str, case_id: str, account_id: str = "0") -> str:
    values = {"case_id": case_id, "index": "0", "study": "1.2.3", "item": f"2.25.{int(case_id, 16)}", "k": "0"}
    for name, value in (values | {"account_id": account_id, "token_id": "0", "prior": "0", "kind": "saliency"}).items():
        path = path.replace("{" + name + "}", value)
    assert "{" not in path, path
    return path


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Somebody who asks, with a session or token made anew for each request."""

    app: FastAPI
    database: Database
    kind: str
    account_id: str

    def ask(self, method: str, path: str) -> Response:
        desk, headers = visitor(self.app), {"Origin": ORIGIN}
        room: Room = self.app.state.room
        if self.kind in SERVICES:
            return desk.client.request(method, path, headers=headers | self._token(), json={})
        if self.kind != "anonymous":
            began = room.now() - (room.idle if self.kind == "expired" else timedelta(0))
            with self.database.transaction() as connection:
                value = session_rows.open_session(connection, account_id=self.account_id, now=began)
            desk.client.cookies.set(room.cookie_name, value)
            with self.database.read() as connection:
                found = session_rows.find_session(
                    connection, token=value, now=room.now(), idle=room.idle, absolute=room.absolute
                )
            headers["X-CSRF-Token"] = "" if found is None else found.csrf_token
        body: dict[str, Any] = {"json": {}} if path.startswith("/api/") else {"data": {}}
        return desk.client.request(method, path, headers=headers, **body)

    def _token(self) -> dict[str, str]:
        now = self.app.state.room.now()
        with self.database.transaction() as connection:
            token_id, value = token_rows.issue(
                connection,
                account_id=self.account_id,
                label="test",
                scopes=[SERVICES[self.kind]],
                life=timedelta(days=1),
                made_by=None,
                now=now,
            )
            if self.kind == "revoked token":
                token_rows.revoke(connection, account_id=self.account_id, token_id=token_id, now=now)
        return {"Authorization": f"Bearer {value}"}


def make_caller(app: FastAPI, database: Database, kind: str) -> Caller:
    role = "service" if kind in SERVICES else kind if kind in PEOPLE else "lead"
    account_id = add_account(database, f"the {kind}", role=role)
    if kind == "disabled":
        with database.transaction() as connection:
            account_rows.disable_account(connection, name=f"the {kind}")
    return Caller(app=app, database=database, kind=kind, account_id=account_id)


def outcome(answer: Response) -> str:
    """closed, forbidden or in; what the room says about this very case or form counts as in."""
    if answer.status_code == 401 or answer.headers.get("location") == "/sign-in":
        return "closed"
    if answer.status_code == 403 and REFUSALS.search(html.unescape(answer.text)):
        return "forbidden"
    assert answer.status_code < 500, answer.text
    assert "not sent from its own page" not in answer.text
    return "in"


def expected(kind: str, method: str, path: str) -> str:
    may: list[str] = TABLE["callers"][kind]
    if not may or (kind in SERVICES and not path.startswith("/api/")):
        return "closed"
    if (method, path) in SIGNS_OUT:
        return "closed"  # the session is over, and the sign-in page is where one goes
    return "in" if NEEDS[method, path] in may else "forbidden"


SIGNS_OUT = {("POST", "/sign-out"), ("POST", "/account/sign-out-everywhere")}


def test_every_route_has_its_line_and_every_line_its_route(app: FastAPI) -> None:
    found = routes(app)
    assert len(set(found)) == len(found), "one method and path leads to two endpoints"
    lines = [*OPEN, *FOR_SYSTEMS, *NEEDS]
    assert len(set(lines)) == len(lines)
    assert set(found) == set(lines)
    assert set(NEEDS.values()) <= {what for able in TABLE["callers"].values() for what in able}
    assert set(NEEDS) >= STREAMS


@pytest.mark.parametrize("kind", TABLE["callers"])
def test_who_may_ask_what_is_what_the_table_says(app: FastAPI, database: Database, blobs: BlobStore, kind: str) -> None:
    case_id = add_case(database, blobs, Wanted())
    spare = add_account(database, "somebody", role="viewer")
    caller = make_caller(app, database, kind)
    wrong = []
    for method, template in for_people(app):
        wanted = expected(kind, method, template)
        if (method, template) in STREAMS and wanted == "in":
            continue
        answer = caller.ask(method, filled(template, case_id, spare))
        if outcome(answer) != wanted:
            wrong.append((method, template, wanted, answer.status_code, answer.text[-200:]))
        if wanted != "in":
            assert "MRN-4711" not in answer.text, template
    assert wrong == []


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
        if method == "GET":
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


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "get"])
def test_another_method_opens_nothing(app: FastAPI, database: Database, blobs: BlobStore, method: str) -> None:
    case_id = add_case(database, blobs, Wanted())
    for path in ("/worklist", f"/cases/{case_id}", f"/api/cases/{case_id}", "/people", "/api/people"):
        answer = visitor(app).client.request(method, path)
        assert answer.status_code in {303, 401, 404, 405}, path
        assert "MRN-4711" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"X-HTTP-Method-Override": "GET"},
        {"X-HTTP-Method": "DELETE"},
        {"X-Original-URL": "/sign-in"},
        {"X-Rewrite-URL": "/live"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Prefix": "/static"},
        {"X-Forwarded-User": "the lead"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "host=evil.example;proto=https"},
        {"Remote-User": "the lead"},
    ],
    ids=str,
)
def test_no_header_that_a_proxy_might_set_opens_or_changes_anything(
    app: FastAPI, database: Database, headers: dict[str, str]
) -> None:
    stranger, viewer = visitor(app), seat(app, database, "dr.look", role="viewer")
    for path in ("/worklist", "/people", "/api/session"):
        answer = stranger.client.get(path, headers=headers)
        assert answer.status_code in {303, 401}
        assert "evil" not in answer.headers.get("location", "")
    own = {"Origin": ORIGIN, "X-CSRF-Token": viewer.token}
    assert viewer.client.post("/worklist/next", headers=own | headers).status_code == 403
    assert viewer.client.get("/people", headers=headers).status_code == 403
    forged = {"Origin": "http://evil.example", "X-CSRF-Token": viewer.token}
    assert viewer.client.post("/sign-out", headers=forged | headers).status_code == 403


@pytest.mark.parametrize("path", ["/worklist", "/sign-in", "/live", "/ready", "/static/room.css", "/nowhere", "/api/x"])
def test_every_answer_carries_the_security_headers(app: FastAPI, path: str) -> None:
    headers = visitor(app).get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")
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
