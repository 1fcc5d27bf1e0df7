"""Step 3: a clinician claims a case, reads it blind, commits, and only then sees what the model said.

Every write names the claim's fence. A claim that ended or passed to somebody else raises StaleClaim, and the caller keeps
the draft. The committed read is never changed: what the reader thinks after the reveal stands beside it, in
`read.agreement` and, for an amended finding, in the audit trail.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pipeline.domain.case import ItemState, Route
from pipeline.domain.result import ResultKind
from pipeline.errors import SecondreadError
from pipeline.protocol import TriageProtocol
from pipeline.store import audit_rows, line_rows, outbox_rows, read_rows, reading_rows, worklist_rows
from pipeline.store.account_rows import Account
from pipeline.store.database import Database, Transaction
from pipeline.store.line_rows import Line, Show
from pipeline.store.read_rows import StoredRead
from pipeline.store.reading_rows import BlindCase, ModelAnswer
from pipeline.store.worklist_rows import Claim

CANNOT_BE_READ = "cannot_be_read"
REQUESTED = "REQUESTED"  #: the reason of an item that a colleague and not the model asked for
OPENED = "read.opened"
LONGEST_COMMENT = 4000  #: characters
LINES_SHOWN = 200


class StaleClaim(SecondreadError):
    """The claim ended or passed to somebody else: nothing was written and the draft is still the caller's."""


class NotAllowed(SecondreadError):
    """This account may not do this with this case."""


class NoSuchCase(SecondreadError):
    """There is no case of that id."""


class UnfinishedRead(SecondreadError):
    """The read lacks something that it must say."""


class Agreement(StrEnum):
    """What a reader makes of the model's answer after seeing it."""

    AGREE = "agree"  #: The model and the committed read say the same.
    DISAGREE = "disagree"  #: The committed read stands against the model.
    AMEND = "amend"  #: The reader would now read it otherwise; the committed read stays as it was.


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a reader says about a case: a class of the protocol or CANNOT_BE_READ, certainty 1 to 5, and words."""

    finding: str
    certainty: int
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class Worklist:
    """One page of the worklist with the counts beside its filters."""

    show: Show
    lines: tuple[Line, ...]
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """All that one reader may see of one case at one moment; `answer` is None until the read is revealed."""

    case: BlindCase
    protocol: TriageProtocol
    read: StoredRead | None
    answer: ModelAnswer | None
    held: bool  #: by this reader, now
    may_claim: bool


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


def view_case(database: Database, reader: Account, case_id: str, *, now: datetime) -> CaseView:
    """One case as this reader may see it now; raises NoSuchCase."""
    with database.read() as connection:
        case = _case(connection, case_id)
        item = case.item
        return CaseView(
            case=case,
            protocol=TriageProtocol.model_validate(dict(case.protocol_content)),
            read=read_rows.read_by(connection, case_id=case_id, reader_id=reader.id),
            answer=reading_rows.model_answer(connection, case_id=case_id, reader_id=reader.id),
            held=item is not None and _holds(item, reader, now),
            may_claim=item is not None and _is_free(item, now) and reader.may_claim(str(item.specialty)),
        )


def images_of_case(database: Database, case: BlindCase) -> list[tuple[str, dict[str, Any]]]:
    """SHA-256 and header of every image of the case's revision, in order of arrival."""
    with database.read() as connection:
        return reading_rows.images_of(connection, case.revision_id)


def _case(connection: Transaction, case_id: str) -> BlindCase:
    case = reading_rows.blind_case(connection, case_id)
    if case is None:
        raise NoSuchCase("there is no such case; go back to the worklist")
    return case


def _holds(item: Line, reader: Account, now: datetime) -> bool:
    live = item.lease_until is not None and item.lease_until > now
    return item.state == ItemState.IN_PROGRESS and item.holder_id == reader.id and live


def _is_free(item: Line, now: datetime) -> bool:
    ended = item.lease_until is not None and item.lease_until <= now
    return item.state == ItemState.SCHEDULED or (item.state == ItemState.IN_PROGRESS and ended)


def claim_case(database: Database, reader: Account, case_id: str, *, lease: timedelta, now: datetime) -> Claim:
    """Hold a case for reading; raises NoSuchCase, NotAllowed or StaleClaim."""
    with database.transaction() as connection:
        case = _case(connection, case_id)
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
        raise _lost()
    return until


