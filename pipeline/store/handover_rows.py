"""Cases that pass from one pair of hands to another, or are put aside for a while: the lease ends, the draft stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, select, update

from pipeline.domain.case import ItemState
from pipeline.store.account_rows import Account, Role
from pipeline.store.reading_order import is_open
from pipeline.store.tables import account, worklist_item
from pipeline.store.worklist_rows import held_by, is_free, is_paused

_IN_NO_HANDS = {"state": ItemState.SCHEDULED.value, "claimed_by": None, "lease_until": None}


class PauseReason(StrEnum):
    """Why a reader puts a case aside."""

    PRIORS_AWAITED = "PRIORS_AWAITED"  #: Earlier images of the patient are on their way.
    CLINICAL_QUESTION = "CLINICAL_QUESTION"  #: The clinician who asked must say more.
    SECOND_OPINION = "SECOND_OPINION"  #: The reader wants to talk to a colleague.
    TECHNICAL = "TECHNICAL"  #: Something does not work: images, display, network.


@dataclass(frozen=True, kw_only=True)
class OpenItem:
    """What giving or putting an item aside needs to know of it."""

    id: str
    specialty: str
    due_at: datetime
    round: int


def open_item(connection: Connection, case_id: str) -> OpenItem | None:
    """The open item of a case, or None."""
    columns = (worklist_item.c[name] for name in OpenItem.__dataclass_fields__)
    row = connection.execute(select(*columns).where(worklist_item.c.case_id == case_id, is_open())).one_or_none()
    return None if row is None else OpenItem(**row._mapping)  # noqa: SLF001 - the documented row view


def readers(connection: Connection) -> list[Account]:
    """Every account of a person who may claim cases, by name."""
    query = select(account).where(account.c.disabled.is_(False)).order_by(account.c.name)
    found = [
        Account(id=row.id, name=row.name, role=Role(row.role), specialties=tuple(row.specialties))
        for row in connection.execute(query)
    ]
    return [one for one in found if one.may_read and one.role is not Role.OUTSIDE]


def hand_over(
    connection: Connection,
    *,
    item_id: str,
    case_id: str,
    to: str,
    by: str,
    until: datetime,
    fence: int | None,
    now: datetime,
) -> bool:
    """Reserve an open item for a colleague; False when it is not held by the giver, or not open where no fence counts."""
    mine = is_open() if fence is None else held_by(case_id, by, fence, now)
    values = {"offered_to": to, "offered_by": by, "offered_until": until, "paused_until": None, "pause_reason": None}
    changed = connection.execute(
        update(worklist_item)
        .where(worklist_item.c.id == item_id, mine)
        .values(fence=worklist_item.c.fence + 1, **_IN_NO_HANDS, **values)
    )
    return changed.rowcount == 1


def pause(
    connection: Connection,
    *,
    case_id: str,
    account_id: str,
    fence: int,
    reason: PauseReason,
    until: datetime,
    now: datetime,
) -> bool:
    """Put a held item aside; False when it was no longer this reader's."""
    changed = connection.execute(
        update(worklist_item)
        .where(held_by(case_id, account_id, fence, now))
        .values(paused_until=until, pause_reason=reason.value, **_IN_NO_HANDS)
    )
    return changed.rowcount == 1


def resume(connection: Connection, *, case_id: str, now: datetime) -> bool:
    """Put a paused item back among the waiting; False when it is not paused."""
    changed = connection.execute(
        update(worklist_item)
        .where(worklist_item.c.case_id == case_id, is_open(), is_free(now), is_paused(now))
        .values(paused_until=None, pause_reason=None)
    )
    return changed.rowcount == 1
