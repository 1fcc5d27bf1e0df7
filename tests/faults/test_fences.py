"""Workers that stall, race and come back: one holder a case, and a lost hold writes nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.domain.evidence import Analysis
from pipeline.domain.volume import Volume
from pipeline.errors import RetryLater
from pipeline.intake import accept_file, accept_folder
from pipeline.store import case_rows, conservation
from pipeline.store.blobs import BlobStore
from pipeline.store.case_rows import ClaimedCase, LostClaim
from pipeline.store.database import Database, open_database
from pipeline.store.tables import audit_event, case, decision, outbox, routine_proof, worklist_item
from pipeline.triage import triage_case
from tests.pretend_scanner import (
    KEY,
    MINUTE,
    NOON,
    PretendedRelease,
    PretendedSandbox,
    claim,
    seal_all,
    slice_bytes,
    tiny_protocol,
    write_study,
)

PROTOCOL = tiny_protocol()
START = NOON + 11 * MINUTE
SANDBOX: Any = PretendedSandbox()


def fill(database: Database, folder: Path, studies: int) -> BlobStore:
    for number in range(studies):
        write_study(folder / "in", f"1.{number}", slices=(1, 2), patient_id=f"P{number}")
    blobs = BlobStore(folder / "blobs")
    given: dict[str, Any] = {"source": "folder", "pseudonym_key": KEY, "now": lambda: NOON}
    list(accept_folder(database, blobs, SANDBOX, folder / "in", **given))
    seal_all(database, PROTOCOL)
    return blobs


def decide(database: Database, blobs: BlobStore, held: ClaimedCase, release: Any = None, *, now: Any = START) -> None:
    triage_case(
        database,
        blobs,
        SANDBOX,
        release or PretendedRelease(PROTOCOL),
        held,
        PROTOCOL,
        audit_key=KEY,
        now=lambda: now,
    )


def written(database: Database) -> dict[str, int]:
    tables = (decision, outbox, routine_proof, worklist_item, audit_event)
    with database.read() as connection:
        return {t.name: connection.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in tables}


def together(count: int, work: Any) -> None:
    """Run `work(i)` in that many threads at once and pass any exception on."""
    gate, errors = threading.Barrier(count), []

    def one(index: int) -> None:
        try:
            gate.wait()
            work(index)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_racing_workers_never_hold_one_case(database_url: str, tmp_path: Path) -> None:
    database = open_database(database_url)
    fill(database, tmp_path, 12)
    held: list[list[ClaimedCase]] = [[] for _ in range(4)]

    def work(index: int) -> None:
        own = open_database(database_url)
        while found := claim(own, PROTOCOL, owner=f"w{index}", limit=1):
            held[index] += found
        own.close()

    together(4, work)
    ids = [one.case_id for of in held for one in of]
    assert len(ids) == len(set(ids)) == 12
    database.close()


def test_racing_workers_decide_every_case_once(database_url: str, tmp_path: Path) -> None:
    database = open_database(database_url)
    blobs = fill(database, tmp_path, 8)

    def work(index: int) -> None:
        own = open_database(database_url)
        for _ in range(30):
            for held in claim(own, PROTOCOL, owner=f"w{index}", limit=2):
                decide(own, blobs, held)
        own.close()

    together(3, work)
    assert written(database)["decision"] == 8
    with database.read() as connection:
        assert conservation.unrouted(connection) == []
    database.close()


def test_one_hold_used_from_two_threads_decides_once(database_url: str, tmp_path: Path) -> None:
    database = open_database(database_url)
    blobs = fill(database, tmp_path, 1)
    (held,) = claim(database, PROTOCOL)
    lost: list[int] = []

    def work(index: int) -> None:
        try:
            decide(database, blobs, held)
        except LostClaim:
            lost.append(index)

    together(4, work)
    assert len(lost) == 3
    assert written(database)["decision"] == 1
    database.close()


def test_racing_intakes_of_one_study_accept_every_image_once(database_url: str, tmp_path: Path) -> None:
    """Orthanc's own test: several senders upload the same study several times at once."""
    database, blobs = open_database(database_url), BlobStore(tmp_path / "blobs")
    files = write_study(tmp_path / "in", slices=range(1, 6))

    def work(_: int) -> None:
        own = open_database(database_url)
        for path in files * 2:
            _patiently(own, blobs, path)
        own.close()

    together(4, work)
    with database.read() as connection:
        found = conservation.status(connection, NOON)
    assert found["instances"] == {"accepted": 5, "duplicate": 35, "quarantined": 0, "unaccounted": 0}
    assert found["studies"]["open"] == 1
    database.close()


