"""Step 3, first half: the worklist as readers see it, and the holds they take on its cases.

A hold is a lease with a fence; whoever loses it can write nothing any more, and the caller keeps the draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.domain.case import Route
from pipeline.errors import NotAllowed, StaleClaim
from pipeline.protocol import TriageProtocol
from pipeline.store import audit_rows, line_rows, reading_rows, worklist_rows
from pipeline.store.account_rows import Account
from pipeline.store.database import Database, Transaction
from pipeline.store.line_rows import Line, Show
from pipeline.store.read_rows import OPENED
from pipeline.store.worklist_rows import Claim

REQUESTED = "REQUESTED"  #: the reason of an item that a colleague and not the model asked for
LINES_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Worklist:
    """One page of the worklist with the counts beside its filters."""

    show: Show
    lines: tuple[Line, ...]
    counts: dict[str, int]


def open_worklist(database: Database, reader: Account, show: Show, *, now: datetime) -> Worklist:
    """The lines of one filter in reading order, and how many lie behind each filter."""
    with database.read() as connection:
        counts = worklist_rows.counts_by_state(
            connection, account_id=reader.id, specialties=reader.claimable, now=now
        ) | {"unread": line_rows.count_unread(connection)}
        return Worklist(show=show, lines=tuple(_lines(connection, reader, show, now)), counts=counts)


def _lines(connection: Transaction, reader: Account, show: Show, now: datetime) -> list[Line]:
    if show is Show.UNREAD:
        return line_rows.unread_lines(connection, limit=LINES_SHOWN)
    if show is Show.DONE:
        return line_rows.done_lines(connection, account_id=reader.id, limit=LINES_SHOWN)
    return line_rows.open_lines(
        connection, show=show, account_id=reader.id, specialties=reader.claimable, now=now, limit=LINES_SHOWN
    )


def claim_case(database: Database, reader: Account, case_id: str, *, lease: timedelta, now: datetime) -> Claim:
    """Hold a case for reading; raises NoSuchCase, NotAllowed or StaleClaim."""
    with database.transaction() as connection:
        case = reading_rows.known_case(connection, case_id)
        if case.item is None or not reader.may_claim(str(case.item.specialty)):
            raise NotAllowed("this case is not one that you may claim; choose one of your specialty")
        claim = worklist_rows.claim_item(connection, case_id=case_id, account_id=reader.id, lease=lease, now=now)
        if claim is None:
            raise StaleClaim("another reader holds this case, or it has left the worklist; choose another")
        _note_opening(connection, reader, claim, now)
        return claim


def claim_next(database: Database, reader: Account, *, lease: timedelta, now: datetime) -> Claim | None:
    """Hold the first case in reading order that this reader may claim, or None; raises NotAllowed."""
    if not reader.may_read:
        raise NotAllowed("this account may look and not read; ask for the role of a reader")
    with database.transaction() as connection:
        claim = worklist_rows.claim_next_item(
            connection, account_id=reader.id, specialties=reader.claimable, lease=lease, now=now
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


def request_read(database: Database, reader: Account, case_id: str, *, now: datetime) -> None:
    """Put a case that was decided without a read on the worklist; raises NoSuchCase or NotAllowed."""
    if not reader.may_read:
        raise NotAllowed("this account may look and not ask for reads; ask for the role of a reader")
    with database.transaction() as connection:
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
