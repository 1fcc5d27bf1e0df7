"""Killed at every durable step of intake, sealing and triage, the house finds everything again.

A step is one database statement, commit, fsync, rename or unlink. A child process counts them and kills itself at the
k-th; k grows until a run survives. Whoever sends deletes a file once it is confirmed, so nothing can be healed by
sending again. The same search must find bugs planted on purpose, or its silence means nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from pipeline import intake, triage
from pipeline.store import audit_rows, conservation, decided_cases, decision_rows
from pipeline.store.blobs import BlobStore, Stored
from pipeline.store.database import open_database
from pipeline.store.tables import audit_event, case, decision, instance, outbox, study
from pipeline.triage import triage_case
from tests.pretend_scanner import (
    KEY,
    MINUTE,
    NOON,
    PretendedRelease,
    PretendedSandbox,
    claim,
    pretended_header,
    refused_bytes,
    seal_all,
    slice_bytes,
    tiny_protocol,
)

PROTOCOL = tiny_protocol()
NEVER = 1_000_000
STEPS = "steps"
Bug = Callable[[], None]


@dataclass(frozen=True)
class Site:
    """One house on disk with what a sender still has to send."""

    url: str
    folder: Path
    studies: tuple[str, ...]

    def fill(self) -> set[str]:
        """Put the sender's files there and return their digests."""
        (self.folder / "outgoing").mkdir(parents=True)
        files = {f"{uid}-{n}": slice_bytes(uid, n, patient_id=uid) for uid in self.studies for n in (1, 2)}
        files["odd"] = refused_bytes("truncated", study=self.studies[0], patient_id=self.studies[0])
        for name, data in files.items():
            (self.folder / "outgoing" / name).write_bytes(data)
        return {hashlib.sha256(data).hexdigest() for data in files.values()}

    def work(self, minutes: int) -> None:
        """Take in what is there, seal, and decide; the sender deletes what was confirmed."""
        now = NOON + minutes * MINUTE
        database, blobs = open_database(self.url), BlobStore(self.folder / "blobs")
        sandbox: Any = PretendedSandbox()
        given: dict[str, Any] = {"source": "folder", "pseudonym_key": KEY, "now": lambda: now}
        for receipt in intake.accept_folder(database, blobs, sandbox, self.folder / "outgoing", **given):
            os.unlink(receipt.path)  # noqa: PTH108 - counted as a step
        seal_all(database, PROTOCOL, now)
        for held in claim(database, PROTOCOL, now=now):
            release = PretendedRelease(PROTOCOL, 0.5 if held.fence % 2 else 0.05)
            triage_case(database, blobs, sandbox, release, held, PROTOCOL, audit_key=KEY, now=lambda: now)
        database.close()


def run_until(crash_at: int, work: Callable[[], None], bug: Bug | None = None, report: Path | None = None) -> bool:
    """Run `work` in a child that is killed at that step; whether it survived, and in `report` how many steps it did."""
    child = os.fork()
    if child == 0:
        try:
            if bug is not None:
                bug()
            done = _count_steps(crash_at)
            work()
            if report is not None:
                report.write_text(str(next(done) - 1))
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def _count_steps(crash_at: int) -> Iterator[int]:
    steps = iter(range(1, NEVER))

    def step(*_: object, **__: object) -> None:
        if next(steps) == crash_at:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("fsync", "rename", "unlink"):
        setattr(os, name, _stepping(step, getattr(os, name)))
    sa.event.listen(sa.Engine, "before_cursor_execute", step)
    sa.event.listen(sa.Engine, "commit", step)
    return steps


def _stepping(step: Callable[..., None], call: Callable[..., Any]) -> Callable[..., Any]:
    def stepped(*given: Any, **named: Any) -> Any:
        step()
        return call(*given, **named)

    return stepped


def losses_at_rest(site: Site, expected: set[str]) -> list[str]:
    """What is already wrong before anybody has repaired anything: rows without bytes, confirmed files without rows."""
    database = open_database(site.url)
    with database.read() as connection:
        found = [f"no bytes: {d}" for d in conservation.lost_bytes(connection, BlobStore(site.folder / "blobs"))]
        known = set(connection.execute(sa.select(instance.c.sha256)).scalars())
    database.close()
    waiting = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (site.folder / "outgoing").iterdir()}
    return found + [f"confirmed and unknown: {digest}" for digest in expected - known - waiting]


