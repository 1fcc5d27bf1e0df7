from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.domain.announced import AnnouncedSeries, Announcement
from pipeline.domain.study import Verdict
from pipeline.errors import RetryLater
from pipeline.intake import Receipt, accept_file, accept_folder, seal_quiet_studies
from pipeline.store import conservation, instance_rows, pacs_rows, worklist_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.tables import case, identity, instance, study, study_revision, worklist_item
from tests.pretend_scanner import (
    KEY,
    MINUTE,
    NOON,
    PretendedSandbox,
    refused_bytes,
    seal_all,
    slice_bytes,
    tiny_protocol,
    write_study,
)

PROTOCOL = tiny_protocol()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def take(database: Database, blobs: BlobStore, tmp_path: Path) -> Callable[..., Receipt]:
    count = iter(range(1000))

    def take(data: bytes, now: Any = NOON) -> Receipt:
        path = tmp_path / f"received-{next(count)}"
        path.write_bytes(data)
        return accept_file(database, blobs, PretendedSandbox(), path, source="folder", pseudonym_key=KEY, now=now)

    return take


@pytest.fixture
def folder(database: Database, blobs: BlobStore) -> Callable[..., list[Receipt]]:
    def folder(path: Path, **options: Any) -> list[Receipt]:
        given = {"source": "folder", "pseudonym_key": KEY, "now": lambda: NOON, **options}
        return list(accept_folder(database, blobs, PretendedSandbox(), path, **given))

    return folder


def rows(database: Database, table: sa.Table) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(sa.select(table)))


def newest_evidence(database: Database) -> dict[str, Any]:
    return dict(max(rows(database, study_revision), key=lambda row: row.revision).evidence)


def status(database: Database) -> dict[str, Any]:
    with database.read() as connection:
        return conservation.status(connection, NOON)


def test_an_instance_is_accepted_once_and_known_again(take, database: Database, blobs: BlobStore) -> None:
    first, again = take(slice_bytes()), take(slice_bytes())
    assert (first.verdict, again.verdict) == (Verdict.ACCEPTED, Verdict.DUPLICATE)
    assert first.study == again.study is not None
    assert [row.sequence for row in rows(database, instance)] == [1, 2]
    with database.read() as connection:
        assert conservation.lost_bytes(connection, blobs) == []


def test_a_file_that_is_not_dicom_is_kept_with_its_reason(take, database: Database, blobs: BlobStore) -> None:
    receipt = take(b"hello")
    assert (receipt.verdict, receipt.reason, receipt.study) == (Verdict.QUARANTINED, "not_dicom", None)
    (row,) = rows(database, instance)
    assert blobs.read(row.sha256) == b"hello"
    assert rows(database, study) == []


def test_identity_stands_in_its_own_table_only(take, database: Database) -> None:
    take(slice_bytes())
    (row,) = rows(database, instance)
    (person,) = rows(database, identity)
    (of,) = rows(database, study)
    assert (person.patient_id, person.patient_name) == ("P1", "DOE^JANE")
    assert "DOE" not in str(row) + str(of)
    assert "P1" not in str(row.header) + of.patient_pseudonym


def test_text_that_a_database_refuses_is_made_storable(take, database: Database) -> None:
    take(slice_bytes(patient_id="X" * 500, patient_name="A\x00B\udc80"))
    (person,) = rows(database, identity)
    assert person.patient_id == "X" * 64
    assert person.patient_name == "AB?"


def test_one_uid_with_two_contents_is_a_conflict_and_both_are_kept(take, database: Database, blobs: BlobStore) -> None:
    take(slice_bytes())
    receipt = take(slice_bytes(content="other pixels"))
    assert receipt.reason == "conflicting_duplicate"
    assert [row.content_conflict for row in rows(database, study)] == [True]
    seal_all(database, PROTOCOL)
    assert "CONFLICTING_INSTANCE" in newest_evidence(database)["problems"]
    with database.read() as connection:
        assert conservation.lost_bytes(connection, blobs) == []


def test_one_uid_in_two_studies_sends_both_to_people(take, database: Database) -> None:
    take(slice_bytes("1.1", sop_instance_uid="1.7"))
    seal_all(database, PROTOCOL)
    take(slice_bytes("1.2", sop_instance_uid="1.7"))
    assert [row.state for row in rows(database, study)] == ["OPEN", "OPEN"]
    assert [row.content_conflict for row in rows(database, study)] == [True, True]


@pytest.mark.parametrize("other", [{"patient_id": "P2"}, {"patient_id": None}, {"issuer_of_patient_id": "H2"}])
def test_a_second_patient_in_one_study_is_a_conflict(take, database: Database, other: dict[str, Any]) -> None:
    take(slice_bytes(number=1))
    assert take(slice_bytes(number=2, **other)).reason == "identity_conflict"
    seal_all(database, PROTOCOL)
    assert "IDENTITY_CONFLICT" in newest_evidence(database)["problems"]


