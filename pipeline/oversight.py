"""Step 3, above the readers: how the room does, the story of one case, stopping automation and arming it again.

Stopping takes one person and works at the next decision. Arming takes two people, each with their own sign-in, about
the same stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pipeline.domain.case import Route
from pipeline.domain.notices import NoticeKind, SendingState
from pipeline.domain.oversight_figures import Share, WaitSummary, share, summarise_waits
from pipeline.errors import NotAllowed, UnfinishedRead
from pipeline.store import (
    agreement_rows,
    alias_rows,
    audit_rows,
    conservation,
    figure_rows,
    notice_rows,
    rearm_rows,
    safe_state_rows,
)
from pipeline.store.account_rows import Account, May
from pipeline.store.agreement_rows import AgreementTables
from pipeline.store.alias_rows import AliasMove
from pipeline.store.database import Database, Transaction
from pipeline.store.figure_rows import Arrival, EmergencySeen, ReaderLoad, Standing, Wait
from pipeline.store.notice_rows import Sending
from pipeline.store.rearm_rows import RearmRequest
from pipeline.store.safe_state_rows import Switch

SHORTEST_REASON = 10  #: characters
LONGEST_REASON = 500
FEWEST_SHOWN = 5  #: reads below which a rate would tell of single cases
_ACTOR_LENGTH = 64
_SHOWN = 20
_SETTLES_AFTER = timedelta(days=7)  #: so that a house whose people are all new can still arm again
_NOTICES_SHOWN = 100
_PATIENCE = timedelta(minutes=10)  #: notices are sent by a scheduled run


class Period(StrEnum):
    """How far back the figures look."""

    DAY = "24h"  #: The last 24 hours, by the hour.
    WEEK = "7d"  #: The last 7 days, by the day.
    MONTH = "30d"  #: The last 30 days, by the day.

    @property
    def length(self) -> timedelta:
        """How long the period is."""
        return {Period.DAY: timedelta(hours=24), Period.WEEK: timedelta(days=7), Period.MONTH: timedelta(days=30)}[self]

    @property
    def step(self) -> timedelta:
        """How long one of its columns is."""
        return timedelta(hours=1) if self is Period.DAY else timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What arrived in one stretch of the period, and which share was handed to readers."""

    start: datetime
    places: dict[Route, int]
    deferral: Share


@dataclass(frozen=True, kw_only=True)
class WaitLine:
    """The waits of one priority, or of all where it is None; `limit_minutes` is what most of its items are allowed."""

    priority: int | None
    summary: WaitSummary
    limit_minutes: float | None
    minutes: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SafeState:
    """The stop that is on, or None, who has asked to end it, and how it was switched before."""

    stop: Switch | None
    requests: tuple[RearmRequest, ...]
    history: tuple[Switch, ...]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the law of conservation finds, and what is still on its way."""

    unaccounted: int
    unrouted: int
    unlisted: int
    undecided: int
    instances: dict[str, int]
    sealed: int
    deliveries: dict[str, int]

    @property
    def is_whole(self) -> bool:
        """Whether everything that came is accounted for."""
        return self.unaccounted == self.unlisted == 0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that the lead's page shows of one period; no patient and no case."""

    period: Period
    since: datetime
    now: datetime
    arrived: int
    buckets: tuple[Bucket, ...]
    deferral: Share
    waits: tuple[WaitLine, ...]
    standing: Standing
    loads: tuple[ReaderLoad, ...]
    agreement: AgreementTables
    kept: Kept
    releases: dict[str, AliasMove]
    safe_state: SafeState
    emergencies: tuple[EmergencySeen, ...]
    notices: dict[str, int]
    troubles: tuple[Sending, ...]
    untold: int


