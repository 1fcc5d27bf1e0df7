"""Step 3, second half: a clinician reads a held case blind, commits, and only then sees what the model said.

Every write names the claim's fence. A claim that ended or passed to somebody else raises StaleClaim, and the caller keeps
the draft. The committed read is never changed: what the reader thinks after the reveal stands beside it, in
`read.agreement` and `read.amended_to`. What may be shown to whom is decided here and in the queries below, never by a page:
a case may go to a second reader, who must not know it, and then to an adjudicator, who sees both reads and no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pipeline import answering
from pipeline.answering import CANNOT_BE_READ, LONGEST_COMMENT, NO_FORM, Read, Unreadable
from pipeline.domain.case import ItemState, Reason
from pipeline.domain.result import ResultKind
from pipeline.domain.second_reads import ADJUDICATION, SECOND, are_concordant, asks_for_second, drawn_for_second_read
from pipeline.errors import NotAllowed, StaleClaim, UnfinishedRead
from pipeline.protocol import Reading, TriageProtocol
from pipeline.store import (
    account_rows,
    audit_rows,
    case_rows,
    draft_rows,
    emergency_rows,
    exposure_rows,
    handover_rows,
    outbox_rows,
    read_rows,
    reading_rows,
    round_rows,
    worklist_rows,
)
from pipeline.store.account_rows import OUTSIDE_NAME, Account, May
from pipeline.store.database import Database, Transaction
from pipeline.store.draft_rows import StoredDraft
from pipeline.store.exposure_rows import Exposure
from pipeline.store.line_rows import Line, lines_of_items
from pipeline.store.read_rows import OPENED, StoredRead
from pipeline.store.reading_rows import BlindCase, ModelAnswer

_ACTOR = "review"

__all__ = [
    "CANNOT_BE_READ",
    "LONGEST_COMMENT",
    "Agreement",
    "CaseView",
    "OtherRead",
    "Read",
    "Unreadable",
    "commit_read",
    "images_of_case",
    "keep_draft",
    "note_exposure",
    "record_agreement",
    "reveal",
    "save_draft",
    "view_case",
]


class Agreement(StrEnum):
    """What a reader makes of the model's answer after seeing it."""

    AGREE = "agree"  #: The model and the committed read say the same.
    DISAGREE = "disagree"  #: The committed read stands against the model.
    AMEND = "amend"  #: The reader would now read it otherwise; the committed read stays as it was.


@dataclass(frozen=True, kw_only=True)
class OtherRead:
    """A colleague's read as it is shown to an adjudicator, or to the others when all is said; no name but to a lead."""

    label: str  #: "Reader A"
    name: str | None
    decided: bool  #: it is the adjudication
    finding: str
    certainty: int
    comment: str
    answers: Mapping[str, Any]  #: what the form asked
    because: str | None
    committed_at: datetime


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """All that one reader may see of one case at one moment; `answer` is None until the read is revealed."""

    case: BlindCase
    protocol: TriageProtocol
    read: StoredRead | None
    answer: ModelAnswer | None
    held: bool  #: by this reader, now
    may_claim: bool
    draft: StoredDraft | None = None  #: this reader's own, where nothing is committed yet
    others: tuple[OtherRead, ...] = ()
    outcome: str | None = None  #: the finding that stands, once nobody is asked any more and more than one has read


def view_case(database: Database, reader: Account, case_id: str, *, now: datetime) -> CaseView:
    """One case as this reader may see it now, noting what of it colours a read; raises NoSuchCase."""
    with database.read() as connection:
        view = _view(connection, reader, case_id, now)
    if view.others:
        note_exposure(database, reader, case_id, Exposure.READS, now=now)
    if view.case.item is None and view.case.state == "DECIDED":
        note_exposure(database, reader, case_id, Exposure.ROUTE, now=now)
    return view


def _view(connection: Transaction, reader: Account, case_id: str, now: datetime) -> CaseView:
    case = reading_rows.known_case(connection, case_id, account_id=reader.id)
    read = read_rows.read_by(connection, case_id=case_id, reader_id=reader.id)
    item = case.item
    held = item is not None and _holds(item, reader, now)
    others, outcome = _others(connection, reader, case, read, held=held)
    return CaseView(
        case=case,
        protocol=TriageProtocol.model_validate(dict(case.protocol_content)),
        read=read,
        answer=reading_rows.model_answer(connection, case_id=case_id, reader_id=reader.id),
        held=held,
        may_claim=item is not None and read is None and _may_claim(connection, item, reader, now),
        draft=None if read else draft_rows.newest(connection, case_id=case_id, account_id=reader.id),
        others=others,
        outcome=outcome,
    )


def note_exposure(database: Database, person: Account, case_id: str, kind: Exposure, *, now: datetime) -> None:
    """Log the first moment at which this person was shown this of the case."""
    with database.read() as connection:
        if exposure_rows.is_noted(connection, case_id=case_id, account_id=person.id, kind=kind):
            return
    with database.transaction() as connection:
        exposure_rows.note(connection, case_id=case_id, account_id=person.id, kind=kind, now=now)


