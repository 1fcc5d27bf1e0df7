from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.bundle import Bundle

from pipeline.domain.result import Absent
from pipeline.errors import RetryLater
from pipeline.fhir import sending
from pipeline.fhir.bundle import bundle_bytes
from pipeline.fhir.sending import Proof, put_in_folder, put_on_server
from tests.results import NUMBERS, a_read_result, a_result

BASE = "https://fhir.example/r4"
TOKEN = "a-secret-token"
TRIAGE, READ = bundle_bytes(a_result()), bundle_bytes(a_read_result())
SECRETS = re.compile(r"P1|HOSPITAL|A1|secret|fhir\.example|Müller|tumour|iris|left temporal")
Handler = Callable[[httpx.Request], httpx.Response]


class FhirServer:
    """A FHIR server that applies transactions to a dictionary, all of one or nothing."""

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, int] = {}
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return httpx.Response(401)
        place = request.url.path.removeprefix("/r4").strip("/")
        if request.method == "POST" and not place:
            return self._transact(request)
        if place in self.resources:
            return httpx.Response(200, json=self.resources[place])
        return httpx.Response(404, json={"resourceType": "OperationOutcome"})

    def _transact(self, request: httpx.Request) -> httpx.Response:
        bundle = json.loads(request.content)
        Bundle.model_validate(bundle)
        assert (bundle["type"], request.headers["Content-Type"]) == ("transaction", "application/fhir+json")
        wanted = {entry["request"]["url"]: entry["resource"] for entry in bundle["entry"]}
        if any(place != f"{one['resourceType']}/{one['id']}" for place, one in wanted.items()):
            return httpx.Response(400)
        answers = [{"response": {"status": "200 OK" if place in self.resources else "201 Created"}} for place in wanted]
        self.resources |= wanted
        for place in wanted:
            self.versions[place] = self.versions.get(place, 0) + 1
        return httpx.Response(200, json={"resourceType": "Bundle", "type": "transaction-response", "entry": answers})

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [one for place, one in self.resources.items() if place.startswith(f"{kind}/")]


def send(content: bytes, handler: Handler, *, token: str | None = TOKEN, url: str = BASE, seconds: float = 5) -> Proof:
    return put_on_server(url, token, content, seconds, httpx.MockTransport(handler))


def refusal(content: bytes, handler: Handler, **options: Any) -> str:
    """What is said where a server does not take a bundle; never anything about the patient, the server or the token."""
    with pytest.raises(RetryLater) as caught:
        send(content, handler, **options)
    said = f"{caught.value}"
    assert not SECRETS.search(said), said
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert ";" in said
    return said


def test_a_bundle_is_found_again_on_the_server() -> None:
    server = FhirServer()
    proof = send(TRIAGE, server)
    (report,) = server.of_kind("DiagnosticReport")
    assert proof == Proof(
        status="200",
        digest=hashlib.sha256(TRIAGE).hexdigest(),
        read_back=f"DiagnosticReport/{report['id']} preliminary",
    )
    assert [request.method for request in server.requests] == ["GET", "POST", "GET"]
    assert server.requests[1].content == TRIAGE


def test_what_is_sent_twice_is_there_once() -> None:
    server = FhirServer()
    first = send(TRIAGE, server)
    held = json.dumps(server.resources, sort_keys=True)
    assert send(bundle_bytes(a_result()), server) == first
    assert json.dumps(server.resources, sort_keys=True) == held
    assert set(server.versions.values()) == {2}


def test_the_read_makes_the_report_final_and_completes_the_queue_item() -> None:
    server = FhirServer()
    send(TRIAGE, server)
    assert [one["status"] for one in server.of_kind("Task")] == ["requested"]
    before = set(server.resources)
    proof = send(READ, server)
    assert proof.read_back.endswith(" final")
    assert [one["status"] for one in server.of_kind("DiagnosticReport")] == ["final"]
    assert [one["status"] for one in server.of_kind("Task")] == ["completed"]
    assert {one["status"] for one in server.of_kind("Observation")} == {"final"}
    assert sorted(place.partition("/")[0] for place in set(server.resources) - before) == ["Observation", "Provenance"]


def test_a_late_triage_does_not_take_back_a_read() -> None:
    server = FhirServer()
    send(READ, server)
    held = json.dumps(server.resources, sort_keys=True)
    proof = send(TRIAGE, server)
    assert json.dumps(server.resources, sort_keys=True) == held
    assert (proof.status, proof.digest) == (
        "not sent, a verified report stands there",
        hashlib.sha256(TRIAGE).hexdigest(),
    )