def test_a_report_of_another_patient_is_a_conflict_too(take, database: Database) -> None:
    take(slice_bytes())
    seal_all(database, PROTOCOL)
    take(refused_bytes("not_an_image", is_image=False, patient_id="P2"))
    seal_all(database, PROTOCOL)
    assert "IDENTITY_CONFLICT" in newest_evidence(database)["problems"]


def test_a_damaged_first_file_does_not_decide_who_the_patient_is(take, database: Database) -> None:
    take(refused_bytes("truncated", patient_id=None))
    assert take(slice_bytes()).verdict is Verdict.ACCEPTED
    (person,) = rows(database, identity)
    assert person.patient_id == "P1"
    assert not rows(database, study)[0].identity_conflict


def test_studies_without_patient_id_have_pseudonyms_of_their_own(take, database: Database) -> None:
    take(slice_bytes("1.1", patient_id=None))
    take(slice_bytes("1.2", patient_id=""))
    take(slice_bytes("1.3"))
    take(slice_bytes("1.4"))
    assert len({row.patient_pseudonym for row in rows(database, study)}) == 3


def test_a_quarantined_image_leaves_a_gap_and_a_report_does_not(take, database: Database) -> None:
    for number in (1, 2, 3):
        take(slice_bytes(number=number))
    take(refused_bytes("not_an_image", is_image=False))
    seal_all(database, PROTOCOL)
    evidence = newest_evidence(database)
    assert (evidence["completeness"], evidence["quarantined"]) == ("PROVEN", 0)
    take(refused_bytes("truncated"))
    seal_all(database, PROTOCOL)
    evidence = newest_evidence(database)
    assert (evidence["completeness"], evidence["quarantined"]) == ("CONTRADICTED", 1)


def test_an_image_that_arrives_whole_after_all_closes_its_gap(take, database: Database) -> None:
    take(slice_bytes(number=1))
    take(refused_bytes("truncated", sop_instance_uid="1.1.9.2"))
    take(slice_bytes(number=2))
    seal_all(database, PROTOCOL)
    evidence = newest_evidence(database)
    assert (evidence["completeness"], evidence["quarantined"]) == ("PROVEN", 0)


def test_a_missing_slice_contradicts_completeness(take, database: Database) -> None:
    for number in (1, 2, 4, 5):
        take(slice_bytes(number=number))
    seal_all(database, PROTOCOL)
    assert newest_evidence(database)["completeness"] == "CONTRADICTED"


def test_only_quiet_studies_are_sealed_and_once(take, database: Database) -> None:
    take(slice_bytes("1.1"), now=NOON)
    take(slice_bytes("1.2"), now=NOON + 3 * MINUTE)
    at = NOON + 4 * MINUTE
    first = seal_quiet_studies(database, [PROTOCOL], quiet=2 * MINUTE, now=at)
    assert (len(first), status(database)["studies"]["open"]) == (1, 1)
    assert seal_quiet_studies(database, [PROTOCOL], quiet=2 * MINUTE, now=at) == []


def test_a_clock_that_jumps_back_seals_nothing(take, database: Database) -> None:
    take(slice_bytes(), now=NOON)
    assert seal_quiet_studies(database, [PROTOCOL], quiet=MINUTE, now=NOON - 60 * MINUTE) == []


def test_a_study_sealed_without_a_protocol_gets_its_case_later(take, database: Database) -> None:
    take(slice_bytes())
    assert seal_quiet_studies(database, [], quiet=MINUTE, now=NOON, force=True) == []
    assert status(database)["studies"]["unrouted"] == 1
    assert len(seal_quiet_studies(database, [PROTOCOL], quiet=MINUTE, now=NOON)) == 1


def test_a_late_image_reopens_and_replaces_the_case(take, database: Database) -> None:
    take(slice_bytes(number=1))
    (old,) = seal_all(database, PROTOCOL)
    take(slice_bytes(number=2))
    assert status(database)["studies"] == {"open": 1, "sealed": 0, "unrouted": 0}
    (new,) = seal_all(database, PROTOCOL)
    states = {row.id: row.state for row in rows(database, case)}
    assert states == {old: "SUPERSEDED", new: "READY"}
    assert newest_evidence(database)["problems"] == []  # the first case was never decided


@pytest.mark.parametrize("late", [slice_bytes(number=1), refused_bytes("not_an_image", is_image=False)])
def test_a_late_duplicate_or_report_changes_nothing(take, database: Database, late: bytes) -> None:
    take(slice_bytes(number=1))
    seal_all(database, PROTOCOL)
    take(late)
    assert status(database)["studies"]["sealed"] == 1
    assert status(database)["instances"]["unaccounted"] == 0