def images_of_case(database: Database, case: BlindCase) -> list[tuple[str, dict[str, Any]]]:
    """SHA-256 and header of every image of the case's revision, in order of arrival."""
    with database.read() as connection:
        return reading_rows.images_of(connection, case.revision_id)


def _holds(item: Line, reader: Account, now: datetime) -> bool:
    live = item.lease_until is not None and item.lease_until > now
    return item.state == ItemState.IN_PROGRESS and item.holder_id == reader.id and live


def _may_claim(connection: Transaction, item: Line, reader: Account, now: datetime) -> bool:
    ended = item.lease_until is not None and item.lease_until <= now
    is_free = item.state == ItemState.SCHEDULED or (item.state == ItemState.IN_PROGRESS and ended)
    may = emergency_rows.may_claim(connection, reader, case_id=item.case_id, specialty=str(item.specialty), now=now)
    if not is_free or not may:
        return False
    return round_rows.may_take_item(
        connection, item_id=str(item.item_id), account_id=reader.id, adjudicates=reader.may(May.ADJUDICATE)
    )


def _round(connection: Transaction, item: Line) -> int:
    return round_rows.round_of(connection, str(item.item_id))


def _others(
    connection: Transaction, reader: Account, case: BlindCase, own: StoredRead | None, *, held: bool
) -> tuple[tuple[OtherRead, ...], str | None]:
    """What colleagues read: for who adjudicates now, and for readers whose answer was revealed when all is said."""
    if own is None:
        adjudicates = held and case.item is not None and _round(connection, case.item) == ADJUDICATION
        return (_shown(connection, reader, case.case_id) if adjudicates else ()), None
    if own.revealed_at is None or round_rows.open_round(connection, case.case_id) is not None:
        return (), None
    others = _shown(connection, reader, case.case_id)
    final = read_rows.final_read(connection, case.case_id)
    return others, final[0].finding if others and final else None


def _shown(connection: Transaction, reader: Account, case_id: str) -> tuple[OtherRead, ...]:
    """Everybody else's reads in an order that tells nothing, the adjudication last; never what they made of the answer."""
    found = [pair for pair in read_rows.reads_of(connection, case_id) if pair[0].reader_id != reader.id]
    found.sort(key=lambda pair: (pair[0].round == ADJUDICATION, hashlib.sha256(pair[0].id.encode()).digest()))
    names_too = reader.may(May.SEE_RECORD) and not _is_to_read(connection, reader, case_id)
    return tuple(
        OtherRead(
            label="Adjudicator" if read.round == ADJUDICATION else f"Reader {'AB'[place % 2]}",
            name=name if names_too else None,
            decided=read.round == ADJUDICATION,
            finding=read.finding,
            certainty=read.certainty,
            comment=read.comment,
            answers=(read.answers or {}).get("answers") or {},
            because=(read.answers or {}).get("because"),
            committed_at=read.committed_at,
        )
        for place, (read, name) in enumerate(found)
    )


def _is_to_read(connection: Transaction, reader: Account, case_id: str) -> bool:
    return read_rows.read_by(connection, case_id=case_id, reader_id=reader.id) is None


def save_draft(
    database: Database,
    reader: Account,
    case_id: str,
    fence: int,
    content: Mapping[str, Any],
    *,
    seen: datetime | None = None,
    now: datetime,
) -> datetime:
    """Keep what is filled in and return the moment; raises StaleClaim where the case has passed on or is read.

    `seen` is when the draft was saved that this one follows; raises NewerDraft where another tab saved one since.
    """
    with database.transaction() as connection:
        kept = draft_rows.save(
            connection, case_id=case_id, account_id=reader.id, fence=fence, content=content, seen=seen, now=now
        )
    if not kept:
        raise StaleClaim.ended()
    return now


def keep_draft(database: Database, reader: Account, case_id: str, content: Mapping[str, Any], *, now: datetime) -> None:
    """Bring the reader's draft up to date where a commit was refused, also when the hold is lost."""
    with database.transaction() as connection:
        draft_rows.keep(connection, case_id=case_id, account_id=reader.id, content=content, now=now)