def test_revisions_of_a_study_stand_side_by_side() -> None:
    server = FhirServer()
    send(READ, server)
    later = a_result(outbox_id="2" * 32, decision_id="e" * 32, revision=2, predecessors=(("2.25.1", "2.25.2"),))
    send(bundle_bytes(later), server)
    assert sorted(one["status"] for one in server.of_kind("DiagnosticReport")) == ["final", "preliminary"]


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (400, "ids given by the sender"),
        (401, "token"),
        (403, "token"),
        (404, "address"),
        (409, "ids given by the sender"),
        (422, "ids given by the sender"),
        (429, "tried again"),
        (302, "address"),
        (307, "address"),
        (500, "tried again"),
        (503, "tried again"),
    ],
)
def test_a_refusal_says_its_cure_and_nothing_of_what_the_server_said(code: int, cure: str) -> None:
    asked: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        text = "patient P1 of HOSPITAL is unknown"
        return httpx.Response(code, headers={"Location": "https://elsewhere.example/"}, text=text)

    said = refusal(READ, refuse)
    assert str(code) in said
    assert cure in said
    assert asked == [BASE]  # no redirect is followed, nothing is tried twice


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectTimeout,
        httpx.ReadTimeout,
        httpx.ConnectError,
        httpx.ReadError,
        httpx.RemoteProtocolError,
        httpx.UnsupportedProtocol,
    ],
)
def test_a_server_that_is_away_is_tried_later(error: type[httpx.TransportError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error(f"no way to {request.url} for P1")

    assert refusal(TRIAGE, fail)


def test_an_address_that_is_none_is_said_so() -> None:
    assert "address" in refusal(READ, FhirServer(), url="https://secret:secret@fhir.example:port/r4")
    assert "address" in refusal(READ, FhirServer(), url="")


def test_no_log_line_repeats_a_token_a_password_or_a_patient(caplog: pytest.LogCaptureFixture) -> None:
    server = FhirServer()
    with caplog.at_level("DEBUG"):
        send(READ, server)
        assert "password" in refusal(READ, server, url="https://user:secret@fhir.example/r4")
    assert len(server.requests) == 2
    assert "HTTP Request" in caplog.text
    assert not SECRETS.search(caplog.text.replace("fhir.example", ""))


@pytest.mark.parametrize("token", ["secret\nX: y", "sécret", "secret\x00"])
def test_a_token_that_is_no_line_is_not_sent(token: str) -> None:
    server = FhirServer()
    assert "token" in refusal(READ, server, token=token)
    assert server.requests == []


def test_a_wrong_token_is_said_so_and_none_is_sent_where_there_is_none() -> None:
    server = FhirServer()
    assert "401" in refusal(READ, server, token="another-secret")
    assert "401" in refusal(READ, server, token=None)
    assert "Authorization" not in server.requests[-1].headers
    assert server.resources == {}


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>sign in</html>", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"resourceType":"DiagnosticReport"}'],
)
def test_an_answer_that_is_no_report_proves_nothing(body: bytes) -> None:
    server = FhirServer()

    def answer(request: httpx.Request) -> httpx.Response:
        return server(request) if request.method == "POST" else httpx.Response(200, content=body)

    assert refusal(READ, answer)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "preliminary"},
        {"identifier": []},
        {"identifier": None},
        {"identifier": ["x"]},
        {"identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2"}]},
    ],
)
def test_another_report_in_its_place_proves_nothing(change: dict[str, Any]) -> None:
    server = FhirServer()

    def answer(request: httpx.Request) -> httpx.Response:
        found = server(request)
        return found if request.method == "POST" else httpx.Response(200, json=found.json() | change)

    assert "another report" in refusal(READ, answer)


def test_a_server_that_forgets_proves_nothing() -> None:
    def forget(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.method == "POST" else 404)

    assert "404" in refusal(READ, forget)


def test_a_transaction_that_was_taken_in_part_is_not_proven() -> None:
    server = FhirServer()

    def answer(request: httpx.Request) -> httpx.Response:
        found = server(request)
        if request.method != "POST":
            return found
        content = found.json()
        content["entry"][3]["response"]["status"] = "422 Unprocessable Entity"
        return httpx.Response(200, json=content)

    assert "a part" in refusal(READ, answer)


@pytest.mark.parametrize("body", [b"", b'{"resourceType":"OperationOutcome"}'])
def test_a_short_answer_to_the_transaction_is_enough_where_the_report_is_found(body: bytes) -> None:
    server = FhirServer()

    def answer(request: httpx.Request) -> httpx.Response:
        found = server(request)
        return httpx.Response(200, content=body) if request.method == "POST" else found

    assert send(READ, answer).read_back.endswith(" final")


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"entry":[]}', b'{"entry":[{"resource":{}}]}', b"\xff"])
def test_bytes_that_are_no_bundle_go_nowhere(content: bytes, tmp_path: Path) -> None:
    server = FhirServer()
    with pytest.raises(ValueError, match="no bundle of a result"):
        send(content, server)
    with pytest.raises(ValueError, match="no bundle of a result"):
        put_in_folder(tmp_path, content)
    assert (server.requests, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "x" * 65, ""])
def test_a_foreign_id_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no id of ours"):
        put_in_folder(tmp_path, json.dumps(json.loads(TRIAGE) | {"id": name}).encode())


