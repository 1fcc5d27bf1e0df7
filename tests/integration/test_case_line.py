"""The line of one chunk: order of work, writing together, and what one case's trouble does to the others."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flows import case_line
from flows.case_line import CaseLine
from pipeline.domain.case import Reason, Route
from pipeline.errors import RetryLater
from pipeline.intake import accept_file
from pipeline.store import case_rows, safe_state_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.case_rows import LostClaim
from pipeline.store.database import Database
from pipeline.store.decided_cases import write_decision
from pipeline.store.tables import case, decision
from pipeline.triage import Bench, PreparedCase
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
)

PROTOCOL = tiny_protocol()
LATER = NOON + 11 * MINUTE


class Hall:
    """Three claimed cases in a database, and a line that works on them with a pretended release."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.blobs, self.sandbox = database, BlobStore(folder / "blobs"), PretendedSandbox()
        for study in ("1.1", "1.2", "1.3"):
            for number in (1, 2):
                path = folder / f"{study}-{number}"
                path.write_bytes(slice_bytes(study, number))
                accept_file(
                    database, self.blobs, self.sandbox, path, source="folder", pseudonym_key=KEY, now=NOON
                )  # fmt: skip
        seal_all(database, PROTOCOL)
        self.cases = claim(database, PROTOCOL)
        self.decided: list[str] = []
        self.trouble: list[tuple[str, str]] = []
        self.seconds: dict[str, float] = dict.fromkeys(("waiting for images", "analysis", "writing"), 0.0)

    def work(self, release: Any) -> None:
        line = CaseLine(
            self.database,
            audit_key=KEY,
            now=lambda: LATER,
            decided=lambda claimed, _: self.decided.append(claimed.case_id),
            trouble=lambda claimed, error: self.trouble.append((claimed.case_id, type(error).__name__)),
            seconds=self.seconds,
        )
        bench = Bench(blobs=self.blobs, sandbox=self.sandbox, predictor=release, protocol=PROTOCOL)
        line.run(self.cases, PROTOCOL, lambda _: bench)

    def written(self) -> dict[str, str]:
        with self.database.read() as connection:
            return {row.case_id: row.route for row in connection.execute(sa.select(decision))}


@pytest.fixture
def hall(database: Database, tmp_path: Path) -> Hall:
    return Hall(database, tmp_path)


def ids(hall: Hall) -> list[str]:
    return [claimed.case_id for claimed in hall.cases]


class Release(PretendedRelease):
    """A pretended release that does something before it speaks of each case."""

    def __init__(self, before: Any) -> None:
        super().__init__(PROTOCOL, 0.05)
        self.count, self._before = 0, before

    def analyse(self, case_key: str, volumes: Any) -> Any:
        self.count += 1
        self._before(self.count)
        return super().analyse(case_key, volumes)


def test_all_decisions_of_a_chunk_are_written_in_one_transaction(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        case_line, "write_decisions", lambda *given, _of=case_line.write_decisions, **rest: seen.append(len(given[2])) or _of(*given, **rest)
    )  # fmt: skip
    hall.work(Release(lambda _: None))
    assert seen == [3]
    assert hall.decided == ids(hall)
    assert set(hall.written().values()) == {"ROUTINE"}
    assert all(spent > 0 for spent in hall.seconds.values())


def test_nothing_waits_unwritten_beyond_its_time(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_line, "LONGEST_UNWRITTEN_S", 0.0)
    seen: list[int] = []
    hall.work(Release(lambda _: seen.append(len(hall.written()))))
    assert seen == [0, 1, 2]


def test_the_next_case_is_read_while_the_release_speaks_of_this_one(hall: Hall) -> None:
    reading = threading.Event()
    read, calls = hall.sandbox.read_series, []

    def told(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            reading.set()
        return read(*given)

    hall.sandbox.read_series = told
    met = []
    hall.work(Release(lambda count: met.append(reading.wait(20)) if count == 1 else None))
    assert met == [True]


def test_a_lost_claim_costs_no_other_case_its_decision(hall: Hall) -> None:
    lost = hall.cases[1]

    def taken_away(count: int) -> None:
        if count == 3:
            with hall.database.transaction() as connection:
                connection.execute(sa.update(case).where(case.c.id == lost.case_id).values(fence=lost.fence + 1))

    hall.work(Release(taken_away))
    assert hall.trouble == [(lost.case_id, LostClaim.__name__)]
    assert set(hall.written()) == set(ids(hall)) - {lost.case_id}


def test_a_busy_registry_or_disk_stops_the_line_with_everything_before_it_written(hall: Hall) -> None:
    def busy(count: int) -> None:
        if count == 2:
            raise RetryLater("busy")

    with pytest.raises(RetryLater):
        hall.work(Release(busy))
    assert list(hall.written()) == hall.decided == ids(hall)[:1]
    hall.cases = hall.cases[1:]
    hall.work(Release(lambda _: None))
    assert len(hall.written()) == 3


def test_a_safe_state_that_begins_before_the_writing_sends_every_case_to_a_clinician(hall: Hall) -> None:
    def stop(count: int) -> None:
        if count == 3:
            with hall.database.transaction() as connection:
                safe_state_rows.set_safe_state(connection, on=True, actor="test", reason="drift", at=LATER)

    hall.work(Release(stop))
    assert set(hall.written().values()) == {"REVIEW"}
    with hall.database.read() as connection:
        assert all(Reason.STOPPED in row.reasons for row in connection.execute(sa.select(decision)))


def test_a_safe_state_that_begins_before_one_case_is_written_alone_sends_it_to_a_clinician(hall: Hall) -> None:
    bench = Bench(
        blobs=hall.blobs, sandbox=hall.sandbox, predictor=Release(lambda _: None), protocol=PROTOCOL
    )  # fmt: skip
    ready = PreparedCase(hall.database, bench, hall.cases[0]).decided(lambda: LATER)
    assert ready.record.decision.route == Route.ROUTINE
    with hall.database.transaction() as connection:
        safe_state_rows.set_safe_state(connection, on=True, actor="test", reason="drift", at=LATER)
    found = write_decision(hall.database, PROTOCOL, ready, audit_key=KEY)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.STOPPED,))
    assert list(hall.written().values()) == ["REVIEW"]


def test_a_case_begun_before_is_worked_on_with_nothing_unwritten_beside_it(hall: Hall) -> None:
    second = hall.cases[1]
    with hall.database.transaction() as connection:
        for claimed in hall.cases:
            again = claimed.case_id == second.case_id
            case_rows.release(
                connection, case_id=claimed.case_id, owner=claimed.owner, fence=claimed.fence,
                not_before=NOON + timedelta(seconds=0 if again else 1),
            )  # fmt: skip
    hall.cases = claim(hall.database, PROTOCOL)
    assert all(claimed.attempts == 2 for claimed in hall.cases)
    seen: list[int] = []
    hall.work(Release(lambda _: seen.append(len(hall.written()))))
    assert seen == [0, 1, 2]


def test_without_any_case_the_line_does_nothing(hall: Hall) -> None:
    hall.cases = []
    hall.work(None)
    assert (hall.decided, hall.trouble, hall.written()) == ([], [], {})


def test_the_route_is_the_one_that_the_case_gets_alone(hall: Hall) -> None:
    hall.work(PretendedRelease(PROTOCOL, 0.5))
    assert set(hall.written().values()) == {str(Route.REVIEW)}
