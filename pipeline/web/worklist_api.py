"""The worklist for programs: pages with filters, searching, handing over, putting aside. No identity is sent here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from pipeline import claiming
from pipeline.domain.case import ItemState
from pipeline.store.handover_rows import PauseReason
from pipeline.store.line_rows import Line, Show, Urgency
from pipeline.store.page_rows import Filters, ItemStatus
from pipeline.web import cursors
from pipeline.web.access import FOR_CASES, Reader, Session
from pipeline.web.api_models import Fence, Moment, Sent, Told
from pipeline.web.cursors import AskedCursor
from pipeline.web.room import Here
from pipeline.web.told_case import CaseId

router = APIRouter(prefix="/api", dependencies=FOR_CASES)
Code = Annotated[str | None, Query(max_length=64)]


class ToldLine(Told):
    """One line of the worklist; `route` stands only where no read was ever asked for."""

    case_id: str
    protocol: str
    state: str | None
    specialty: str | None
    priority: int | None
    reasons: tuple[str, ...]
    created_at: datetime
    due_at: datetime | None
    urgency: Urgency
    escalated_at: datetime | None
    held_by: str | None
    lease_until: datetime | None
    paused_until: datetime | None
    pause_reason: str | None
    handed_to: str | None
    handed_by: str | None
    route: str | None
    read_at: datetime | None


class ToldCounts(Told):
    """How many lines lie behind each filter; 1001 means more than a thousand, and nobody counts on."""

    open: int
    overdue: int
    specialty: int
    held: int
    mine: int
    unread: int


class ToldWorklist(Told):
    """One page in reading order; `after` goes into the next request, null at the end."""

    show: Show
    counts: ToldCounts
    items: tuple[ToldLine, ...]
    after: str | None


class ToldCases(Told):
    """The cases that were found."""

    items: tuple[ToldLine, ...]


class WantedText(Sent):
    """An accession number, a patient's ID, or at least six characters of a pseudonym."""

    text: Annotated[str, Field(min_length=1, max_length=64)]


class WantedHandOver(Sent):
    """The colleague's account; the fence of one's own hold, or null from a lead."""

    to: Annotated[str, Field(min_length=1, max_length=64)]
    fence: Fence | None = None


class WantedPause(Sent):
    """Why a held case is put aside, and until when; it is never longer than its longest wait, nor than a day."""

    fence: Fence
    reason: PauseReason
    until: Moment | None = None


class ToldUntil(Told):
    """Until when it holds."""

    until: datetime


def told_line(line: Line, now: datetime) -> ToldLine:
    """A line without identity."""
    handed, held = line.is_handed_over(now), line.state == ItemState.IN_PROGRESS
    return ToldLine(
        case_id=line.case_id,
        protocol=line.protocol,
        state=line.state,
        specialty=line.specialty,
        priority=line.priority,
        reasons=line.reasons,
        created_at=line.created_at,
        due_at=line.due_at,
        urgency=line.urgency(now),
        escalated_at=line.escalated_at,
        held_by=line.holder if held else None,
        lease_until=line.lease_until,
        paused_until=line.paused_until if line.is_paused(now) else None,
        pause_reason=line.pause_reason if line.is_paused(now) else None,
        handed_to=line.offered_to_name if handed else None,
        handed_by=line.offered_by_name if handed else None,
        route=line.route,
        read_at=line.read_at,
    )


@router.get("/worklist", response_model=ToldWorklist)
def show_worklist(
    *,
    room: Here,
    session: Session,
    after: AskedCursor,
    show: Show = Show.ALL,
    specialty: Code = None,
    priority: Annotated[int | None, Query(ge=0, le=2)] = None,
    protocol: Code = None,
    reason: Code = None,
    status: ItemStatus | None = None,
) -> ToldWorklist:
    """Fifty lines of the worklist in reading order, after a place; a page that is short may still not be the last."""
    now = room.now()
    filters = Filters(specialty=specialty, priority=priority, protocol=protocol, reason=reason, status=status)
    found = claiming.open_worklist(room.database, session.account, show, filters=filters, after=after, now=now)
    return ToldWorklist(
        show=show,
        counts=ToldCounts(**found.counts),
        items=tuple(told_line(line, now) for line in found.lines),
        after=cursors.written(found.after),
    )


@router.post("/worklist/search", response_model=ToldCases)
def search_cases(room: Here, session: Session, sent: WantedText) -> ToldCases:
    """Find cases by accession number, patient ID or the beginning of a pseudonym."""
    now = room.now()
    lines = claiming.search(room.database, session.account, sent.text, now=now)
    return ToldCases(items=tuple(told_line(line, now) for line in lines))


@router.post("/cases/{case_id}/hand-over", response_model=ToldUntil)
def hand_over_case(case_id: CaseId, room: Here, session: Reader, sent: WantedHandOver) -> ToldUntil:
    """Give a case to a colleague, to whom take-next leaves it until the moment that is told."""
    until = claiming.hand_over(room.database, session.account, case_id, sent.to, fence=sent.fence, now=room.now())
    return ToldUntil(until=until)


@router.post("/cases/{case_id}/pause", response_model=ToldUntil)
def pause_case(case_id: CaseId, room: Here, session: Reader, sent: WantedPause) -> ToldUntil:
    """Put a held case aside; the hold ends and the draft stays."""
    until = claiming.pause_case(
        room.database, session.account, case_id, sent.fence, sent.reason, until=sent.until, now=room.now()
    )
    return ToldUntil(until=until)


@router.post("/cases/{case_id}/resume", status_code=204)
def resume_case(case_id: CaseId, room: Here, session: Reader) -> None:
    """Put a paused case back among those that wait."""
    claiming.resume_case(room.database, session.account, case_id, now=room.now())