def losses_after_recovery(site: Site, expected: set[str]) -> list[str]:
    """What is wrong when the next run has done its work."""
    database = open_database(site.url)
    with database.read() as connection:
        state = conservation.status(connection, NOON)
        broken = {
            "unaccounted": state["instances"]["unaccounted"],
            "unrouted": state["studies"]["unrouted"],
            "open": state["studies"]["open"],
            "missing items": state["worklist"]["missing"],
            "trail": len(audit_rows.verify_chain(connection)),
            "bytes": len(conservation.lost_bytes(connection, BlobStore(site.folder / "blobs"))),
            "unknown": len(expected - set(connection.execute(sa.select(instance.c.sha256)).scalars())),
            "not once": _not_once(connection, site),
        }
    database.close()
    return [f"{name}: {count}" for name, count in broken.items() if count]


def _not_once(connection: sa.Connection, site: Site) -> int:
    """Studies of the site without exactly one standing decision, result, trail entry and, where due, item."""
    query = (
        sa.select(
            sa.func.count(sa.distinct(decision.c.id)),
            sa.func.count(sa.distinct(outbox.c.id)),
            sa.func.count(sa.distinct(audit_event.c.sequence)),
        )
        .select_from(study)
        .join(case, sa.and_(case.c.study_id == study.c.id, case.c.state != "SUPERSEDED"), isouter=True)
        .join(decision, decision.c.case_id == case.c.id, isouter=True)
        .join(outbox, outbox.c.decision_id == decision.c.id, isouter=True)
        .join(
            audit_event,
            sa.and_(audit_event.c.case_id == case.c.id, audit_event.c.event == "case_decided"),
            isouter=True,
        )
        .where(study.c.study_instance_uid.in_(site.studies))
        .group_by(study.c.id)
    )
    found = [tuple(row) for row in connection.execute(query)]
    return sum(counts != (1, 1, 1) for counts in found) + abs(len(found) - len(site.studies))


@pytest.fixture
def house() -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing that the kernel has."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def crash(house: Path, template: Path, k: int, bug: Bug | None = None) -> tuple[bool, list[str]]:
    """A fresh house killed at step k and worked on again: whether it survived the first run, and all losses."""
    place = house / str(k)
    place.mkdir()
    shutil.copy(template, place / "own.db")
    site = Site(f"sqlite:///{place / 'own.db'}", place, ("1.1", "1.2"))
    expected = site.fill()
    survived = run_until(k, lambda: site.work(0), bug, house / STEPS)
    losses = losses_at_rest(site, expected)
    assert run_until(NEVER, lambda: site.work(10))
    losses += losses_after_recovery(site, expected)
    shutil.rmtree(place)
    return survived, losses


def crash_everywhere(house: Path, template: Path, *, stride: int, bug: Bug | None = None) -> dict[int, list[str]]:
    """Losses by step, for every `stride`-th step until a run survives."""
    found: dict[int, list[str]] = {}
    k, survived = 1, False
    while not survived:
        survived, losses = crash(house, template, k, bug)
        if losses:
            found[k] = losses
        k += stride
    assert k > 50
    return found


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GROUP", 3)


def test_killed_at_steps_all_over_a_run_nothing_is_lost_or_done_twice(house: Path, migrated_sqlite: Path) -> None:
    assert crash_everywhere(house, migrated_sqlite, stride=9) == {}


@pytest.mark.slow
def test_killed_at_every_step_nothing_is_lost_or_done_twice(house: Path, migrated_sqlite: Path) -> None:
    assert crash_everywhere(house, migrated_sqlite, stride=1) == {}


def test_killed_again_while_recovering_nothing_is_lost(house: Path, migrated_sqlite: Path) -> None:
    for first, second in ((20, 15), (60, 40), (90, 25), (120, 60)):
        place = house / f"{first}-{second}"
        place.mkdir()
        shutil.copy(migrated_sqlite, place / "own.db")
        site = Site(f"sqlite:///{place / 'own.db'}", place, ("1.1", "1.2"))
        expected = site.fill()
        assert not run_until(first, lambda site=site: site.work(0))
        run_until(second, lambda site=site: site.work(10))
        losses = losses_at_rest(site, expected)
        assert run_until(NEVER, lambda site=site: site.work(20))
        assert losses + losses_after_recovery(site, expected) == []