def release_case(database: Database, reader: Account, case_id: str, fence: int, *, now: datetime) -> None:
    """Give a case back unread; raises StaleClaim."""
    with database.transaction() as connection:
        given = worklist_rows.release_claim(connection, case_id=case_id, account_id=reader.id, fence=fence, now=now)
        if not given:
            raise _lost()
        audit_rows.append(
            connection, at=now, actor=reader.name, event="read.released", case_id=case_id, payload={"fence": fence}
        )


def _lost() -> StaleClaim:
    return StaleClaim("your hold on this case has ended; your draft is kept, claim the case again to commit it")


def commit_read(database: Database, reader: Account, case_id: str, fence: int, read: Read, *, now: datetime) -> str:
    """Write the read, close the item and return the read's id; raises NoSuchCase, UnfinishedRead or StaleClaim."""
    with database.transaction() as connection:
        case = _case(connection, case_id)
        _check(read, TriageProtocol.model_validate(dict(case.protocol_content)))
        item_id = worklist_rows.complete_claim(connection, case_id=case_id, account_id=reader.id, fence=fence, now=now)
        if item_id is None:
            raise _lost()
        opened = read_rows.first_opened(connection, item_id=item_id, case_id=case_id, actor=reader.name, event=OPENED)
        read_id = read_rows.add_read(
            connection,
            item_id=item_id,
            case_id=case_id,
            reader_id=reader.id,
            finding=read.finding,
            certainty=read.certainty,
            comment=read.comment.strip(),
            fence=fence,
            opened_at=opened or now,
            committed_at=now,
        )
        what = {"read": read_id, "item": item_id, "finding": read.finding, "certainty": read.certainty, "fence": fence}
        audit_rows.append(connection, at=now, actor=reader.name, event="read.committed", case_id=case_id, payload=what)
        outbox_rows.announce(connection, case_id=case_id, kind=ResultKind.READ, now=now)
        return read_id


def _check(read: Read, protocol: TriageProtocol) -> None:
    if read.finding not in (*protocol.class_names, CANNOT_BE_READ):
        raise UnfinishedRead("choose what you see, or that the case cannot be read")
    if not 1 <= read.certainty <= 5:
        raise UnfinishedRead("choose how certain you are, from 1 to 5")
    if read.finding == CANNOT_BE_READ and not read.comment.strip():
        raise UnfinishedRead("say in the comment why the case cannot be read")
    if len(read.comment) > LONGEST_COMMENT:
        raise UnfinishedRead(f"the comment is longer than {LONGEST_COMMENT} characters; shorten it")


def reveal(database: Database, reader: Account, case_id: str, *, now: datetime) -> None:
    """Let this reader see the model's answer and note when; raises NotAllowed before the read is committed."""
    with database.transaction() as connection:
        read = _own_read(connection, reader, case_id)
        if read_rows.mark_revealed(connection, read_id=read.id, now=now):
            audit_rows.append(
                connection, at=now, actor=reader.name, event="read.revealed", case_id=case_id, payload={"read": read.id}
            )


def _own_read(connection: Transaction, reader: Account, case_id: str) -> StoredRead:
    read = read_rows.read_by(connection, case_id=case_id, reader_id=reader.id)
    if read is None:
        raise NotAllowed("the model's answer is shown to readers who have committed a read of this case")
    return read


def record_agreement(
    database: Database,
    reader: Account,
    case_id: str,
    agreement: Agreement,
    *,
    amended_to: str | None = None,
    now: datetime,
) -> None:
    """Note once what the reader makes of the answer; raises NotAllowed before the reveal or the second time.

    An amendment names the class the reader would choose now; raises UnfinishedRead without one.
    """
    with database.transaction() as connection:
        protocol = TriageProtocol.model_validate(dict(_case(connection, case_id).protocol_content))
        if agreement is Agreement.AMEND and amended_to not in (*protocol.class_names, CANNOT_BE_READ):
            raise UnfinishedRead("choose what you would read now")
        read = _own_read(connection, reader, case_id)
        if not read_rows.record_agreement(connection, read_id=read.id, agreement=agreement):
            raise NotAllowed("this is noted once, after the model's answer was shown")
        what = {"read": read.id, "agreement": agreement.value}
        if agreement is Agreement.AMEND:
            what["amended_to"] = str(amended_to)
        audit_rows.append(connection, at=now, actor=reader.name, event="read.compared", case_id=case_id, payload=what)


def request_read(database: Database, reader: Account, case_id: str, *, now: datetime) -> None:
    """Put a case that was decided without a read on the worklist; raises NoSuchCase or NotAllowed."""
    if not reader.may_read:
        raise NotAllowed("this account may look and not ask for reads; ask for the role of a reader")
    with database.transaction() as connection:
        case = _case(connection, case_id)
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
