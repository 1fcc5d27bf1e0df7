"""Step 3, second half: a clinician reads a held case blind, commits, and only then sees what the model said.

Every write names the claim's fence. A claim that ended or passed to somebody else raises StaleClaim, and the caller keeps
the draft. The committed read is never changed: what the reader thinks after the reveal stands beside it, in
`read.agreement` and, for an amended finding, in the audit trail.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pipeline.domain.case import ItemState
from pipeline.domain.result import ResultKind
from pipeline.errors import NotAllowed, StaleClaim, UnfinishedRead
from pipeline.protocol import TriageProtocol
from pipeline.store import audit_rows, outbox_rows, read_rows, reading_rows, worklist_rows
from pipeline.store.account_rows import Account
from pipeline.store.database import Database, Transaction
from pipeline.store.line_rows import Line
from pipeline.store.read_rows import OPENED, StoredRead
from pipeline.store.reading_rows import BlindCase, ModelAnswer

CANNOT_BE_READ = "cannot_be_read"
LONGEST_COMMENT = 4000  #: characters


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
class CaseView:
    """All that one reader may see of one case at one moment; `answer` is None until the read is revealed."""

    case: BlindCase
    protocol: TriageProtocol
    read: StoredRead | None
    answer: ModelAnswer | None
    held: bool  #: by this reader, now
    may_claim: bool


def view_case(database: Database, reader: Account, case_id: str, *, now: datetime) -> CaseView:
    """One case as this reader may see it now; raises NoSuchCase."""
    with database.read() as connection:
        case = reading_rows.known_case(connection, case_id)
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


def _holds(item: Line, reader: Account, now: datetime) -> bool:
    live = item.lease_until is not None and item.lease_until > now
    return item.state == ItemState.IN_PROGRESS and item.holder_id == reader.id and live


def _is_free(item: Line, now: datetime) -> bool:
    ended = item.lease_until is not None and item.lease_until <= now
    return item.state == ItemState.SCHEDULED or (item.state == ItemState.IN_PROGRESS and ended)


def commit_read(database: Database, reader: Account, case_id: str, fence: int, read: Read, *, now: datetime) -> str:
    """Write the read, close the item and return the read's id; raises NoSuchCase, UnfinishedRead or StaleClaim."""
    with database.transaction() as connection:
        case = reading_rows.known_case(connection, case_id)
        _check(read, TriageProtocol.model_validate(dict(case.protocol_content)))
        item_id = worklist_rows.complete_claim(connection, case_id=case_id, account_id=reader.id, fence=fence, now=now)
        if item_id is None:
            raise StaleClaim.ended()
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
        protocol = TriageProtocol.model_validate(dict(reading_rows.known_case(connection, case_id).protocol_content))
        if agreement is Agreement.AMEND and amended_to not in (*protocol.class_names, CANNOT_BE_READ):
            raise UnfinishedRead("choose what you would read now")
        read = _own_read(connection, reader, case_id)
        if not read_rows.record_agreement(connection, read_id=read.id, agreement=agreement):
            raise NotAllowed("this is noted once, after the model's answer was shown")
        what = {"read": read.id, "agreement": agreement.value}
        if agreement is Agreement.AMEND:
            what["amended_to"] = str(amended_to)
        audit_rows.append(connection, at=now, actor=reader.name, event="read.compared", case_id=case_id, payload=what)
