from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    MRImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from flows.bootstrap import House
from flows.reception import Reception
from pipeline.dicom.receiver import file_meta
from pipeline.errors import RetryLater
from pipeline.store import conservation
from tests.dicom_files import small_slice
from tests.door_house import door_house, ledger, open_door

# pynetdicom's own client leaves the socket of a refused association to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with door_house(tmp_path) as opened:
        yield opened


@pytest.fixture
def door(house: House) -> Iterator[Reception]:
    with open_door(house) as opened:
        yield opened


def sender(title: str = "SENDER", **timeouts: float) -> AE:
    entity = AE(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeouts.get("seconds", 20)
    return entity


def associated(door: Reception, *, title: str = "SENDER", called: str = "SECONDREAD", contexts: Any = None) -> Any:
    wanted = contexts or [build_context(MRImageStorage), build_context(Verification)]
    return sender(title).associate("127.0.0.1", door.port, contexts=wanted, ae_title=called)


def is_taken(door: Reception, *, title: str = "SENDER") -> bool:
    """Whether an association of that title is accepted; it is ended either way."""
    association = associated(door, title=title)
    taken = bool(association.is_established)
    association.release() if taken else association.abort()
    return taken


def send(association: Any, *files: bytes) -> list[int]:
    return [association.send_c_store(dcmread(BytesIO(data))).Status for data in files]


def echo(door: Reception) -> int:
    association = associated(door)
    assert association.is_established
    status = association.send_c_echo().Status
    association.release()
    return int(status)


def test_success_is_answered_when_bytes_and_row_are_there(house: House, door: Reception) -> None:
    association = associated(door)
    assert send(association, small_slice(1), small_slice(2)) == [0x0000, 0x0000]
    association.release()
    assert [row.verdict for row in ledger(house)] == ["accepted", "accepted"]
    assert {row.source for row in ledger(house)} == {"receiver:SENDER"}
    with house.database.read() as connection:
        assert conservation.lost_bytes(connection, house.blobs) == []


def test_an_object_sent_twice_and_found_in_a_folder_is_one_instance(house: House, door: Reception, tmp_path) -> None:
    from flows.receiving import take_file_in

    association = associated(door)
    send(association, small_slice(1))
    association.release()
    again = associated(door, contexts=[build_context(MRImageStorage, "1.2.840.10008.1.2")])
    assert send(again, small_slice(1, syntax=ImplicitVRLittleEndian)) == [0x0000]
    again.release()
    (tmp_path / "same.dcm").write_bytes(small_slice(1))
    take_file_in(house, tmp_path / "same.dcm", source="folder")
    assert [row.verdict for row in ledger(house)] == ["accepted", "duplicate", "duplicate"]
    assert len({row.sha256 for row in ledger(house)}) > 1, "the wrapping differs, so this test can fail"


def test_other_pixels_under_a_known_uid_are_a_conflict(house: House, door: Reception) -> None:
    other = dcmread(BytesIO(small_slice(1)))
    other.PixelData = other.PixelData[::-1]
    association = associated(door)
    send(association, small_slice(1))
    assert association.send_c_store(other).Status == 0x0000, "kept, so confirmed"
    association.release()
    assert [row.reason for row in ledger(house)] == [None, "conflicting_duplicate"]


@pytest.mark.parametrize("who", [{"title": "STRANGER"}, {"called": "SOMEBODY"}])
def test_an_unknown_caller_or_called_title_is_refused(house: House, door: Reception, who: dict[str, str]) -> None:
    association = associated(door, **who)
    assert association.is_rejected
    assert ledger(house) == []


def test_a_known_title_from_another_address_is_refused(tmp_path: Path) -> None:
    peers = [
        {"ae_title": "SENDER", "addresses": ["192.0.2.0/24"]},
        {"ae_title": "ORTHANC", "addresses": ["127.0.0.1"]},
    ]
    with door_house(tmp_path, hospital={"reception": {"port": 0, "peers": peers}}) as house, open_door(house) as door:
        assert associated(door).is_rejected
        assert is_taken(door, title="ORTHANC")


def test_an_address_of_no_peer_gets_no_association_at_all(tmp_path: Path) -> None:
    peers = [{"ae_title": "SENDER", "addresses": ["192.0.2.7"]}]
    with door_house(tmp_path, hospital={"reception": {"port": 0, "peers": peers}}) as house, open_door(house) as door:
        assert not is_taken(door)


def test_what_cannot_be_stored_now_is_refused_so_that_the_sender_keeps_it(
    house: House, door: Reception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RetryLater("the disk is full")

    association = associated(door)
    with monkeypatch.context() as patched:
        patched.setattr(house.blobs, "put_file", full)
        assert send(association, small_slice(1)) == [0xA700]
    assert ledger(house) == []
    assert send(association, small_slice(1)) == [0x0000]
    association.release()


def test_a_nearly_full_disk_refuses_and_deletes_nothing(tmp_path: Path) -> None:
    with door_house(tmp_path) as house, open_door(house) as door:
        association = associated(door)
        assert send(association, small_slice(1)) == [0x0000]
        house.blobs._reserve_bytes = 1 << 60
        assert send(association, small_slice(2)) == [0xA700]
        association.release()
        assert [row.verdict for row in ledger(house)] == ["accepted"]
        with house.database.read() as connection:
            assert conservation.lost_bytes(connection, house.blobs) == []


def test_a_pdu_that_declares_four_gigabytes_is_cut_off(door: Reception) -> None:
    with socket.create_connection(("127.0.0.1", door.port)) as attacker:
        attacker.settimeout(20)
        attacker.sendall(struct.pack(">BBL", 0x01, 0, 0xFFFFFFFF))
        with pytest.raises(OSError):
            attacker.sendall(bytes(256 << 20))
    assert echo(door) == 0x0000


def test_connections_that_say_three_bytes_do_not_keep_anybody_out(tmp_path: Path) -> None:
    reception = {"port": 0, "pdu_seconds": 4.0, "most_per_address": 8, "most_connections": 8}
    peers = [{"ae_title": "SENDER", "addresses": ["127.0.0.1"]}]
    with ExitStack() as opened:
        house = opened.enter_context(door_house(tmp_path, hospital={"reception": {**reception, "peers": peers}}))
        door = opened.enter_context(open_door(house))
        for _ in range(8):
            attacker = opened.enter_context(socket.create_connection(("127.0.0.1", door.port)))
            attacker.sendall(b"\x01\x00\x00")
        assert not is_taken(door), "the limit holds, so this test can fail"
        until = time.monotonic() + 60
        while time.monotonic() < until and not is_taken(door):
            time.sleep(0.2)
        assert echo(door) == 0x0000


def test_bytes_that_wait_to_be_stored_are_bounded_over_all_peers(tmp_path: Path) -> None:
    peers = [{"ae_title": "SENDER", "addresses": ["127.0.0.1"]}]
    reception = {"port": 0, "most_megabytes": 16, "peers": peers}
    with door_house(tmp_path, hospital={"reception": reception}) as house, open_door(house) as door:
        large = dcmread(BytesIO(small_slice(1)))
        large.PixelData = bytes(40 << 20)
        association = associated(door)
        assert "Status" not in association.send_c_store(large)
        assert ledger(house) == []
        assert echo(door) == 0x0000
        fresh = associated(door)
        assert send(fresh, *(small_slice(n) for n in range(1, 9))) == [0] * 8, "what is stored no longer waits"
        fresh.release()


def test_an_association_dropped_after_each_instance_loses_none_that_was_confirmed(
    house: House, door: Reception
) -> None:
    for k in range(1, 5):
        association = associated(door)
        confirmed = send(association, *(small_slice(n, study=f"1.2.{k}") for n in range(1, k + 1)))
        association.abort()
        assert confirmed == [0] * k
    assert len(ledger(house)) == 1 + 2 + 3 + 4
    assert {row.verdict for row in ledger(house)} == {"accepted"}


class CommitmentListener:
    """A sender that asks for storage commitment and waits for the answer on an association of its own."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Dataset]] = []
        self._heard = threading.Event()
        entity = sender()
        contexts = [build_context(StorageCommitmentPushModel)]
        contexts[0].scu_role, contexts[0].scp_role = True, True
        handlers = [(evt.EVT_N_EVENT_REPORT, self._note)]
        self.server = entity.start_server(("127.0.0.1", 0), block=False, contexts=contexts, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def _note(self, event: Any) -> tuple[int, None]:
        self.answers.append((event.event_type, event.event_information))
        self._heard.set()
        return 0x0000, None

    def answer(self) -> tuple[int, Dataset]:
        assert self._heard.wait(30), "no answer came"
        return self.answers[-1]


def ask_commitment(door: Reception, *uids: str) -> int:
    wanted = Dataset()
    wanted.TransactionUID = generate_uid()
    wanted.ReferencedSOPSequence = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, uid
        wanted.ReferencedSOPSequence.append(item)
    association = associated(door, contexts=[build_context(StorageCommitmentPushModel)])
    status, _ = association.send_n_action(wanted, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    association.release()
    return int(status.Status)


def test_storage_commitment_tells_what_is_kept_and_what_is_not(tmp_path: Path) -> None:
    listener = CommitmentListener()
    peers = [{"ae_title": "SENDER", "addresses": ["127.0.0.1"], "port": listener.port}]
    with door_house(tmp_path, hospital={"reception": {"port": 0, "peers": peers}}) as house, open_door(house) as door:
        association = associated(door)
        send(association, small_slice(1), small_slice(2))
        association.release()
        kept, damaged = (str(dcmread(BytesIO(small_slice(n))).SOPInstanceUID) for n in (1, 2))
        house.blobs.path(ledger(house)[1].sha256).write_bytes(b"rot")
        assert ask_commitment(door, kept, damaged, "1.2.3.4") == 0x0000
        event, answer = listener.answer()
        assert event == 2
        assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [kept]
        failed = {item.ReferencedSOPInstanceUID: item.FailureReason for item in answer.FailedSOPSequence}
        assert failed == {damaged: 0x0110, "1.2.3.4": 0x0112}
    listener.server.shutdown()


def test_a_commitment_survives_a_restart_and_a_peer_that_is_away(tmp_path: Path) -> None:
    from datetime import timedelta
    from random import Random

    from flows.reception import _now, answer_commitments
    from pipeline.store.door_tables import commitment

    peers = [{"ae_title": "SENDER", "addresses": ["127.0.0.1"], "port": 1}]
    with door_house(tmp_path, hospital={"reception": {"port": 0, "peers": peers}}) as house:
        with open_door(house) as door:
            assert ask_commitment(door, "1.2.3.4") == 0x0000
        state = commitment.select()
        late = _now() + timedelta(hours=80)
        for moment in (_now() + timedelta(hours=1), late):
            assert answer_commitments(house, now=moment, random=Random(1)) == 0
        with house.database.read() as connection:
            (row,) = connection.execute(state).all()
        assert row.state == "PARKED"


def test_the_file_meta_information_is_what_pydicom_reads_back() -> None:
    meta = file_meta("1.2.840.10008.5.1.4.1.1.4", "1.2.3", "1.2.840.10008.1.2.1")
    found = dcmread(BytesIO(b"\0" * 128 + b"DICM" + meta + small_slice(1)[-8:]), stop_before_pixels=True).file_meta
    assert (found.MediaStorageSOPClassUID, found.MediaStorageSOPInstanceUID) == ("1.2.840.10008.5.1.4.1.1.4", "1.2.3")
    assert found.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert found.FileMetaInformationGroupLength == len(meta) - 12