@pytest.mark.postgres
def test_killed_on_postgresql_nothing_is_lost_or_done_twice(house: Path, postgres_url: str, request) -> None:
    database_url = _own_database(request, postgres_url)
    k, survived = 5, False
    while not survived:
        site = Site(database_url, house / str(k), (f"1.{k}.1", f"1.{k}.2"))
        expected = site.fill()
        survived = run_until(k, lambda site=site, k=k: site.work(k))
        losses = losses_at_rest(site, expected)
        assert run_until(NEVER, lambda site=site, k=k: site.work(k + 10_000))
        assert [loss for loss in losses + losses_after_recovery(site, expected) if "bytes" not in loss] == []
        k += 29
    assert k > 50


def _own_database(request: Any, server: str) -> str:
    name = "crashes"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {request.getfixturevalue('migrated_postgres')}")
    return f"{server.rpartition('/')[0]}/{name}"


# Bugs planted in the child only.


def row_before_bytes() -> None:
    """The ledger row is committed first and the bytes are stored afterwards."""
    record, late = intake._record_group, []

    def receive(blobs: BlobStore, sandbox: Any, path: Path) -> Any:
        data = path.read_bytes()
        late.append((blobs, data))
        sha256 = hashlib.sha256(data).hexdigest()
        content = json.loads(data)
        refused = {"refusal": content["refuse"]} if "refuse" in content else {}
        return intake._Received(
            path=path, stored=Stored(sha256, len(data)), header=pretended_header(content["header"]), **refused
        )

    def record_then_store(*given: Any) -> Any:
        receipts = record(*given)
        while late:
            blobs, data = late.pop()
            blobs.put(data)
        return receipts

    intake._receive, intake._record_group = receive, record_then_store


def outbox_in_its_own_transaction() -> None:
    """The decision is committed first and its result is put into the outbox afterwards."""
    add, write, late = decision_rows._add_to_outbox, triage.write_decision, []
    decision_rows._add_to_outbox = lambda _connection, *given: late.append(given)

    def write_twice(database: Any, *given: Any, **rest: Any) -> Any:
        written = write(database, *given, **rest)
        with database.transaction() as connection:
            add(connection, *late.pop())
        return written

    triage.write_decision = write_twice


def confirmed_before_the_commit() -> None:
    """Receipts are handed out while the rows are not yet committed."""
    record = intake._record_group

    def hand_out_early(desk: Any, received: Any, now: Any) -> Iterator[Any]:
        for file in received:
            yield intake.Receipt(file.path, None, None, None)
        record(desk, received, now)

    intake._record_group = hand_out_early


def item_in_its_own_transaction() -> None:
    """The decision is committed first and the worklist item is scheduled afterwards."""
    schedule, write, late = decided_cases._schedule, triage.write_decision, []
    decided_cases._schedule = lambda _connection, *given: late.append(given)

    def write_twice(database: Any, *given: Any, **rest: Any) -> Any:
        written = write(database, *given, **rest)
        with database.transaction() as connection:
            schedule(connection, *late.pop())
        return written

    triage.write_decision = write_twice


@pytest.mark.parametrize("bug", [row_before_bytes, confirmed_before_the_commit])
def test_the_search_finds_bugs_planted_at_the_door(house: Path, migrated_sqlite: Path, bug: Bug) -> None:
    assert any(crash(house, migrated_sqlite, k, bug)[1] for k in range(1, 120))


@pytest.mark.parametrize("bug", [outbox_in_its_own_transaction, item_in_its_own_transaction])
def test_the_search_finds_bugs_planted_at_the_end(house: Path, migrated_sqlite: Path, bug: Bug) -> None:
    crash(house, migrated_sqlite, NEVER, bug)
    last = int((house / STEPS).read_text())
    assert any(crash(house, migrated_sqlite, k, bug)[1] for k in range(last, 0, -1))