def commit_read(
    database: Database,
    reader: Account,
    case_id: str,
    fence: int,
    read: Read,
    *,
    reading: Reading = NO_FORM,
    key: bytes = b"",
    now: datetime,
) -> str:
    """Write the read, close the item, open the next round where one is due, and return the read's id.

    `reading` is the form and the rule of second reads, `key` draws them. Raises NoSuchCase, NotAllowed, UnfinishedRead or
    StaleClaim.
    """
    with database.transaction() as connection:
        case_rows.hold(connection, case_id)
        case = reading_rows.known_case(connection, case_id)
        answering.check(read, TriageProtocol.model_validate(dict(case.protocol_content)))
        answers = answering.checked_answers(read, reading)
        if read_rows.read_by(connection, case_id=case_id, reader_id=reader.id) is not None:
            raise NotAllowed("you have read this case; nobody gives two reads of one case")
        item_id = worklist_rows.complete_claim(connection, case_id=case_id, account_id=reader.id, fence=fence, now=now)
        if item_id is None:
            raise StaleClaim.ended()
        opened = read_rows.first_opened(connection, item_id=item_id, case_id=case_id, actor=reader.name, event=OPENED)
        number = round_rows.round_of(connection, item_id)
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
            number=number,
            answers=answers,
        )
        draft_rows.forget(connection, case_id=case_id, account_id=reader.id)
        what = {"read": read_id, "item": item_id, "finding": read.finding, "certainty": read.certainty, "fence": fence}
        audit_rows.append(connection, at=now, actor=reader.name, event="read.committed", case_id=case_id, payload=what)
        _continue(
            connection, case_id, item_id, number, _next_round(connection, case_id, number, read, reading, key), now
        )
        return read_id


def _next_round(  # noqa: PLR0917 - what is known of the case, what rules it
    connection: Transaction, case_id: str, number: int, read: Read, reading: Reading, key: bytes
) -> int | None:
    """The round that follows this read, None where all is said."""
    rule = reading.second_reads
    if number == SECOND:
        first = read_rows.reads_of(connection, case_id)[0][0]
        return None if are_concordant(first.finding, read.finding) else ADJUDICATION
    if number == ADJUDICATION:
        return None
    drawn = bool(key or rule.share in {0.0, 1.0}) and drawn_for_second_read(key, case_id, rule.share)
    second = asks_for_second(
        finding=read.finding,
        certainty=read.certainty,
        findings=rule.findings,
        least_certainty=rule.least_certainty,
        drawn=drawn,
    )
    return SECOND if second else None


def _continue(  # noqa: PLR0917 - where the case stands, where it goes
    connection: Transaction, case_id: str, item_id: str, number: int, following: int | None, now: datetime
) -> None:
    """Open the next round, or tell the result: nothing leaves the house while anybody still reads blind."""
    if following is None:
        outbox_rows.announce(connection, case_id=case_id, kind=ResultKind.READ, now=now)
        return
    more = (Reason.DISCORDANT,) if following == ADJUDICATION else ()
    opened = round_rows.schedule_next(connection, item_id=item_id, number=following, more_reasons=more, now=now)
    what = {"item": opened, "round": following, "after": number}
    if following == SECOND and not _anybody_may_take(connection, opened):
        worklist_rows.cancel_open_items(connection, case_id=case_id, now=now)
        outbox_rows.announce(connection, case_id=case_id, kind=ResultKind.READ, now=now)
        audit_rows.append(connection, at=now, actor=_ACTOR, event="round.impossible", case_id=case_id, payload=what)
        return
    audit_rows.append(connection, at=now, actor=_ACTOR, event="round.opened", case_id=case_id, payload=what)


def _anybody_may_take(connection: Transaction, item_id: str) -> bool:
    """Whether a colleague is left, or a system outside, who may read it blind: a read must not wait for nobody."""
    (line,) = lines_of_items(connection, [item_id])
    outside = account_rows.find_for_sign_in(connection, OUTSIDE_NAME)
    readers = [*handover_rows.readers(connection), *([outside.account] if outside else [])]
    return any(
        one.may_claim(str(line.specialty))
        and round_rows.may_take_item(connection, item_id=item_id, account_id=one.id, adjudicates=False)
        for one in readers
    )


def reveal(database: Database, reader: Account, case_id: str, *, now: datetime) -> None:
    """Let this reader see the model's answer and note when; raises NotAllowed before the read is committed."""
    with database.transaction() as connection:
        read = _own_read(connection, reader, case_id)
        if read_rows.mark_revealed(connection, read_id=read.id, now=now):
            exposure_rows.note(connection, case_id=case_id, account_id=reader.id, kind=Exposure.ANSWER, now=now)
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
    """Note once what the reader makes of the answer; raises NotAllowed before the reveal or for a second opinion.

    Saying the same again, as a double click does, changes nothing. An amendment names the class the reader would choose
    now; raises UnfinishedRead without one.
    """
    with database.transaction() as connection:
        protocol = TriageProtocol.model_validate(dict(reading_rows.known_case(connection, case_id).protocol_content))
        amends = agreement is Agreement.AMEND
        if amends and amended_to not in (*protocol.class_names, CANNOT_BE_READ):
            raise UnfinishedRead("choose what you would read now")
        read = _own_read(connection, reader, case_id)
        now_read = amended_to if amends else None
        if not read_rows.record_agreement(connection, read_id=read.id, agreement=agreement, amended_to=now_read):
            noted = _own_read(connection, reader, case_id)
            if (noted.agreement, noted.amended_to) == (agreement, now_read):
                return
            raise NotAllowed("this is noted once, after the model's answer was shown")
        what = {"read": read.id, "agreement": agreement.value}
        if amends:
            what["amended_to"] = str(amended_to)
        audit_rows.append(connection, at=now, actor=reader.name, event="read.compared", case_id=case_id, payload=what)