def test_a_folder_is_taken_in_with_a_receipt_for_every_name(folder, tmp_path: Path, database: Database) -> None:
    write_study(tmp_path / "in" / "deep", slices=range(1, 41))
    (tmp_path / "secret").write_bytes(slice_bytes("9.9"))
    (tmp_path / "in" / "link.dcm").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "pipe")
    seen: list[tuple[int, int]] = []
    receipts = folder(tmp_path / "in", on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(32, 43), (43, 43)]
    reasons = sorted(r.reason for r in receipts if r.reason is not None)
    assert reasons == ["not_a_file", "symbolic_link", "symbolic_link"]
    assert status(database)["instances"]["accepted"] == 40
    assert len(rows(database, study)) == 1


def test_duplicates_and_conflicts_inside_one_group_are_found(folder, tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    for name, data in {"a": slice_bytes(), "b": slice_bytes(), "c": slice_bytes(content="x")}.items():
        (place / name).write_bytes(data)
    assert [r.verdict.value for r in folder(place)] == ["accepted", "duplicate", "quarantined"]


def test_one_file_that_the_database_refuses_does_not_stop_its_folder(
    folder, tmp_path: Path, database: Database, monkeypatch
) -> None:
    write_study(tmp_path / "in")
    (tmp_path / "in" / "0-odd.dcm").write_bytes(refused_bytes("truncated", series_instance_uid="x" * 3))

    written = instance_rows.add_entry

    def refuse_one(connection: Any, entry: Any, **named: Any) -> None:
        written(connection, entry, **named)
        if entry.header is not None and entry.header.series_instance_uid == "xxx":
            connection.exec_driver_sql("UPDATE instance SET verdict = 'nonsense'")

    monkeypatch.setattr(instance_rows, "add_entry", refuse_one)
    receipts = folder(tmp_path / "in")
    assert [r.reason for r in receipts] == ["unrecordable", None, None, None]
    assert status(database)["instances"]["quarantined"] == 1


def test_names_and_uids_from_outside_never_become_paths(take, blobs: BlobStore, tmp_path: Path) -> None:
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    take(slice_bytes(series_instance_uid="../../../evil", sop_instance_uid="1.5"))
    new = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    stored = [p for p in new if "blobs" in p.parts]
    assert [len(p.name) for p in stored] == [64]
    assert not any("evil" in str(p) for p in new)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_confirms_nothing_and_leaves_nothing(
    folder, tmp_path: Path, database: Database, monkeypatch, call: str
) -> None:
    write_study(tmp_path / "in")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, full)
        with pytest.raises(RetryLater, match="No space left on device"):
            folder(tmp_path / "in")
    assert rows(database, instance) == []
    assert list((tmp_path / "blobs" / "incoming").iterdir()) == []
    assert [r.verdict for r in folder(tmp_path / "in")] == [Verdict.ACCEPTED] * 3


def test_a_source_that_cannot_be_read_has_a_receipt_and_stops_nobody(folder, tmp_path: Path, monkeypatch) -> None:
    first, *_ = write_study(tmp_path / "in")
    opened = os.open

    def broken(path: Any, *rest: Any) -> int:
        if Path(path) == first:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", broken)
    assert [r.reason for r in folder(tmp_path / "in")] == ["unreadable_file", None, None]


def test_a_superseded_case_leaves_the_worklist(take, database: Database) -> None:

    take(slice_bytes(number=1))
    (old,) = seal_all(database, PROTOCOL)
    with database.transaction() as connection:
        worklist_rows.schedule_item(
            connection, case_id=old, specialty="s", priority=1, reasons=["NOVEL"], due_at=NOON, now=NOON
        )
    take(slice_bytes(number=2))
    seal_all(database, PROTOCOL)
    assert [row.state for row in rows(database, worklist_item)] == ["CANCELED"]


def counted(database: Database, instances: int, at: Any) -> None:
    """The PACS says at that moment how many instances study 1.1 has."""
    with database.transaction() as connection:
        (found,) = connection.execute(sa.select(study.c.id)).scalars()
        series = AnnouncedSeries(uid="1.1.9", modality="MR", instances=instances)
        pacs_rows.note_answer(connection, found, Announcement(source="pacs", series=(series,)), at)


def test_an_answer_of_the_pacs_proves_nothing_about_what_came_after_it(take, database: Database) -> None:
    for number in (1, 2, 3):
        take(slice_bytes(number=number, instance_number=None))
    counted(database, 4, NOON + MINUTE)
    take(slice_bytes(number=4, instance_number=None), now=NOON + 2 * MINUTE)
    seal_all(database, PROTOCOL)
    assert newest_evidence(database)["completeness"] == "UNKNOWN", "there may be more by now"


def test_an_answer_given_after_the_last_image_proves_the_study(take, database: Database) -> None:
    for number in (1, 2, 3, 4):
        take(slice_bytes(number=number, instance_number=None))
    counted(database, 4, NOON + MINUTE)
    seal_all(database, PROTOCOL)
    assert newest_evidence(database)["completeness"] == "PROVEN"