def _patiently(database: Database, blobs: BlobStore, path: Path) -> None:
    for _ in range(10):
        try:
            accept_file(database, blobs, SANDBOX, path, source="f", pseudonym_key=KEY, now=NOON)
        except RetryLater:
            continue
        return
    raise AssertionError("the database stayed busy")


@pytest.mark.parametrize("meanwhile", ["claimed", "decided", "superseded"])
def test_a_stale_hold_writes_nothing_even_with_a_clock_that_stands_still(
    database: Database, tmp_path: Path, meanwhile: str
) -> None:
    blobs = fill(database, tmp_path, 1)
    (zombie,) = claim(database, PROTOCOL, owner="zombie", lease=MINUTE)
    if meanwhile == "superseded":
        late = tmp_path / "late"
        late.write_bytes(slice_bytes("1.0", 3, patient_id="P0"))
        accept_file(database, blobs, SANDBOX, late, source="f", pseudonym_key=KEY, now=START)
        seal_all(database, PROTOCOL, START)
    else:
        (other,) = claim(database, PROTOCOL, owner="other", now=START + MINUTE)
        if meanwhile == "decided":
            decide(database, blobs, other, now=START + MINUTE)
    before = written(database)
    with pytest.raises(LostClaim):
        decide(database, blobs, zombie, now=START)  # its own clock still says that the lease is good
    with database.transaction() as connection:
        named: dict[str, Any] = {"case_id": zombie.case_id, "owner": "zombie", "fence": zombie.fence}
        assert not case_rows.renew(connection, **named, lease=MINUTE, now=START)
        assert not case_rows.release(connection, **named, not_before=START)
    assert written(database) == before


class StopsInTheMiddle(PretendedRelease):
    """Stops its own process in the middle of the analysis, until somebody continues it."""

    def analyse(self, case_key: str, volumes: Sequence[Volume]) -> Analysis:
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().analyse(case_key, volumes)


def test_a_worker_stopped_past_its_lease_comes_back_and_writes_nothing(database_url: str, tmp_path: Path) -> None:
    """The real thing: SIGSTOP, another worker finishes, SIGCONT."""
    setup = open_database(database_url)
    blobs = fill(setup, tmp_path, 3)
    setup.close()
    for _ in range(3):
        zombie = os.fork()
        if zombie == 0:
            os._exit(_work_as_zombie(database_url, blobs))
        _, status = os.waitpid(zombie, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        database = open_database(database_url)
        (held,) = claim(database, PROTOCOL, owner="other", now=START + 2 * MINUTE, limit=1)
        decide(database, blobs, held, now=START + 2 * MINUTE)
        before = written(database)
        os.kill(zombie, signal.SIGCONT)
        _, status = os.waitpid(zombie, 0)
        assert os.WEXITSTATUS(status) == 7
        assert written(database) == before
        database.close()


def _work_as_zombie(url: str, blobs: BlobStore) -> int:
    database = open_database(url)
    (held,) = claim(database, PROTOCOL, owner="zombie", lease=MINUTE, limit=1)
    try:
        decide(database, blobs, held, StopsInTheMiddle(PROTOCOL))
    except LostClaim:
        return 7
    return 0


def test_without_the_fence_the_zombie_would_write(database: Database, tmp_path: Path, monkeypatch) -> None:
    """The guard broken on purpose: a hold that is compared by case alone overwrites the new holder's."""
    blobs = fill(database, tmp_path, 1)
    (zombie,) = claim(database, PROTOCOL, owner="zombie", lease=MINUTE)
    claim(database, PROTOCOL, owner="other", now=START + MINUTE)
    monkeypatch.setattr(case_rows, "_held", lambda case_id, *_: case.c.id == case_id)
    decide(database, blobs, zombie, now=START + timedelta(seconds=1))
    assert written(database)["decision"] == 1