def figures(database: Database, period: Period, *, asking: Account, now: datetime) -> Figures:
    """How the room does over a period, as somebody may know it who reads here too. Raises RetryLater."""
    since = now - period.length
    with database.read() as connection:
        arrivals = figure_rows.arrivals(connection, since=since, until=now)
        sendings = notice_rows.troubled(connection, limit=_SHOWN)
        return Figures(
            period=period,
            since=since,
            now=now,
            arrived=len(arrivals),
            buckets=_buckets(arrivals, period, since, now),
            deferral=_deferral(arrivals),
            waits=_wait_lines(figure_rows.waits(connection, since=since, now=now)),
            standing=figure_rows.standing(connection, now, asking=asking.id),
            loads=tuple(figure_rows.loads(connection, since=since, now=now)),
            agreement=agreement_rows.tables(connection, since=since, asking=asking.id),
            kept=_kept(connection, now),
            releases=alias_rows.champions(connection),
            safe_state=_safe_state(connection),
            emergencies=tuple(figure_rows.emergencies(connection, since=since, limit=_SHOWN)),
            notices=notice_rows.counts(connection),
            troubles=tuple(sendings),
            untold=notice_rows.untold(connection, before=now - _PATIENCE),
        )


def _buckets(arrivals: list[Arrival], period: Period, since: datetime, now: datetime) -> tuple[Bucket, ...]:
    """Whole hours or days of UTC; the first is cut by the beginning of the period and the last by now."""
    start = since.replace(minute=0, second=0, microsecond=0)
    if period is not Period.DAY:
        start = start.replace(hour=0)
    count = (now - start) // period.step + 1
    inside: list[list[Arrival]] = [[] for _ in range(count)]
    for arrival in arrivals:
        inside[(arrival.at - start) // period.step].append(arrival)
    return tuple(
        Bucket(start=start + index * period.step, places=_places(found), deferral=_deferral(found))
        for index, found in enumerate(inside)
    )


def _places(arrivals: list[Arrival]) -> dict[Route, int]:
    return {route: sum(arrival.place is route for arrival in arrivals) for route in Route}


def _deferral(arrivals: list[Arrival]) -> Share:
    return share(sum(arrival.place is Route.REVIEW for arrival in arrivals), len(arrivals))


def _wait_lines(waits: list[Wait]) -> tuple[WaitLine, ...]:
    return tuple(
        _wait_line(priority, [wait for wait in waits if priority is None or wait.priority == priority])
        for priority in (None, 2, 1, 0)
    )


def _wait_line(priority: int | None, waits: list[Wait]) -> WaitLine:
    minutes = sorted(wait.minutes for wait in waits)
    limits = sorted(wait.limit_minutes for wait in waits)
    return WaitLine(
        priority=priority,
        summary=summarise_waits(
            minutes,
            still_open=sum(wait.is_open for wait in waits),
            over_limit=sum(wait.minutes > wait.limit_minutes for wait in waits),
        ),
        limit_minutes=limits[len(limits) // 2] if limits and priority is not None else None,
        minutes=tuple(minutes),
    )


def _kept(connection: Transaction, now: datetime) -> Kept:
    found: dict[str, Any] = conservation.status(connection, now)
    return Kept(
        unaccounted=found["instances"].pop("unaccounted"),
        unrouted=found["studies"]["unrouted"],
        unlisted=found["worklist"]["missing"],
        undecided=figure_rows.undecided(connection),
        instances=found["instances"],
        sealed=found["studies"]["sealed"],
        deliveries=found["door"]["deliveries"],
    )


def safe_state(database: Database) -> SafeState:
    """Whether automation is stopped, by whom, and who has asked to arm it again."""
    with database.read() as connection:
        return _safe_state(connection)


def _safe_state(connection: Transaction) -> SafeState:
    stop = safe_state_rows.current_stop(connection)
    asked = [] if stop is None else rearm_rows.requests_for(connection, stop_sequence=stop.sequence)
    return SafeState(stop=stop, requests=tuple(asked), history=tuple(safe_state_rows.history(connection, limit=_SHOWN)))


def stop(database: Database, person: Account, reason: str, *, now: datetime) -> int:
    """Enter the safe state and return the stop's number; raises NotAllowed or UnfinishedRead.

    A stop while one is on is a new one: whoever wanted to end the earlier must look again.
    """
    words = _checked(person, reason)
    with database.transaction() as connection:
        return _switch(connection, on=True, actor=person.name, reason=words, now=now, people=[person.id])


@dataclass(frozen=True, kw_only=True)
class Rearming:
    """What became of one request: armed by both people together, or waiting for a second person."""

    armed: bool
    people: tuple[str, ...]


def ask_to_rearm(database: Database, person: Account, reason: str, *, now: datetime) -> Rearming:
    """Ask to leave the safe state; the second person's request does it. Raises NotAllowed or UnfinishedRead."""
    words = _checked(person, reason)
    with database.transaction() as connection:
        safe_state_rows.hold(connection)
        stopped = safe_state_rows.current_stop(connection)
        if stopped is None:
            raise NotAllowed("automation is not stopped; there is nothing to arm again")
        if rearm_rows.has_asked(connection, stop_sequence=stopped.sequence, account_id=person.id):
            raise NotAllowed("you have asked already; a second person has to ask too")
        _refuse_newcomer(connection, person, now)
        rearm_rows.ask(connection, stop_sequence=stopped.sequence, account_id=person.id, reason=words, now=now)
        what = {"stop": stopped.sequence, "account": person.id}
        audit_rows.append(connection, at=now, actor=person.name, event="rearm.asked", payload=what)
        people = rearm_rows.requests_for(connection, stop_sequence=stopped.sequence)
        if len(people) >= 2:
            both = [one.account_id for one in people]
            actor = _together([one.name for one in people])
            _switch(connection, on=False, actor=actor, reason=words, now=now, people=both)
        return Rearming(armed=len(people) >= 2, people=tuple(one.name for one in people))


def _refuse_newcomer(connection: Transaction, person: Account, now: datetime) -> None:
    """Raise NotAllowed where one administrator alone could have made the second person since automation stopped."""
    began = rearm_rows.stopped_since(connection) or now
    if not rearm_rows.is_settled(connection, account_id=person.id, since=max(began, now - _SETTLES_AFTER)):
        raise NotAllowed(
            "this account was made, let in or changed by somebody since automation stopped; "
            f"somebody else has to ask, or you in {_SETTLES_AFTER.days} days"
        )


def _checked(person: Account, reason: str) -> str:
    if not person.may(May.STOP):
        raise NotAllowed("this account may not stop or arm automation; ask a lead or an administrator")
    words = " ".join(reason.split())
    if len(words) < SHORTEST_REASON:
        raise UnfinishedRead(f"say why in at least {SHORTEST_REASON} characters")
    if len(words) > LONGEST_REASON:
        raise UnfinishedRead(f"the reason is longer than {LONGEST_REASON} characters; shorten it")
    return words


def _together(names: list[str]) -> str:
    """Two names as one actor; cut so that both remain."""
    most = (_ACTOR_LENGTH - len(" and ")) // 2
    whole = " and ".join(names[:2])
    return whole if len(whole) <= _ACTOR_LENGTH else " and ".join(name[:most] for name in names[:2])


def _switch(connection: Transaction, *, on: bool, actor: str, reason: str, now: datetime, people: list[str]) -> int:
    number = safe_state_rows.set_safe_state(connection, on=on, actor=actor, reason=reason, at=now)
    event = "automation.stopped" if on else "automation.rearmed"
    what = {"safe_state": number, "people": people}
    audit_rows.append(connection, at=now, actor=actor, event=event, payload=what)
    told = {"on": on, "actor": actor, "path": "/lead"}
    notice_rows.add(connection, kind=NoticeKind.SAFE_STATE, subject=str(number), content=told, now=now)
    return number


@dataclass(frozen=True, kw_only=True)
class NoticeStanding:
    """One notice without what it is about, and where it stands at each destination."""

    kind: NoticeKind
    created_at: datetime
    destinations: dict[str, SendingState]


def newest_notices(database: Database) -> list[NoticeStanding]:
    """The newest notices, newest first."""
    with database.read() as connection:
        newest = notice_rows.newest(connection, limit=_NOTICES_SHOWN)
        sendings = notice_rows.sendings(connection, [notice.id for notice in newest])
    return [
        NoticeStanding(
            kind=notice.kind,
            created_at=notice.created_at,
            destinations={one.destination: one.state for one in sendings if one.notice.id == notice.id},
        )
        for notice in newest
    ]