class Trickle(BaseHTTPRequestHandler):
    """A server whose answer never ends."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            return

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        return


@pytest.fixture
def trickling() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/r4"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_answer_that_does_not_end_is_not_waited_for(trickling: str) -> None:
    began = time.monotonic()
    with pytest.raises(RetryLater, match="does not end"):
        put_on_server(trickling, None, READ, 0.5)
    assert time.monotonic() - began < 5


def test_an_answer_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_LONGEST_ANSWER", 1000)
    assert "does not end" in refusal(READ, lambda _: httpx.Response(200, content=b" " * 2000))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_is_written_under_its_own_id_and_read_back(tmp_path: Path) -> None:
    proof = put_in_folder(tmp_path, TRIAGE)
    digest = hashlib.sha256(TRIAGE).hexdigest()
    assert proof == Proof(status="written", digest=digest, read_back=digest)
    assert names(tmp_path) == [f"{json.loads(TRIAGE)['id']}.json"]
    assert next(tmp_path.iterdir()).read_bytes() == TRIAGE


def test_what_is_written_twice_is_one_file(tmp_path: Path) -> None:
    assert put_in_folder(tmp_path, TRIAGE) == put_in_folder(tmp_path, TRIAGE)
    assert len(names(tmp_path)) == 1


def test_triage_and_read_are_two_files_and_late_triage_is_not_written(tmp_path: Path) -> None:
    put_in_folder(tmp_path, TRIAGE)
    put_in_folder(tmp_path, READ)
    assert len(names(tmp_path)) == 2
    triage, read = (json.loads(content)["id"] for content in (TRIAGE, READ))
    (tmp_path / f"{triage}.json").unlink()
    late = put_in_folder(tmp_path, TRIAGE)
    assert (late.status, late.read_back) == ("not written, the verified one is there", read)
    assert names(tmp_path) == [f"{read}.json"]


@pytest.mark.parametrize("call", ["open", "fsync", "rename"])
@pytest.mark.parametrize("held", [False, True])
def test_a_fault_on_the_way_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, held: bool
) -> None:
    if held:
        put_in_folder(tmp_path, TRIAGE)
    before = names(tmp_path)

    def fail(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device", "/secret/P1")

    with monkeypatch.context() as planted:
        planted.setattr(os, call, fail)
        with pytest.raises(RetryLater) as caught:
            put_in_folder(tmp_path, TRIAGE)
    assert "No space left on device" in str(caught.value)
    assert not SECRETS.search(str(caught.value))
    assert names(tmp_path) == before
    assert put_in_folder(tmp_path, TRIAGE).status == "written"


class Killed(BaseException):
    """As if the process had been killed."""


def test_a_sender_killed_before_the_rename_leaves_no_bundle_and_the_next_one_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as planted:
        planted.setattr(os, "rename", die)
        planted.setattr(Path, "unlink", lambda *args, **options: None)  # the dead clean nothing up
        with pytest.raises(Killed):
            put_in_folder(tmp_path, TRIAGE)
    (left,) = names(tmp_path)
    assert left.startswith(".")
    assert left.endswith(".partial")
    put_in_folder(tmp_path, TRIAGE)
    assert names(tmp_path) == [f"{json.loads(TRIAGE)['id']}.json"]


def test_the_order_of_one_write_is_file_rename_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112
        fsync(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        assert source.read_bytes() == TRIAGE
        assert source.parent == target.parent
        order.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    put_in_folder(tmp_path, TRIAGE)
    assert order == ["file", "rename", "folder"]


def test_a_receiver_may_take_the_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def take(source: Path, target: Path) -> None:
        rename(source, target)
        target.unlink()

    monkeypatch.setattr(os, "rename", take)
    assert put_in_folder(tmp_path, TRIAGE).read_back == "taken by the receiver"


def test_other_bytes_found_in_the_folder_prove_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def spoil(source: Path, target: Path) -> None:
        rename(source, target)
        target.write_bytes(TRIAGE[:-2])

    monkeypatch.setattr(os, "rename", spoil)
    with pytest.raises(RetryLater, match="other bytes"):
        put_in_folder(tmp_path, TRIAGE)


def test_a_folder_that_is_away_is_tried_later(tmp_path: Path) -> None:
    with pytest.raises(RetryLater, match="make or mend the folder"):
        put_in_folder(tmp_path / "share", TRIAGE)
    assert names(tmp_path) == []


def test_a_withheld_result_says_nothing_on_its_way_either(tmp_path: Path) -> None:
    secret = replace(NUMBERS, probability=0.61737)

    content = bundle_bytes(a_result(numbers=secret, absent=Absent.WITHHELD))
    put_in_folder(tmp_path, content)
    server = FhirServer()
    send(content, server)
    assert "61737" not in next(tmp_path.iterdir()).read_text()
    assert "61737" not in json.dumps(server.resources)
