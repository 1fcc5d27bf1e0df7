"""Step 3, first half: the worklist as readers see it, and the holds they take on its cases.

A hold is a lease with a fence; whoever loses it can write nothing any more, and the caller keeps the draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pipeline.domain.case import Route
from pipeline.errors import NotAllowed, StaleClaim
from pipeline.protocol import TriageProtocol
from pipeline.store import (
    audit_rows,
    case_rows,
    emergency_rows,
    exposure_rows,
    handover_rows,
    line_rows,
    page_rows,
    read_rows,
    reading_rows,
    search_rows,
    worklist_rows,
)
from pipeline.store.account_rows import Account, May
from pipeline.store.database import Database, Transaction
from pipeline.store.exposure_rows import Exposure
from pipeline.store.handover_rows import OpenItem, PauseReason
from pipeline.store.line_rows import Line, Show
from pipeline.store.page_rows import Before, Cursor, Filters, Page
from pipeline.store.read_rows import OPENED
from pipeline.store.reading_order import Place
from pipeline.store.worklist_rows import REQUESTED, Claim

LONGEST_RESERVATION: Final = timedelta(minutes=60)
SHORT_RESERVATION: Final = timedelta(minutes=10)  #: of a case that is overdue already
LONGEST_PAUSE: Final = timedelta(hours=24)
NO_FILTERS: Final = Filters()


@dataclass(frozen=True, kw_only=True)
class Worklist:
    """One page of the worklist with the counts beside its filters; `after` is where the next page begins."""

    show: Show
    filters: Filters
    lines: tuple[Line, ...]
    counts: dict[str, int]
    after: Cursor | None


def open_worklist(
    database: Database,
    reader: Account,
    show: Show,
    *,
    filters: Filters = NO_FILTERS,
    after: Cursor | None = None,
    now: datetime,
) -> Worklist:
    """The lines of one filter in reading order, and how many lie behind each, as far as they are counted.

    That a case was decided without a read tells where the model sent it, so who is shown that is written down.
    """
    with database.read() as connection:
        page = _page(connection, reader, show, filters=filters, after=after, now=now)
        counts = page_rows.counts(connection, asking=reader, now=now) | {"unread": line_rows.count_unread(connection)}
    if show is Show.UNREAD:
        _note_routes(database, reader, page.lines, now)
    return Worklist(show=show, filters=filters, lines=page.lines, counts=counts, after=page.after)


def _page(
    connection: Transaction, reader: Account, show: Show, *, filters: Filters, after: Cursor | None, now: datetime
) -> Page:
    place, before = (after if isinstance(after, Place) else None), (after if isinstance(after, Before) else None)
    if show is Show.UNREAD:
        return page_rows.unread_page(connection, after=before)
    if show is Show.DONE:
        return page_rows.done_page(connection, account_id=reader.id, after=before)
    return page_rows.open_page(connection, show=show, filters=filters, asking=reader, now=now, after=place)


def _note_routes(database: Database, reader: Account, lines: tuple[Line, ...], now: datetime) -> None:
    """Log that this person was shown cases that asked for no read."""
    shown = [line.case_id for line in lines if line.item_id is None and line.state in (None, "DECIDED")]
    with database.read() as connection:
        new = page_rows.not_shown_before(connection, case_ids=shown, account_id=reader.id)
    if not new:
        return
    with database.transaction() as connection:
        for case_id in new:
            exposure_rows.note(connection, case_id=case_id, account_id=reader.id, kind=Exposure.ROUTE, now=now)


def search(database: Database, reader: Account, text: str, *, now: datetime) -> tuple[Line, ...]:
    """Cases by accession number, patient ID or the beginning of a pseudonym; that somebody searched is written down."""
    with database.transaction() as connection:
        found = tuple(search_rows.find_cases(connection, text, asking=reader))
        what = {"cases": len(found)}
        audit_rows.append(connection, at=now, actor=reader.name, event="worklist.searched", payload=what)
    _note_routes(database, reader, found, now)
    return found


def claim_case(database: Database, reader: Account, case_id: str, *, lease: timedelta, now: datetime) -> Claim:
    """Hold a case for reading; raises NoSuchCase, NotAllowed or StaleClaim."""
    with database.transaction() as connection:
        case = reading_rows.known_case(connection, case_id)
        specialty = "" if case.item is None else str(case.item.specialty)
        if case.item is None or not emergency_rows.may_claim(
            connection, reader, case_id=case_id, specialty=specialty, now=now
        ):
            raise NotAllowed("this case is not one that you may claim; choose one of your specialty")
        claim = worklist_rows.claim_item(
            connection,
            case_id=case_id,
            account_id=reader.id,
            lease=lease,
            now=now,
            may_adjudicate=reader.may(May.ADJUDICATE),
        )
        if claim is None:
            raise StaleClaim(
                "another reader holds this case, or it is not one for you to read, or it has left the worklist; "
                "choose another"
            )
        _note_opening(connection, reader, claim, now)
        return claim


def claim_next(database: Database, reader: Account, *, lease: timedelta, now: datetime) -> Claim | None:
    """Hold the first case in reading order that this reader may claim, or None; raises NotAllowed."""
    if not reader.may_read:
        raise NotAllowed("this account may look and not read; ask for the role of a reader")
    with database.transaction() as connection:
        claim = worklist_rows.claim_next_item(
            connection,
            account_id=reader.id,
            specialties=reader.claimable,
            lease=lease,
            now=now,
            may_adjudicate=reader.may(May.ADJUDICATE),
        )
        if claim is not None:
            _note_opening(connection, reader, claim, now)
        return claim


def _note_opening(connection: Transaction, reader: Account, claim: Claim, now: datetime) -> None:
    what = {"item": claim.item_id, "fence": claim.fence}
    audit_rows.append(connection, at=now, actor=reader.name, event=OPENED, case_id=claim.case_id, payload=what)


def extend_claim(
    database: Database, reader: Account, case_id: str, fence: int, *, lease: timedelta, now: datetime
) -> datetime:
    """Lengthen a hold and return its new end; raises StaleClaim."""
    with database.transaction() as connection:
        until = worklist_rows.extend_claim(
            connection, case_id=case_id, account_id=reader.id, fence=fence, lease=lease, now=now
        )
    if until is None:
        raise StaleClaim.ended()
    return until


def release_case(database: Database, reader: Account, case_id: str, fence: int, *, now: datetime) -> None:
    """Give a case back unread; raises StaleClaim."""
    with database.transaction() as connection:
        given = worklist_rows.release_claim(connection, case_id=case_id, account_id=reader.id, fence=fence, now=now)
        if not given:
            raise StaleClaim.ended()
        audit_rows.append(
            connection, at=now, actor=reader.name, event="read.released", case_id=case_id, payload={"fence": fence}
        )


def colleagues(database: Database, reader: Account, specialty: str) -> list[Account]:
    """To whom a case of that specialty can be handed: all who may claim such cases, whatever they have read before.

    Leaving out who has read the case would tell that it was read before.
    """
    with database.read() as connection:
        return [one for one in handover_rows.readers(connection) if one.id != reader.id and one.may_claim(specialty)]


def hand_over(
    database: Database, giver: Account, case_id: str, to: str, *, fence: int | None = None, now: datetime
) -> datetime:
    """Give a case to the colleague of that name and return until when it waits for this colleague alone.

    The holder shows the fence; a lead needs none and ends whatever hold there is. Raises NoSuchCase, NotAllowed, StaleClaim.
    """
    if fence is None and not giver.may(May.HAND_OVER):
        raise NotAllowed("this account may hand over only a case that it holds; claim it, or ask a lead")
    with database.transaction() as connection:
        item = _open_item(connection, giver, case_id)
        colleague = _colleague(connection, giver, item, to)
        until = _reserved_until(item, now)
        given = handover_rows.hand_over(
            connection,
            item_id=item.id,
            case_id=case_id,
            to=colleague.id,
            by=giver.id,
            until=until,
            fence=fence,
            now=now,
        )
        if not given:
            raise StaleClaim.ended()
        what = {"item": item.id, "to": colleague.id, "until": until.isoformat()}
        audit_rows.append(connection, at=now, actor=giver.name, event="read.handed_over", case_id=case_id, payload=what)
        return until


def _reserved_until(item: OpenItem, now: datetime) -> datetime:
    """Until when take-next leaves a case to the colleague it was handed to: never beyond its longest wait."""
    if item.due_at <= now:
        return now + SHORT_RESERVATION
    return min(now + LONGEST_RESERVATION, item.due_at)


def _open_item(connection: Transaction, asking: Account, case_id: str) -> OpenItem:
    """The open item, which is none for who has read the case: whether others are asked is not told."""
    reading_rows.known_case(connection, case_id)
    item = handover_rows.open_item(connection, case_id)
    has_read = read_rows.read_by(connection, case_id=case_id, reader_id=asking.id) is not None
    if item is None or has_read:
        raise StaleClaim("this case has left the worklist; choose another")
    return item


def _colleague(connection: Transaction, giver: Account, item: OpenItem, name: str) -> Account:
    for one in handover_rows.readers(connection):
        adjudicates = item.round < worklist_rows.LAST_ROUND or one.may(May.ADJUDICATE)
        if one.name == name and one.id != giver.id and one.may_claim(item.specialty) and adjudicates:
            return one
    raise NotAllowed("there is no such colleague, or this colleague may not read this case; choose another")


def pause_case(
    database: Database,
    reader: Account,
    case_id: str,
    fence: int,
    reason: PauseReason,
    *,
    until: datetime | None = None,
    now: datetime,
) -> datetime:
    """Put a held case aside and return until when: never beyond its longest wait, nor beyond `LONGEST_PAUSE`.

    Raises NoSuchCase, StaleClaim, or NotAllowed for a case that is overdue already.
    """
    with database.transaction() as connection:
        item = _open_item(connection, reader, case_id)
        end = min(item.due_at, now + LONGEST_PAUSE, until or item.due_at)
        if end <= now:
            raise NotAllowed("this case is overdue and cannot be put aside; read it, hand it over or give it back")
        paused = handover_rows.pause(
            connection, case_id=case_id, account_id=reader.id, fence=fence, reason=reason, until=end, now=now
        )
        if not paused:
            raise StaleClaim.ended()
        what = {"item": item.id, "reason": reason.value, "until": end.isoformat(), "fence": fence}
        audit_rows.append(connection, at=now, actor=reader.name, event="read.paused", case_id=case_id, payload=what)
        return end


def resume_case(database: Database, reader: Account, case_id: str, *, now: datetime) -> None:
    """Put a paused case back among those that wait; raises NoSuchCase, NotAllowed or StaleClaim."""
    with database.transaction() as connection:
        item = _open_item(connection, reader, case_id)
        if not reader.may_claim(item.specialty):
            raise NotAllowed("this case is not one that you may claim; choose one of your specialty")
        if not handover_rows.resume(connection, case_id=case_id, now=now):
            raise StaleClaim("this case is not put aside any more")
        what = {"item": item.id}
        audit_rows.append(connection, at=now, actor=reader.name, event="read.resumed", case_id=case_id, payload=what)


def request_read(database: Database, reader: Account, case_id: str, *, now: datetime) -> None:
    """Put a case that was decided without a read on the worklist; raises NoSuchCase or NotAllowed."""
    if not reader.may_read:
        raise NotAllowed("this account may look and not ask for reads; ask for the role of a reader")
    with database.transaction() as connection:
        case_rows.hold(connection, case_id)
        case = reading_rows.known_case(connection, case_id)
        if case.item is not None or case.newer_case_id is not None or case.state != "DECIDED":
            raise NotAllowed("this case has been on the worklist, is not decided yet, or has a newer revision")
        rule = TriageProtocol.model_validate(dict(case.protocol_content)).routes[Route.REVIEW]
        item_id = worklist_rows.schedule_item(
            connection,
            case_id=case_id,
            specialty=rule.specialty,
            priority=1,
            reasons=[REQUESTED],
            due_at=now + timedelta(minutes=rule.longest_wait_minutes),
            now=now,
        )
        audit_rows.append(
            connection, at=now, actor=reader.name, event="read.requested", case_id=case_id, payload={"item": item_id}
        )
