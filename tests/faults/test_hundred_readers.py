from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.store.database import Database, open_database
from pipeline.web.app import LEASE
from tests.claim_history import History, Hold, forgotten, told_wrong, written_wrong
from tests.crowd_of_readers import Crowd, seat_readers, send_crowd
from tests.million_cases import fill
from tests.reading_room_cases import NOW
from tests.served_room import SharedClock, served_room


def crowd_at(
    url: str, folder: Path, *, readers: int, claims: int, cases: int, processes: int = 1, wound: str | None = None
) -> tuple[Crowd, list[str]]:
    """A crowd at a fresh store of that many cases, and all that is wrong afterwards."""
    fill(url, cases)
    database = open_database(url)
    clock = SharedClock(folder / "clock", start=True)
    seats = seat_readers(database, readers, clock())
    with served_room(url, folder / "clock", processes=processes, wound=wound) as room:
        crowd = send_crowd(room.addresses, seats, clock, claims=claims)
    problems = judge(database, crowd, clock, cases)
    database.close()
    return crowd, problems


def judge(database: Database, crowd: Crowd, clock: SharedClock, cases: int) -> list[str]:
    clock.jump(2 * LEASE)
    return [
        *told_wrong(crowd.history),
        *written_wrong(database, crowd.history),
        *forgotten(database, crowd.history, cases=cases, now=clock()),
    ]


def test_twenty_readers_never_hold_one_case_together_and_none_is_forgotten(database_url: str, tmp_path: Path) -> None:
    crowd, problems = crowd_at(database_url, tmp_path, readers=20, claims=240, cases=2_000)
    assert problems == []
    history = crowd.history
    assert len(crowd.waits) >= 240
    assert sum(hold.read for hold in history.holds) > 40
    assert history.late_refused > 0, "nobody came back too late"
    assert history.cut > 0, "no connection was cut"
    assert len({hold.case_id for hold in history.holds}) < len(history.holds), "no case passed to a second reader"


@pytest.mark.parametrize(
    ("wound", "found"),
    [
        ("takes what is held", ["got it while", "opened by"]),
        ("lets ended holds write", ["wrote after the hold had ended", "which held nothing at that moment"]),
        ("never ends a lease", ["409"]),
    ],
)
def test_a_room_with_a_wound_is_found_out(
    wound: str, found: Sequence[str], migrated_sqlite: Path, tmp_path: Path
) -> None:
    """Both judges see what both can see; that a case is never given out again shows in the answers alone."""
    shutil.copy(migrated_sqlite, tmp_path / "room.db")
    url = f"sqlite:///{tmp_path / 'room.db'}"
    _, problems = crowd_at(url, tmp_path, readers=8, claims=80, cases=200, wound=wound)
    for sign in found:
        assert any(sign in problem for problem in problems), problems[:5]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_hundred_readers_take_five_thousand_of_a_million_cases(
    processes: int, database_url: str, tmp_path: Path
) -> None:
    crowd, problems = crowd_at(database_url, tmp_path, readers=100, claims=5_000, cases=1_000_000, processes=processes)
    assert problems == []
    assert len(crowd.waits) >= 5_000


HELD = Hold(
    reader="a", case_id="c1", fence=1, asked=NOW, told=NOW, since=NOW, until=NOW + LEASE
)  # what the judge's own tests begin with


def told(*holds: Hold) -> list[str]:
    return told_wrong(History(lease=LEASE, holds=list(holds)))


def later(minutes: float, **changes: object) -> Hold:
    at = NOW + timedelta(minutes=minutes)
    given = {"reader": "b", "fence": 2, "asked": at, "told": at, "since": at, "until": at + LEASE} | changes
    return replace(HELD, **given)  # type: ignore[arg-type]


def test_the_judge_lets_a_case_pass_on_when_its_lease_has_ended_and_not_a_moment_before() -> None:
    assert told(HELD, later(15)) == []
    assert told(HELD, later(14.99)) == ["c1: b got it while a held it"]


def test_the_judge_lets_a_case_pass_on_after_its_holder_began_to_give_it_back() -> None:
    assert told(replace(HELD, let_go=NOW), later(1)) == []
    assert told(replace(HELD, let_go=later(2).asked), later(1)) == ["c1: b got it while a held it"]


def test_the_judge_sees_one_fence_given_twice_and_fences_that_shrink() -> None:
    assert told(HELD, later(20, fence=1)) == ["c1: a and b got the same fence"]
    assert "c1: a later claim got a smaller fence" in told(replace(later(20), fence=1), replace(HELD, fence=2))


def test_the_judge_sees_a_case_that_is_given_out_after_it_was_read() -> None:
    assert told(replace(HELD, read=True, let_go=NOW), later(20)) == ["c1: b got it after a had read it"]
