"""Killed at every durable step of the way out, every result arrives once, and nothing arrives that we do not know.

The receiver is a folder that outlives the killed process, as a PACS does. As for the way in, the same search must find
bugs planted on purpose, and the order of the steps behind one confirmation is held against what a power loss would spare.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import Dataset, dcmread, dcmwrite

from pipeline import delivery, intake
from pipeline.delivery import Destination, Post, deliver
from pipeline.dicom.result_sending import as_bytes, send_to_pacs
from pipeline.dicom.structured_report import structured_report
from pipeline.domain.result import ResultForm
from pipeline.store import outbox_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import open_database
from pipeline.store.door_tables import delivery as deliveries
from pipeline.store.tables import outbox
from tests.faults.test_crash_points import NEVER, STEPS, Bug, Site, house, run_until
from tests.pretend_scanner import KEY, MINUTE, NOON, PretendedSandbox, slice_bytes

__all__ = ["house"]


@dataclass(frozen=True)
class FolderPacs:
    """A receiver that keeps each object under its UID and notes every C-STORE."""

    folder: Path

    def store(self, dataset: Dataset) -> str:
        self.folder.mkdir(exist_ok=True)
        dcmwrite(self.folder / f"{dataset.SOPInstanceUID}.dcm", dataset, enforce_file_format=True)
        return "0000"

    def holds(self, _study: str, _series: str, sop_instance_uid: str) -> bool:
        return (self.folder / f"{sop_instance_uid}.dcm").exists()

    def objects(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in self.folder.glob("*.dcm")}


def send_all(site: Site, minutes: int) -> None:
    """Deliver what is due; a lease that a dead sender left has ended by then."""
    database, blobs = open_database(site.url), BlobStore(site.folder / "blobs")
    pacs: Any = FolderPacs(site.folder / "pacs")
    post = Post(
        destinations=[Destination(name="pacs", forms=("sr",), send=lambda _form, content: send_to_pacs(pacs, content))],
        makers={ResultForm.SR: lambda result: as_bytes(structured_report, result)},
        version="0.1.0",
        withhold=True,
    )
    deliver(database, blobs, post, now=lambda: NOON + minutes * MINUTE, random=Random(1))
    database.close()


def violations(site: Site, *, settled: bool) -> list[str]:
    """What is wrong between the receiver and our tables; when `settled`, also what did not arrive."""
    held = FolderPacs(site.folder / "pacs").objects()
    database = open_database(site.url)
    with database.read() as connection:
        rows = connection.execute(sa.select(deliveries)).all()
        untold = connection.execute(sa.select(outbox).where(outbox.c.delivered_at.is_(None))).all()
    database.close()
    known = {row.sop_instance_uid: row for row in rows}
    found = [f"unknown object {uid}" for uid in held if uid not in known or known[uid].digest is None]
    found += [
        f"proven and absent {row.id}" for row in rows if row.state == "PROVEN" and row.sop_instance_uid not in held
    ]
    if settled:
        found += [f"not proven {row.id}" for row in rows if row.state != "PROVEN"]
        found += [f"untold {row.id}" for row in untold]
        found += [] if len(held) == len(rows) == len(site.studies) else [f"{len(held)} objects, {len(rows)} deliveries"]
    return found


@pytest.fixture
def decided(house: Path, migrated_sqlite: Path) -> Path:
    """A house with two decided studies whose results were never sent, to be copied."""
    place = house / "decided"
    place.mkdir()
    shutil.copy(migrated_sqlite, place / "own.db")
    site = Site(f"sqlite:///{place / 'own.db'}", place, ("1.1", "1.2"))
    site.fill()
    assert run_until(NEVER, lambda: site.work(0))
    return place


def crash(decided: Path, k: int, bug: Bug | None = None) -> tuple[bool, list[str]]:
    """The results of a fresh copy sent by a process killed at step k, then by the next one."""
    place = decided.parent / str(k)
    shutil.copytree(decided, place)
    site = Site(f"sqlite:///{place / 'own.db'}", place, ("1.1", "1.2"))
    survived = run_until(k, lambda: send_all(site, 10), bug, decided.parent / STEPS)
    found = violations(site, settled=False)
    assert run_until(NEVER, lambda: send_all(site, 10 + 2 * int(delivery.LEASE / timedelta(minutes=1))))
    found += violations(site, settled=True)
    shutil.rmtree(place)
    return survived, found


def crash_everywhere(decided: Path, stride: int) -> dict[int, list[str]]:
    wrong: dict[int, list[str]] = {}
    k, survived = 1, False
    while not survived:
        survived, found = crash(decided, k)
        if found:
            wrong[k] = found
        k += stride
    assert k > 20, "a search of no steps finds nothing"
    return wrong


def test_killed_at_steps_all_over_the_way_out_each_result_arrives_once(decided: Path) -> None:
    assert crash_everywhere(decided, stride=6) == {}


@pytest.mark.slow
def test_killed_at_every_step_of_the_way_out_each_result_arrives_once(decided: Path) -> None:
    assert crash_everywhere(decided, stride=1) == {}


def sent_before_it_is_written_down() -> None:
    """The object leaves before its digest is committed."""
    original = delivery._object

    def unnoted(database: Any, blobs: Any, post: Any, due: Any) -> bytes:
        with database.read() as connection:
            result = delivery.result_rows.load_result(
                connection, due.outbox_id, withhold=post.withhold, version=post.version
            )
        content = post.makers[due.form](result)
        next(one for one in post.destinations).send(due.form, content)
        return original(database, blobs, post, due)

    delivery._object = unnoted


def proven_before_it_is_sent() -> None:
    """The proof is committed before the sending."""
    original = delivery._deliver

    def early(database: Any, blobs: Any, post: Any, due: Any, *clock: Any) -> str:
        delivery._object(database, blobs, post, due)
        with database.transaction() as connection:
            outbox_rows.prove(connection, due, {"status": "0000", "read_back": "hoped"}, NOON)
        return original(database, blobs, post, due, *clock)

    delivery._deliver = early


@pytest.mark.parametrize("bug", [sent_before_it_is_written_down, proven_before_it_is_sent])
def test_the_search_finds_bugs_planted_on_the_way_out(decided: Path, bug: Bug) -> None:
    crash(decided, NEVER, bug)
    steps = int((decided.parent / STEPS).read_text())
    assert any(crash(decided, k, bug)[1] for k in range(steps // 4, steps + 1))


class Journal:
    """Every durable step of this process in order, with the confirmation that follows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        for name in ("fsync", "rename"):
            monkeypatch.setattr(os, name, self._noting(name, getattr(os, name)))
        sa.event.listen(sa.Engine, "commit", self._commit)

    def _noting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            self.steps.append(name)
            return call(*given)

        return noted

    def _commit(self, *_: object) -> None:
        self.steps.append("commit")

    def close(self) -> None:
        sa.event.remove(sa.Engine, "commit", self._commit)


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    kept = Journal(monkeypatch)
    yield kept
    kept.close()


