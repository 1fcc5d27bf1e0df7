from __future__ import annotations

import logging
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from pydicom import Dataset, dcmread

from flows.bootstrap import House
from flows.service_commands import room
from pipeline.domain.study import Verdict
from pipeline.errors import HaltPipeline, RetryLater
from pipeline.settings import read_settings
from pipeline.store import conservation
from pipeline.store.blobs import BlobStore
from pipeline.web import hardening, related_parts, stow
from tests.dicom_files import STUDY, small_slice
from tests.door_house import door_house, ledger
from tests.live_room import BEARER, TOKEN, live_room, web_client
from tests.reading_room_cases import visitor

RELATED = 'multipart/related; type="application/dicom"; boundary=b1'
OTHER = "1.2.3.99"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with door_house(tmp_path, door_token=TOKEN) as opened:
        yield opened


@pytest.fixture
def address(house: House) -> Iterator[str]:
    with live_room(house) as found:
        yield found


def series(slices: int = 16, **changes: Any) -> list[bytes]:
    return [small_slice(number, slices=slices, **changes) for number in range(1, slices + 1)]


def body(*files: bytes, end: bytes = b"\r\n--b1--\r\n") -> bytes:
    head = b"\r\n--b1\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + data for data in files) + end


def post(address: str, content: Any, *, study: str = "", kind: str = RELATED, **headers: str) -> httpx.Response:
    path = f"/dicom-web/studies{study and '/' + study}"
    return httpx.post(address + path, content=content, headers=BEARER | {"Content-Type": kind} | headers, timeout=30)


def verdicts(house: House) -> list[str]:
    return [line.verdict for line in ledger(house)]


def left_over(house: House) -> list[str]:
    """Files that somebody is still writing, by name or open without one."""
    home, found = house.settings.home, []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    unnamed = [name for name in found if name.startswith(str(home)) and "deleted" in name]
    return [*unnamed, *(path.name for path in (home / "blobs" / "incoming").iterdir())]


def references(answer: httpx.Response, sequence: str) -> list[Dataset]:
    return list(Dataset.from_json(answer.json()).get(sequence, []))


def test_a_series_sent_by_a_dicomweb_client_is_in_the_ledger_once_and_whole(house: House, address: str) -> None:
    files = series()
    with web_client(address) as client:
        told = client.store_instances([dcmread(BytesIO(data)) for data in files], study_instance_uid=STUDY)
        assert [one.ReferencedSOPInstanceUID for one in told.ReferencedSOPSequence] == [
            f"{STUDY}.5.{number}" for number in range(1, 17)
        ]
        assert "FailedSOPSequence" not in told
        assert verdicts(house) == [Verdict.ACCEPTED] * 16
        client.store_instances([dcmread(BytesIO(data)) for data in files])
    assert verdicts(house) == [Verdict.ACCEPTED] * 16 + [Verdict.DUPLICATE] * 16
    assert {line.source for line in ledger(house)} == {"stow"}
    with house.database.read() as connection:
        assert conservation.unaccounted(connection) == conservation.lost_bytes(connection, house.blobs) == []


def test_bytes_arrive_as_they_were_sent(house: House, address: str) -> None:
    files = series(3)
    assert post(address, body(*files)).status_code == 200
    assert [house.blobs.read(line.sha256) for line in ledger(house)] == files


@pytest.mark.parametrize("step", [7, 1000])
def test_a_body_may_come_in_pieces_of_any_size(house: House, address: str, step: int) -> None:
    content, sent = body(*series(2)), series(2)
    assert post(address, (content[at : at + step] for at in range(0, len(content), step))).status_code == 200
    assert [house.blobs.read(line.sha256) for line in ledger(house)] == sent


def test_a_part_that_is_no_dicom_is_kept_and_reported(house: House, address: str) -> None:
    answer = post(address, body(small_slice(1), b"not DICOM at all", small_slice(2)))
    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/dicom+json")
    assert len(references(answer, "ReferencedSOPSequence")) == 2
    assert [one.FailureReason for one in references(answer, "OtherFailuresSequence")] == [stow.NOT_UNDERSTOOD]
    assert verdicts(house) == [Verdict.ACCEPTED, Verdict.QUARANTINED, Verdict.ACCEPTED]
    assert house.blobs.read(ledger(house)[1].sha256) == b"not DICOM at all"


