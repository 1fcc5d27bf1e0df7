"""How long cases wait in the order that the room hands them out, with what a model misses among them.

Reading a brain MRI took attending radiologists 11 minutes on average (Al Yassin et al., Academic Radiology 2018); the spread
of 48 % is that of experienced readers of CT colonography (Burling et al., European Radiology 2006: 10.9 minutes, SD 5.2).
Three readers by day, two in the evening, one at night, and as many cases an hour as keep them busy for the stated share.
12 % of the cases have the finding; the model sends 70 % of those to the front, 20 % to review, and misses one in ten.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from statistics import mean

import pytest

from pipeline.domain.waiting import Arrival, Order, Taken, first_come, reading_order, simulate
from pipeline.store import worklist_rows
from pipeline.store.database import Database, open_database
from tests.million_cases import fill
from tests.reading_room_cases import NOW, add_account

pytestmark = pytest.mark.statistical
LIMITS = {2: 60.0, 1: 240.0, 0: 1440.0}  #: minutes, as the shipped protocol has them
READING, SPREAD = 11.0, 5.2 / 10.9
DAY, DAYS = 1440.0, 14
SEEDS = range(12)


def on_duty(minute: float) -> int:
    hour = minute % DAY / 60
    if 8 <= hour < 18:
        return 3
    return 2 if 18 <= hour < 22 else 1


def two_weeks(seed: int, *, load: float, low: float = 0.50, nightly: int = 0) -> list[Arrival]:
    """Arrivals that keep readers busy for `load` of their time; `low` of those without finding are of low priority.

    `nightly` more come between two and three every night, when one reader is there.
    """
    dice = random.Random(seed)
    times = list(_steady(dice, load))
    times += [day * DAY + 120 + 60 * dice.random() for day in range(DAYS) for _ in range(nightly)]
    return [_case(dice, at, low) for at in times]


def _steady(dice: random.Random, load: float) -> Iterator[float]:
    at = 0.0
    while (at := at + dice.expovariate(3 * load / READING)) < DAYS * DAY:
        if dice.random() * 3 < on_duty(at):
            yield at


def _case(dice: random.Random, at: float, low: float) -> Arrival:
    sigma = math.sqrt(math.log(1 + SPREAD**2))
    reading = dice.lognormvariate(math.log(READING) - sigma**2 / 2, sigma)
    critical, draw = dice.random() < 0.12, dice.random()
    if critical:
        priority = 2 if draw < 0.7 else 1 if draw < 0.9 else 0
    else:
        priority = 2 if draw < 0.03 else 1 if draw < 1 - low else 0
    return Arrival(at=at, priority=priority, due=at + LIMITS[priority], reading=reading, critical=critical)


def never_ageing(case: Arrival, _: float) -> tuple[float, ...]:
    """The planted fault: priority alone."""
    return (-case.priority, case.due)


@cache
def waits(
    load: float, order: Order, *, low: float = 0.50, nightly: int = 0, seeds: int = len(SEEDS)
) -> tuple[tuple[Taken, ...], ...]:
    return tuple(
        tuple(simulate(two_weeks(seed, load=load, low=low, nightly=nightly), on_duty, order=order))
        for seed in SEEDS[:seeds]
    )


def latest(runs: Sequence[Sequence[Taken]]) -> float:
    """The most that any case waited past its due moment, minutes."""
    return max(each.late for run in runs for each in run)


def critical_wait(run: Sequence[Taken]) -> float:
    return mean(each.wait for each in run if each.arrival.critical)


STABLE = [(0.75, 0), (0.75, 6), (0.85, 0), (0.85, 6)]


@pytest.mark.parametrize(("load", "nightly"), STABLE)
def test_under_a_stable_load_no_case_of_any_class_waits_longer_than_it_may(load: float, nightly: int) -> None:
    """Of 600 two weeks with other seeds two had a case that was late, by 6 minutes: twelve fail in 4 of 100 draws."""
    assert latest(waits(load, reading_order, nightly=nightly)) <= 0


@pytest.mark.parametrize(("load", "nightly"), STABLE)
def test_those_with_the_finding_wait_at_most_two_thirds_of_first_in_first_out(load: float, nightly: int) -> None:
    """Those that the model missed are counted with the others.

    With 600 other seeds the ratio was 0.35 to 0.48 on average, in single two weeks at most 0.80: no failure was seen.
    """
    ours, fifo = waits(load, reading_order, nightly=nightly), waits(load, first_come, nightly=nightly)
    assert mean(map(critical_wait, ours)) <= 2 / 3 * mean(map(critical_wait, fifo))
    assert all(critical_wait(one) < critical_wait(other) for one, other in zip(ours, fifo, strict=True))


def test_first_in_first_out_breaks_the_limit_of_the_urgent_where_our_order_keeps_it() -> None:
    assert latest(waits(0.85, first_come)) > 60
    assert latest(waits(0.85, reading_order)) <= 0


def test_a_missed_finding_among_urgent_ones_is_reached_soon_after_it_is_due() -> None:
    """A nearly full room, where 94 of 100 cases are more urgent than what the model missed.

    Twelve other groups of twelve seeds gave 81 to 577 minutes, and 729 to 3 011 without ageing.
    """
    assert latest(waits(0.93, reading_order, low=0.05)) <= 660


def test_without_ageing_the_same_missed_finding_waits_far_longer() -> None:
    assert latest(waits(0.93, never_ageing, low=0.05)) > 660


def test_in_an_overload_the_urgent_are_late_by_less_than_everybody_under_first_in_first_out() -> None:
    ours, fifo = waits(1.1, reading_order, seeds=3), waits(1.1, first_come, seeds=3)
    urgent = [[each for each in run if each.arrival.priority == 2] for run in ours]
    assert latest(urgent) < 120
    assert latest(fifo) > 1440
    assert mean(map(critical_wait, ours)) < 0.5 * mean(map(critical_wait, fifo))


def test_in_an_overload_every_case_is_read_in_the_end() -> None:
    for seed, run in zip(SEEDS, waits(1.1, reading_order, seeds=3), strict=False):
        assert sorted(each.arrival.at for each in run) == sorted(case.at for case in two_weeks(seed, load=1.1))


def test_the_room_hands_cases_out_in_the_order_that_is_simulated(database_url: str) -> None:
    fill(database_url, 150)
    database = open_database(database_url)
    try:
        ranks = handed_out(database)
    finally:
        database.close()
    assert len(ranks) == 150
    assert ranks == sorted(ranks)
    assert {rank[0] for rank in ranks} == {0.0, 1.0}, "some are overdue and some are not"


def handed_out(database: Database) -> list[tuple[float, ...]]:
    """The simulation's rank of every case, in the order in which the room hands them out."""
    from sqlalchemy import select

    from pipeline.store.tables import worklist_item

    reader, ranks = add_account(database), []
    now = NOW + timedelta(minutes=3)
    with database.transaction() as connection:
        rows = connection.execute(select(worklist_item)).all()
        about = {row.case_id: (row.priority, (row.due_at - now).total_seconds() / 60) for row in rows}
        while claim := worklist_rows.claim_next_item(
            connection, account_id=reader, specialties=None, lease=timedelta(minutes=15), now=now
        ):
            priority, due = about[claim.case_id]
            ranks.append(reading_order(Arrival(at=0, priority=priority, due=due, reading=1), 0))
    return ranks
