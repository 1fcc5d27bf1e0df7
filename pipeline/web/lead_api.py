"""Oversight for programs: figures, a case's timeline, stopping and arming, notices; the same blindness as the pages."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from pipeline import chronicle, oversight
from pipeline.domain.case import Route
from pipeline.domain.notices import NoticeKind, SendingState
from pipeline.errors import NotAllowed
from pipeline.oversight import FEWEST_SHOWN, LONGEST_REASON, SHORTEST_REASON, Figures, Period
from pipeline.store.account_rows import May
from pipeline.web.access import CLOSED, FOR_CASES, FOR_FIGURES, SeesCases, SeesFigures, Stops
from pipeline.web.api_models import Sent, Told
from pipeline.web.room import Here

figures_router = APIRouter(prefix="/api", dependencies=FOR_FIGURES)
cases_router = APIRouter(prefix="/api", dependencies=FOR_CASES)
stopping_router = APIRouter(prefix="/api", dependencies=CLOSED)
routers = (figures_router, cases_router, stopping_router)
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]


class ToldShare(Told):
    """A share with its 95 % Wilson interval; nulls where there is nothing to take a share of."""

    part: int
    n: int
    value: float | None
    low: float | None
    high: float | None


class ToldBucket(Told):
    """What was decided in one stretch of the period, by where it can be seen to have gone."""

    start: datetime
    places: dict[Route, int]
    deferral: ToldShare


class ToldWaits(Told):
    """Minutes from the worklist to the committed read, or until now for items still open; priority null: all."""

    priority: int | None
    n: int
    open: int
    mean: float | None
    p99: float | None
    longest: float | None
    over_limit: int


class ToldLoad(Told):
    """What one reader read and holds."""

    name: str
    reads: int
    median_minutes: float | None
    held: int


class ToldStanding(Told):
    """How the worklist stands."""

    open: int
    held: int
    overdue: int
    oldest_overdue_at: datetime | None
    paused: int
    offered: int
    escalated: int


class ToldKept(Told):
    """What the law of conservation finds; `is_whole`: everything that came is accounted for."""

    is_whole: bool
    unaccounted: int
    unrouted: int
    unlisted: int
    undecided: int
    instances: dict[str, int]
    sealed: int


class ToldRate(Told):
    """A rate over enough reads, or nulls."""

    label: str
    n: int
    rate: float | None


class ToldFigures(Told):
    """The figures of one period; no patient and no case."""

    period: Period
    since: datetime
    now: datetime
    arrived: int
    deferral: ToldShare
    buckets: list[ToldBucket]
    waits: list[ToldWaits]
    standing: ToldStanding
    loads: list[ToldLoad]
    overrides: list[ToldRate]
    agreement: list[ToldRate]
    kept: ToldKept
    safe: bool
    emergencies: int


class ToldEntry(Told):
    """One thing that happened; with `day_only` the moment is a day, and the time of day is withheld."""

    at: datetime
    day_only: bool
    actor: str
    title: str
    detail: str
    kind: str


class ToldTimeline(Told):
    """What happened to a case, as the caller may know it."""

    case_id: str
    protocol: str
    is_whole: bool
    entries: list[ToldEntry]


class SentReason(Sent):
    """Why; without any patient's data."""

    reason: Annotated[str, Field(min_length=SHORTEST_REASON, max_length=LONGEST_REASON)]


class ToldStop(Told):
    """The number of the stop."""

    stop: int


class ToldRearming(Told):
    """Whether automation speaks again, and who has asked so far."""

    armed: bool
    people: list[str]


class ToldNotice(Told):
    """One notice and where it stands at each destination; what it is about is left to the lead's page."""

    kind: NoticeKind
    created_at: datetime
    destinations: dict[str, SendingState]


@figures_router.get("/figures", response_model=ToldFigures)
def show_figures(room: Here, session: SeesFigures, period: Period = Period.DAY) -> ToldFigures:
    """How the room does over a period."""
    return _told(oversight.figures(room.database, period, asking=session.account, now=room.now()))


def _told(figures: Figures) -> ToldFigures:
    tables = figures.agreement
    return ToldFigures(
        period=figures.period,
        since=figures.since,
        now=figures.now,
        arrived=figures.arrived,
        deferral=ToldShare.model_validate(figures.deferral),
        buckets=[ToldBucket.model_validate(bucket) for bucket in figures.buckets],
        waits=[ToldWaits.model_validate({"priority": line.priority, **vars(line.summary)}) for line in figures.waits],
        standing=ToldStanding.model_validate(figures.standing),
        loads=[ToldLoad.model_validate(load) for load in figures.loads],
        overrides=[
            ToldRate(label=row.label, n=row.n, rate=row.rate) for row in tables.overrides if row.n >= FEWEST_SHOWN
        ],
        agreement=[
            ToldRate(label=row.label, n=row.n, rate=row.agreement) for row in tables.protocols if row.n >= FEWEST_SHOWN
        ],
        kept=ToldKept.model_validate(figures.kept),
        safe=figures.safe_state.stop is not None,
        emergencies=len(figures.emergencies),
    )


@cases_router.get("/cases/{case_id}/timeline", response_model=ToldTimeline)
def show_timeline(case_id: CaseId, room: Here, session: SeesCases) -> ToldTimeline:
    """Tell what happened to a case, blind until the caller's own read is revealed."""
    return ToldTimeline.model_validate(chronicle.timeline(room.database, session.account, case_id))


@stopping_router.post("/stop", status_code=201, response_model=ToldStop)
def stop(room: Here, session: Stops, sent: SentReason) -> ToldStop:
    """Send every new case to readers from the next decision on."""
    return ToldStop(stop=oversight.stop(room.database, session.account, sent.reason, now=room.now()))


@stopping_router.post("/rearm", response_model=ToldRearming)
def rearm(room: Here, session: Stops, sent: SentReason) -> ToldRearming:
    """Ask to let the model speak again; the second person's request does it. A program may not ask."""
    if session.by_token:
        raise NotAllowed("a program may not arm automation again; two people have to ask, each signed in")
    return ToldRearming.model_validate(
        oversight.ask_to_rearm(room.database, session.account, sent.reason, now=room.now())
    )


@figures_router.get("/notices", response_model=list[ToldNotice])
def show_notices(room: Here, session: SeesFigures) -> list[ToldNotice]:
    """Tell the newest notices and where they stand; without the cases they are about."""
    kinds = tuple(NoticeKind) if session.account.may(May.STOP) else (NoticeKind.SAFE_STATE, NoticeKind.ESCALATION)
    told = oversight.newest_notices(room.database)
    return [ToldNotice.model_validate(one) for one in told if one.kind in kinds]