def test_an_instance_in_quarantine_is_stored_with_a_warning(house: House, address: str) -> None:
    whole = small_slice(1)
    answer = post(address, body(whole[: len(whole) // 2], small_slice(2)))
    assert answer.status_code == 202
    found = references(answer, "ReferencedSOPSequence")
    assert [one.get("WarningReason") for one in found] == [stow.KEPT_APART, None]
    assert verdicts(house) == [Verdict.QUARANTINED, Verdict.ACCEPTED]


def test_nothing_stored_as_asked_is_a_conflict_and_still_kept(house: House, address: str) -> None:
    assert post(address, body(b"rubbish")).status_code == 409
    assert verdicts(house) == [Verdict.QUARANTINED]


def test_an_instance_of_another_study_is_reported_and_kept_in_its_own(house: House, address: str) -> None:
    answer = post(address, body(small_slice(1), small_slice(1, study=OTHER)), study=STUDY)
    assert answer.status_code == 202
    (wrong,) = references(answer, "FailedSOPSequence")
    assert (wrong.ReferencedSOPInstanceUID, wrong.FailureReason) == (f"{OTHER}.5.1", stow.OTHER_STUDY)
    assert verdicts(house) == [Verdict.ACCEPTED] * 2
    assert post(address, body(small_slice(2, study=OTHER)), study=STUDY).status_code == 409


def test_a_full_disk_answers_503_and_says_what_was_stored_until_then(
    house: House, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file, calls = BlobStore.put_file, iter(range(10))

    def full(self: BlobStore, source: Any) -> Any:
        if next(calls) >= 2:
            raise RetryLater("the disk of the image store is nearly full")
        return put_file(self, source)

    monkeypatch.setattr(BlobStore, "put_file", full)
    answer = post(address, body(*series(4)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    stored = [one.ReferencedSOPInstanceUID for one in references(answer, "ReferencedSOPSequence")]
    assert stored == [line.sop_instance_uid for line in ledger(house)] == [f"{STUDY}.5.1", f"{STUDY}.5.2"]


def test_a_disk_that_refuses_from_the_start_confirms_nothing(house: House, tmp_path: Path) -> None:
    house.database.close()
    with door_house(tmp_path / "full", door_token=TOKEN) as other:
        object.__setattr__(other.blobs, "_reserve_bytes", 1 << 62)
        with live_room(other) as address, web_client(address) as client:
            with pytest.raises(requests.HTTPError, match="503"):
                client.store_instances([dcmread(BytesIO(small_slice(1)))])
            assert ledger(other) == []


def test_a_part_that_cannot_be_put_by_answers_503(house: House, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(BytesIO):
        def write(self, _: Any, /) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(related_parts.RelatedParts, "_new_part", lambda _: Full())
    answer = post(address, body(small_slice(1)))
    assert answer.status_code == 503
    assert (answer.json().get("00081199"), ledger(house)) == (None, [])


@pytest.mark.parametrize("token", ["x", TOKEN[:-1], TOKEN + "x", "Ä" * 40])
def test_a_wrong_token_opens_nothing(house: House, address: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    answer = httpx.post(f"{address}/dicom-web/studies", content=body(small_slice(1)), headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert ledger(house) == []


def test_where_no_token_was_agreed_there_is_no_door(tmp_path: Path) -> None:
    with door_house(tmp_path) as house, live_room(house) as address:
        answer = post(address, body(small_slice(1)))
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert ledger(house) == []


def test_a_short_token_is_refused_at_the_start(tmp_path: Path) -> None:
    with door_house(tmp_path, door_token="k" * 31) as house, pytest.raises(HaltPipeline, match="DOOR_TOKEN") as told:
        room(house)
    assert "k" * 31 not in str(told.value)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/dicom", 415),
        ("multipart/form-data; boundary=b1", 415),
        ('multipart/related; type="application/dicom+json"; boundary=b1', 415),
        ('multipart/related; type="application/dicom"', 400),
        (f'multipart/related; type="application/dicom"; boundary={"x" * 257}', 400),
        ('multipart/related; type="application/dicom"; boundary=other', 400),
        ("", 415),
    ],
)
def test_other_kinds_of_bodies_are_refused(house: House, address: str, kind: str, status: int) -> None:
    assert post(address, body(small_slice(1)), kind=kind).status_code == status
    assert ledger(house) == []


@pytest.mark.parametrize("content", [b"", b"--b1--\r\n", b"rubbish" * 100])
def test_a_body_without_parts_is_refused(house: House, address: str, content: bytes) -> None:
    assert post(address, content).status_code == 400
    assert ledger(house) == []


def test_parts_with_endless_headers_are_refused(house: House, address: str) -> None:
    content = b"--b1\r\nX: " + b"a" * (1 << 20)
    assert post(address, content).status_code == 400


def endless(megabytes: int) -> Iterator[bytes]:
    yield b"\r\n--b1\r\nContent-Type: application/dicom\r\n\r\n"
    chunk = b"\0" * (1 << 20)
    for _ in range(megabytes):
        yield chunk


@pytest.mark.parametrize("limit", ["delivery", "part"])
def test_a_body_beyond_the_limit_costs_no_memory_and_leaves_nothing(
    house: House, address: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    if limit == "part":
        monkeypatch.setattr(related_parts, "LARGEST_PART", 32 << 20)
    else:
        monkeypatch.setattr(stow, "LARGEST_DELIVERY", 32 << 20)
    tracemalloc.start()
    try:
        answer = post(address, endless(200))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 413
    assert peak < 24 << 20
    assert (ledger(house), left_over(house)) == ([], [])


def test_an_announced_size_beyond_the_limit_is_refused_before_anything_is_read(
    house: House, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "LARGEST_DELIVERY", 1000)
    monkeypatch.setattr(stow, "RelatedParts", None)
    assert post(address, body(small_slice(1))).status_code == 413


def test_too_many_parts_are_refused_and_those_before_are_kept(
    house: House, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(related_parts, "MOST_PARTS", 2)
    assert post(address, body(*series(4))).status_code == 413
    assert verdicts(house) == [Verdict.ACCEPTED] * 2


def test_only_a_known_sender_may_send_more_than_a_form(house: House, address: str) -> None:
    large = "x" * (2 * hardening.LARGEST_BODY)
    assert httpx.post(f"{address}/dicom-web/workitems", content=large, headers=BEARER).status_code == 413
    assert httpx.post(f"{address}/sign-in", data={"name": large}).status_code in {400, 413}
    assert post(address, body(large.encode())).status_code == 409
    assert len(ledger(house)) == 1


def test_a_sender_that_drops_leaves_what_was_whole_unconfirmed_and_nothing_else(house: House, address: str) -> None:
    content = body(small_slice(1), b"\0" * (8 << 20), end=b"")
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as line:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        line.sendall(f"{head}Content-Type: {RELATED}\r\nContent-Length: {len(content) * 2}\r\n\r\n".encode() + content)
        deadline = time.monotonic() + 10
        while not ledger(house) and time.monotonic() < deadline:
            time.sleep(0.02)
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            line.recv(1)
    while left_over(house) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (verdicts(house), left_over(house)) == ([Verdict.ACCEPTED], [])
    assert post(address, body(*series(2))).status_code == 200
    assert verdicts(house) == [Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.ACCEPTED]


def test_senders_beyond_the_seats_are_asked_to_come_again(house: House, tmp_path: Path) -> None:
    app = room(house)
    door = app.state.room.door
    while door.senders.acquire(blocking=False):
        pass
    answer = visitor(app).client.post(
        "/dicom-web/studies", content=body(small_slice(1)), headers=BEARER | {"Content-Type": RELATED}
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert ledger(house) == []


def test_nothing_about_a_person_is_answered_or_logged(
    house: House, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    whole = small_slice(1, PatientName="Canary^Carla", PatientID="CANARY-1")
    answer = post(address, body(whole, whole[: len(whole) // 2], b"CANARY-1"), study=OTHER)
    assert "canary" not in (answer.text + caplog.text).lower()


def test_a_token_is_never_shown(house: House) -> None:
    app = room(house)
    assert TOKEN not in repr(app.state.room.door) + repr(house.settings)


def test_the_token_is_read_from_a_secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secondread_door_token").write_text(f"{TOKEN}\n")
    monkeypatch.setattr("pipeline.settings.SECRETS", tmp_path)
    found = read_settings().door_token
    assert found is not None
    assert found.get_secret_value() == TOKEN