def take_one(url: str, folder: Path, number: int) -> None:
    sandbox: Any = PretendedSandbox()
    intake.accept_stream(
        open_database(url),
        BlobStore(folder / "blobs"),
        sandbox,
        BytesIO(slice_bytes(number=number)),
        source="receiver:SENDER",
        pseudonym_key=KEY,
        now=NOON,
    )


def order_is_durable(steps: list[str]) -> bool:
    """Whether the file's fsync, its name, the folder's fsync and the commit came in this order before the answer."""
    wanted = iter(steps)
    return all(step in wanted for step in ("fsync", "rename", "fsync", "commit")) and steps[-1] == "commit"


def test_an_object_is_confirmed_after_fsync_name_folder_and_commit(
    journal: Journal, migrated_sqlite: Path, tmp_path: Path
) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "own.db")
    BlobStore(tmp_path / "blobs")
    journal.steps.clear()
    take_one(f"sqlite:///{tmp_path / 'own.db'}", tmp_path, 1)
    assert order_is_durable(journal.steps)


def test_an_answer_before_the_fsync_is_found(
    journal: Journal, migrated_sqlite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "own.db")
    BlobStore(tmp_path / "blobs")
    monkeypatch.setattr("pipeline.store.blobs.os.fsync", lambda _: None)
    journal.steps.clear()
    take_one(f"sqlite:///{tmp_path / 'own.db'}", tmp_path, 1)
    assert not order_is_durable(journal.steps)


def test_a_sender_whose_lease_has_passed_to_another_writes_nothing(decided: Path) -> None:
    site = Site(f"sqlite:///{decided / 'own.db'}", decided, ("1.1", "1.2"))
    database = open_database(site.url)
    with database.transaction() as connection:
        outbox_rows.plan(connection, {"pacs": ("sr",)}, NOON)
        (stale, _) = outbox_rows.claim_due(connection, now=NOON, lease=MINUTE, limit=2)
        (fresh, _) = outbox_rows.claim_due(connection, now=NOON + 2 * MINUTE, lease=MINUTE, limit=2)
        assert stale.id == fresh.id
        outbox_rows.note_object(connection, fresh.outbox_id, fresh.form, "d" * 64)
        assert not outbox_rows.prove(connection, stale, {"status": "0000", "read_back": ""}, NOON)
        assert not outbox_rows.put_off(connection, stale, "late", again_at=None)
        assert outbox_rows.prove(connection, fresh, {"status": "0000", "read_back": ""}, NOON)
    database.close()


def test_the_bytes_of_a_result_stay_the_same_after_an_upgrade_in_between(decided: Path) -> None:
    site = Site(f"sqlite:///{decided / 'own.db'}", decided, ("1.1", "1.2"))
    assert not run_until(30, lambda: send_all(site, 10)), "killed on the way"
    send_all(site, 60)
    held = FolderPacs(site.folder / "pacs").objects()
    assert all(dcmread(BytesIO(content)).SOPInstanceUID == uid for uid, content in held.items())
    assert violations(site, settled=True) == []
