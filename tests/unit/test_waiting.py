from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.domain.waiting import Arrival, Taken, first_come, simulate


def a_case(at: float, priority: int, limit: float, reading: float = 10.0) -> Arrival:
    return Arrival(at=at, priority=priority, due=at + limit, reading=reading)


def one(_: float) -> int:
    return 1


def begun(taken: Sequence[Taken]) -> list[tuple[float, int, float]]:
    """When each case came, its priority, and when it was taken."""
    return [(each.arrival.at, each.arrival.priority, each.begun) for each in taken]


def test_the_urgent_one_goes_first_and_nobody_puts_a_case_down_for_it() -> None:
    cases = [a_case(0, 0, 1440), a_case(1, 0, 1440), a_case(2, 2, 60)]
    assert begun(simulate(cases, one)) == [(0, 0, 0), (2, 2, 10), (1, 0, 20)]


def test_first_come_is_first_served_whatever_is_urgent() -> None:
    cases = [a_case(0, 0, 1440), a_case(1, 0, 1440), a_case(2, 2, 60)]
    assert begun(simulate(cases, one, order=first_come)) == [(0, 0, 0), (1, 0, 10), (2, 2, 20)]


def test_an_overdue_case_goes_before_an_urgent_one_that_is_not() -> None:
    cases = [a_case(0, 2, 60, reading=30), a_case(1, 0, 20), a_case(2, 2, 60)]
    assert begun(simulate(cases, one)) == [(0, 2, 0), (1, 0, 30), (2, 2, 40)]


def test_of_overdue_cases_the_urgent_one_goes_first_and_of_equals_the_one_due_first() -> None:
    cases = [a_case(0, 1, 60, reading=100), a_case(1, 0, 5), a_case(2, 2, 5), a_case(3, 2, 3)]
    assert begun(simulate(cases, one)) == [(0, 1, 0), (3, 2, 100), (2, 2, 110), (1, 0, 120)]


def test_two_readers_read_at_once_and_one_who_goes_home_finishes_first() -> None:
    cases = [a_case(55, 1, 240, reading=20), a_case(56, 1, 240, reading=20), a_case(57, 1, 240)]
    until_one = begun(simulate(cases, lambda now: 2 if now < 60 else 1))
    assert until_one == [(55, 1, 55), (56, 1, 56), (57, 1, 76)]  # at 75 one is done, and one is still at work


def test_cases_that_come_at_night_wait_for_the_morning() -> None:
    assert begun(simulate([a_case(0, 2, 60)], lambda now: int(now >= 480))) == [(0, 2, 480)]


def test_waits_are_counted_from_coming_in_and_lateness_from_the_moment_due() -> None:
    (taken,) = simulate([a_case(0, 2, 60)], lambda now: int(now >= 480))
    assert (taken.wait, taken.late) == (480, 420)


def test_a_room_without_readers_is_refused_rather_than_waited_for() -> None:
    with pytest.raises(ValueError, match="give the room more readers"):
        simulate([a_case(0, 2, 60)], lambda _: 0)
