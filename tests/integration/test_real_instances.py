"""Intake and triage on real DICOM through the real sandbox; only the release is pretended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.uid import generate_uid

from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Reason, Route
from pipeline.domain.evidence import Decision
from pipeline.intake import Receipt, accept_folder
from pipeline.store import conservation
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database, open_database
from pipeline.store.tables import decision, instance
from pipeline.triage import replay, triage_case
from tests.dicom_files import a_head, a_slice, to_bytes, write_series
from tests.pretend_scanner import KEY, MINUTE, NOON, PretendedRelease, claim, seal_all, tiny_protocol

PROTOCOL = tiny_protocol()
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "own.db").write_bytes(migrated_sqlite.read_bytes())
    opened = open_database(f"sqlite:///{tmp_path / 'own.db'}")
    yield opened
    opened.close()


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """A whole study of four slices."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    write_series(folder, [a_slice(pixels, index) for index, pixels in enumerate(a_head(4))])
    return folder


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def take(database: Database, blobs: BlobStore, sandbox: Sandbox, folder: Path) -> list[Receipt]:
    given: dict[str, Any] = {"source": "folder", "pseudonym_key": KEY, "now": lambda: NOON}
    return list(accept_folder(database, blobs, sandbox, folder, **given))


def route(database: Database, blobs: BlobStore, sandbox: Sandbox, score: float = 0.05) -> Decision:
    seal_all(database, PROTOCOL)
    (held,) = claim(database, PROTOCOL)
    release = PretendedRelease(PROTOCOL, score)
    at = NOON + 11 * MINUTE
    return triage_case(database, blobs, sandbox, release, held, PROTOCOL, audit_key=KEY, now=lambda: at)


def test_a_whole_study_goes_all_the_way_and_replays(
    database: Database, blobs: BlobStore, sandbox: Sandbox, incoming: Path
) -> None:
    assert {str(r.verdict) for r in take(database, blobs, sandbox, incoming)} == {"accepted"}
    assert route(database, blobs, sandbox).route == Route.ROUTINE
    with database.read() as connection:
        (stored,) = connection.execute(sa.select(decision))
    assert (stored.evidence["manifest_slices"], stored.evidence["decoded_slices"]) == (4, 4)
    assert "Patient" not in json.dumps(stored.evidence)
    assert replay(database, blobs, sandbox, PretendedRelease(PROTOCOL), stored.case_id).identical


@pytest.mark.parametrize("name", ["000.dcm", "001.dcm"])
def test_a_truncated_slice_is_kept_apart_and_the_study_read(
    database: Database, blobs: BlobStore, sandbox: Sandbox, incoming: Path, name: str
) -> None:
    data = (incoming / name).read_bytes()
    (incoming / name).write_bytes(data[: len(data) - 100])
    reasons = [r.reason for r in take(database, blobs, sandbox, incoming) if r.reason]
    assert reasons == ["truncated"]
    found = route(database, blobs, sandbox)
    assert found.route == Route.REVIEW
    assert {Reason.INCOMPLETE, Reason.UNREADABLE} <= set(found.reasons)


def test_a_missing_slice_is_read(database: Database, blobs: BlobStore, sandbox: Sandbox, incoming: Path) -> None:
    (incoming / "001.dcm").unlink()
    take(database, blobs, sandbox, incoming)
    found = route(database, blobs, sandbox)
    assert found.route == Route.REVIEW
    assert Reason.INCOMPLETE in found.reasons


def test_a_report_beside_the_images_changes_nothing(
    database: Database, blobs: BlobStore, sandbox: Sandbox, incoming: Path
) -> None:
    report = a_slice(a_head(1)[0], 9, SOPClassUID=BASIC_TEXT_SR, Modality="SR", SeriesInstanceUID=generate_uid())
    del report.PixelData
    (incoming / "report.dcm").write_bytes(to_bytes(report))
    receipts = take(database, blobs, sandbox, incoming)
    assert [r.reason for r in receipts if r.reason] == ["not_an_image"]
    assert len({r.study for r in receipts}) == 1
    assert route(database, blobs, sandbox).route == Route.ROUTINE


def test_a_study_of_one_report_is_out_of_scope(
    database: Database, blobs: BlobStore, sandbox: Sandbox, tmp_path: Path
) -> None:
    report = a_slice(a_head(1)[0], 9, SOPClassUID=BASIC_TEXT_SR, Modality="SR")
    del report.PixelData
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "report.dcm").write_bytes(to_bytes(report))
    take(database, blobs, sandbox, tmp_path / "only")
    found = route(database, blobs, sandbox)
    assert (found.route, found.reasons) == (Route.OUT_OF_SCOPE, (Reason.NOT_AN_IMAGE,))


def test_stored_bytes_that_rot_are_found_before_they_are_decoded(
    database: Database, blobs: BlobStore, sandbox: Sandbox, incoming: Path
) -> None:
    take(database, blobs, sandbox, incoming)
    with database.read() as connection:
        (digest, *_) = connection.execute(sa.select(instance.c.sha256)).scalars()
    path = blobs.path(digest)
    data = bytearray(path.read_bytes())
    data[-50] ^= 1  # one bit of one pixel: DICOM itself would not notice
    path.chmod(0o600)
    path.write_bytes(data)
    found = route(database, blobs, sandbox)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.UNREADABLE,))


def test_what_is_no_dicom_at_all_is_kept_and_accounted_for(
    database: Database, blobs: BlobStore, sandbox: Sandbox, incoming: Path
) -> None:
    for name, data in {"empty": b"", "text": b"hello", "program": b"MZ" + b"\0" * 200}.items():
        (incoming / name).write_bytes(data)
    receipts = take(database, blobs, sandbox, incoming)
    assert len([r for r in receipts if r.reason]) == 3
    route(database, blobs, sandbox)
    with database.read() as connection:
        found = conservation.status(connection, NOON)
    assert found["instances"] == {"accepted": 4, "quarantined": 3, "duplicate": 0, "unaccounted": 0}
    assert found["studies"]["unrouted"] == 0
