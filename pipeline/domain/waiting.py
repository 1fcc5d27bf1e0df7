"""How long cases wait for so many readers: a simulation of the reading room with the very order in which it hands cases out.

Times are minutes from any moment. A wait ends when a reader takes the case. Pure priority lets a finding that the model
missed wait for ever behind the others; what bounds it is that an overdue case goes before every one that is not.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_YEAR = 365 * 24 * 60.0


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One case that will be read: when it comes, how urgent it is, until when it may wait, how long its read takes."""

    at: float
    priority: int
    due: float
    reading: float
    critical: bool = False  #: has the finding, whatever the model said of it


@dataclass(frozen=True)
class Taken:
    """A case and the moment at which a reader took it."""

    arrival: Arrival
    begun: float

    @property
    def wait(self) -> float:
        """Minutes from coming in to being taken."""
        return self.begun - self.arrival.at

    @property
    def late(self) -> float:
        """Minutes past the moment it was due; negative when in time."""
        return self.begun - self.arrival.due


Rank = tuple[float, ...]
Order = Callable[[Arrival, float], Rank]


def reading_order(case: Arrival, now: float) -> Rank:
    """The worklist's order: overdue first, then by priority, then by the moment it is due."""
    return (float(case.due > now), -case.priority, case.due)


def first_come(case: Arrival, now: float) -> Rank:  # noqa: ARG001 - every order is asked with the moment
    """First in, first out: what the reading order is compared with."""
    return (case.at,)


def simulate(
    arrivals: Sequence[Arrival], on_duty: Callable[[float], int], *, order: Order = reading_order, tick: float = 60.0
) -> list[Taken]:
    """When each case is taken; `on_duty` says how many readers there are, asked at every event and every `tick` minutes.

    A reader who goes home finishes the case at hand. Raises ValueError when a year later cases still wait.
    """
    coming = sorted(arrivals, key=lambda case: case.at)
    waiting: list[Arrival] = []
    busy: list[float] = []  # when each reader at work will be done
    taken: list[Taken] = []
    now, place = 0.0, 0
    last = (coming[-1].at if coming else 0.0) + _YEAR
    while place < len(coming) or waiting:
        if now > last:
            raise ValueError(f"{len(waiting)} cases still wait a year after the last came; give the room more readers")
        now = _next_moment(now, coming[place].at if place < len(coming) else None, busy, tick)
        while busy and busy[0] <= now:
            heapq.heappop(busy)
        while place < len(coming) and coming[place].at <= now:
            waiting.append(coming[place])
            place += 1
        while waiting and len(busy) < on_duty(now):
            first = min(waiting, key=lambda case: order(case, now))
            waiting.remove(first)
            heapq.heappush(busy, now + first.reading)
            taken.append(Taken(first, now))
    return taken


def _next_moment(now: float, coming: float | None, busy: Sequence[float], tick: float) -> float:
    change = (now // tick + 1) * tick  # readers come and go on the tick
    return min(moment for moment in (change, coming, busy[0] if busy else None) if moment is not None)
