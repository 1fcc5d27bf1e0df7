"""Requests that were made to break something: each is refused in words, and none gets at an inside."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
from fastapi import FastAPI

from flows import service_commands
from flows.bootstrap import House
from pipeline import review
from pipeline.dicom.sandbox import Sandbox
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from tests.reading_room_cases import ORIGIN, Clock, Desk, make_room, seat

LONG_AGO, FAR_AHEAD = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"
TODAY = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def app(database: Database, tmp_path: Path) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, BlobStore(tmp_path / "blobs"), sandbox, Clock())


@pytest.fixture
def lead(app: FastAPI, database: Database) -> Desk:
    return seat(app, database, role="lead")


@pytest.mark.parametrize("path", ["/cases/abc", "/api/cases/abc"])
def test_what_nobody_expected_to_fail_is_answered_with_every_header_and_told_without_its_text(
    lead: Desk, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = mock.patch.object(review, "view_case", side_effect=ValueError("bad value 'Doe^Jane' MRN-4711"))
    with broken, caplog.at_level(logging.DEBUG):
        answer = lead.get(path)
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "omething failed on our side" in answer.text
    assert "unexpected ValueError" in caplog.text
    for seen in (answer.text, caplog.text):
        assert "Doe" not in seen
        assert "Traceback" not in seen


def test_nothing_that_failed_unexpectedly_goes_on_to_the_server(lead: Desk) -> None:
    outermost: list[Exception] = []
    inner = lead.client.app

    async def server(scope: Any, receive: Any, send: Any) -> None:
        try:
            await cast("FastAPI", inner)(scope, receive, send)
        except Exception as error:
            outermost.append(error)
            raise

    lead.client._transport.app = server  # type: ignore[attr-defined]
    with mock.patch.object(review, "view_case", side_effect=ValueError("Doe^Jane")):
        assert lead.get("/cases/abc").status_code == 500
    assert outermost == []


def test_the_server_writes_its_log_through_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("uvicorn.run", lambda _, **options: asked.update(options))
    monkeypatch.setattr(service_commands, "room", lambda _: None)
    service_commands.open_room(cast("House", SimpleNamespace()), host="127.0.0.1", port=0)
    assert asked["log_config"] is None
    assert asked["access_log"] is False


@pytest.mark.parametrize(
    "place",
    [
        [LONG_AGO, "a"],
        [FAR_AHEAD, "a"],
        [True, 1, LONG_AGO, "a"],
        [True, 1, FAR_AHEAD, "a"],
        [TODAY, "a\0b"],
        [True, 1, TODAY, "a\0b"],
        [TODAY, "a" * 33],
        [TODAY, ""],
        [TODAY, "a\n"],
        [TODAY, "' OR 1"],
    ],
    ids=str,
)
@pytest.mark.parametrize("show", ["all", "done", "unread"])
def test_a_cursor_that_was_not_made_here_is_refused(lead: Desk, place: list[object], show: str) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")
    assert lead.get(f"/api/worklist?show={show}&after={cursor}").status_code == 422


@pytest.mark.parametrize("moment", [LONG_AGO, FAR_AHEAD, "1969-12-31T23:59:59Z"])
def test_a_moment_that_is_none_in_some_time_zone_is_refused(lead: Desk, moment: str) -> None:
    assert lead.client.get("/api/agreement", params={"since": moment}).status_code == 422
    assert lead.client.get("/api/agreement", params={"since": "1970-01-01T00:00:00Z"}).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.api+json", "application/X+JSON; charset=utf-8"])
@pytest.mark.parametrize(
    "body", [b'{"reason": "a long reason \\u0000b"}', b'{"reason": "a long reason", "reason": "b"}']
)
def test_a_body_is_looked_at_whatever_kind_of_json_it_is_called(lead: Desk, kind: str, body: bytes) -> None:
    headers = {"Origin": ORIGIN, "X-CSRF-Token": lead.token, "Content-Type": kind}
    refused = lead.client.post("/api/stop", content=body, headers=headers)
    assert refused.status_code == 422
    assert "NUL" in refused.json()["detail"] or "twice" in refused.json()["detail"]


def test_an_origin_that_is_no_address_is_refused_to_a_session_too(lead: Desk) -> None:
    headers = {"Origin": "http://[", "X-CSRF-Token": lead.token}
    assert lead.client.post("/api/claim", json={}, headers=headers).status_code == 403
