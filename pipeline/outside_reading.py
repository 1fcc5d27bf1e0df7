"""Step 3 as other systems take part in it: what they hold, read and give back, under the same lease, fence and rules.

All of them work under one account that nobody can sign in with; which of them holds an item, its transaction UID says.
Asking that an item be cancelled is written down and takes nothing off the worklist: only a read or a newer revision does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from pipeline import claiming, review
from pipeline.answering import NO_FORM
from pipeline.domain.case import ItemState
from pipeline.errors import NotAllowed, SecondreadError
from pipeline.protocol import TriageProtocol
from pipeline.review import Read
from pipeline.store import account_rows, audit_rows, case_rows, reading_rows, round_rows, work_item_rows, worklist_rows
from pipeline.store.account_rows import Account
from pipeline.store.database import Database, Transaction
from pipeline.store.read_rows import OPENED
from pipeline.store.refusals import ConstraintRefused
from pipeline.store.work_item_rows import WorkItem

_ASKED_FOR = "a read of this study was asked for before, or it is not decided yet"
CANCEL_ASKED = "work_item.cancel_asked"
GIVEN_BACK = "work_item.given_back"
NO_PROTOCOLS: Final[Mapping[str, TriageProtocol]] = MappingProxyType({})
FINAL = (ItemState.COMPLETED, ItemState.CANCELED)


class NoSuchItem(SecondreadError):
    """There is no work item of that UID."""


class ItemConflict(SecondreadError):
    """The work item is not in a state in which this can be done."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """What a transaction UID proves."""

    account: Account
    case_id: str
    fence: int


def search(database: Database, *, state: ItemState | None, limit: int, offset: int, now: datetime) -> list[WorkItem]:
    """Work items in that state, or all, in reading order; of a case that other systems read, no further round is told."""
    with database.read() as connection:
        known = account_rows.find_for_sign_in(connection, account_rows.OUTSIDE_NAME)
        return work_item_rows.search_items(
            connection,
            account_id=None if known is None else known.account.id,
            state=state,
            limit=limit,
            offset=offset,
            now=now,
        )


def find(database: Database, item_id: str) -> tuple[WorkItem, list[dict[str, Any]]]:
    """One work item and the headers of its images; raises NoSuchItem."""
    with database.read() as connection:
        item = _item(connection, item_id)
        return item, [header for _, header in reading_rows.images_of(connection, item.revision_id)]


def _item(connection: Transaction, item_id: str) -> WorkItem:
    item = work_item_rows.find_item(connection, item_id)
    if item is None:
        raise NoSuchItem("there is no such work item")
    return item


def request(database: Database, study_instance_uid: str, protocol: str, *, now: datetime) -> str:
    """Ask for a read of a study that is known, and return the new item's id; raises ItemConflict.

    `protocol` may be "" where the study was put to one only.
    """
    case_id = _case_to_read(database, study_instance_uid, protocol)
    with database.transaction() as connection:
        account = account_rows.outside_account(connection, now=now)
    try:
        claiming.request_read(database, account, case_id, now=now)
    except (NotAllowed, ConstraintRefused):
        raise ItemConflict(_ASKED_FOR) from None
    with database.read() as connection:
        case = reading_rows.blind_case(connection, case_id)
    if case is None or case.item is None or case.item.item_id is None:
        raise ItemConflict("the study has changed at this moment; ask again")
    return case.item.item_id


def _case_to_read(database: Database, study_instance_uid: str, protocol: str) -> str:
    with database.read() as connection:
        cases = work_item_rows.cases_of_study(connection, study_instance_uid)
    wanted = [case for case in cases if protocol in ("", case.protocol)]
    if not wanted:
        raise ItemConflict("this study is not known here, or was not put to that protocol")
    if len(wanted) > 1:
        raise ItemConflict("this study was put to several protocols; name one in WorklistLabel")
    if wanted[0].has_open_item:
        raise ItemConflict(_ASKED_FOR)
    return wanted[0].case_id


def claim(database: Database, item_id: str, transaction_uid: str, *, lease: timedelta, now: datetime) -> None:
    """Hold an item under this transaction UID, or hold it longer; raises NoSuchItem or ItemConflict."""
    with database.transaction() as connection:
        item = _item(connection, item_id)
        account = account_rows.outside_account(connection, now=now)
        case_id = item.line.case_id
        if not round_rows.may_take_item(connection, item_id=item_id, account_id=account.id, adjudicates=False):
            raise ItemConflict("this work item is not one for other systems; leave it to the readers of the room")
        taken = worklist_rows.claim_item(connection, case_id=case_id, account_id=account.id, lease=lease, now=now)
        if taken is None or taken.item_id != item_id or not _is_first(connection, taken, transaction_uid, now):
            raise ItemConflict("somebody else holds this work item, or it is not open any more")
        what = {"item": item_id, "fence": taken.fence}
        audit_rows.append(connection, at=now, actor=account.name, event=OPENED, case_id=case_id, payload=what)


def _is_first(connection: Transaction, taken: worklist_rows.Claim, transaction_uid: str, now: datetime) -> bool:
    """Whether no other system holds the item: all of them have the same account, and each its own transaction UID."""
    return work_item_rows.note_claim(
        connection, item_id=taken.item_id, fence=taken.fence, transaction_uid=transaction_uid, now=now
    )


def commit(
    database: Database,
    item_id: str,
    transaction_uid: str,
    read: Read,
    *,
    protocols: Mapping[str, TriageProtocol] = NO_PROTOCOLS,
    key: bytes = b"",
    now: datetime,
) -> str:
    """Write the read, close the item, return the read's id; raises NoSuchItem, ItemConflict, UnfinishedRead.

    Whether somebody reads it again follows the active protocol, drawn with `key`; its form is not asked of other systems.
    """
    with database.transaction() as connection:
        hold = _hold(connection, item_id, transaction_uid, now)
        protocol = protocols.get(_item(connection, item_id).line.protocol)
    reading = NO_FORM if protocol is None else protocol.reading
    said = replace(read, answers=None)
    return review.commit_read(database, hold.account, hold.case_id, hold.fence, said, reading=reading, key=key, now=now)


def give_back(database: Database, item_id: str, transaction_uid: str, reason: str, *, now: datetime) -> str:
    """Cancel a held item and put its case on the worklist again as a new item, whose id is returned.

    `reason` is a code. Raises NoSuchItem or ItemConflict.
    """
    with database.transaction() as connection:
        hold = _hold(connection, item_id, transaction_uid, now)
        case_rows.hold(connection, hold.case_id)
        again = work_item_rows.replace_claim(
            connection, item_id=item_id, account_id=hold.account.id, fence=hold.fence, now=now
        )
        if again is None:
            raise _not_held()
        what = {"item": item_id, "fence": hold.fence, "reason": reason, "replaced_by": again}
        audit_rows.append(
            connection, at=now, actor=hold.account.name, event=GIVEN_BACK, case_id=hold.case_id, payload=what
        )
        return again


def _hold(connection: Transaction, item_id: str, transaction_uid: str, now: datetime) -> Hold:
    item = _item(connection, item_id)
    account = account_rows.outside_account(connection, now=now)
    fence = work_item_rows.fence_of_claim(
        connection, item_id=item_id, account_id=account.id, transaction_uid=transaction_uid, now=now
    )
    if fence is None:
        raise _not_held()
    return Hold(account=account, case_id=item.line.case_id, fence=fence)


def _not_held() -> ItemConflict:
    return ItemConflict("this transaction UID does not hold the work item: it never did, or its time has ended")


def ask_to_cancel(database: Database, item_id: str, reason: str, *, now: datetime) -> None:
    """Write down that somebody asked for the item to be cancelled; raises NoSuchItem, ItemConflict when it is final."""
    with database.transaction() as connection:
        item = _item(connection, item_id)
        if item.line.state in FINAL:
            raise ItemConflict("this work item is completed or canceled already")
        account = account_rows.outside_account(connection, now=now)
        what = {"item": item_id, "reason": reason}
        audit_rows.append(
            connection, at=now, actor=account.name, event=CANCEL_ASKED, case_id=item.line.case_id, payload=what
        )
