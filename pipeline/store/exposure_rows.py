"""The exposure log: who was first shown what of a case, and when; rows are added and never changed or removed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, insert, literal, select
from sqlalchemy.exc import IntegrityError

from pipeline.store.room_tables import exposure
from pipeline.store.sequences import new_id
from pipeline.store.tables import account


class Exposure(StrEnum):
    """What a person was shown that may colour a read."""

    IMAGES = "IMAGES"  #: The case's images.
    ROUTE = "ROUTE"  #: That the case was decided without a read, which tells where the model sent it.
    READS = "READS"  #: What the other readers of the case say.
    ANSWER = "ANSWER"  #: The model's answer.
    MAPS = "MAPS"  #: Where in the images the model's answer or doubt comes from.
    RECORD = "RECORD"  #: The whole timeline of the case.


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One line of the log."""

    account_id: str
    name: str
    kind: Exposure
    at: datetime


def note(connection: Connection, *, case_id: str, account_id: str, kind: Exposure, now: datetime) -> bool:
    """Log that this person is shown this of the case; False when it was logged before, whose moment stays."""
    if is_noted(connection, case_id=case_id, account_id=account_id, kind=kind):
        return False
    values = {"id": new_id(), "case_id": case_id, "account_id": account_id, "kind": kind.value, "at": now}
    try:
        with connection.begin_nested():
            connection.execute(insert(exposure).values(**values))
    except IntegrityError:  # another request of the same person was shown it at this moment
        if not is_noted(connection, case_id=case_id, account_id=account_id, kind=kind):
            raise
        return False
    return True


def is_noted(connection: Connection, *, case_id: str, account_id: str, kind: Exposure) -> bool:
    """Whether the log says that this person was shown this of the case."""
    known = select(literal(1)).where(
        exposure.c.case_id == case_id, exposure.c.account_id == account_id, exposure.c.kind == kind.value
    )
    return connection.execute(known.limit(1)).first() is not None


def of_case(connection: Connection, case_id: str) -> list[Seen]:
    """Everything that the log says about a case, oldest first."""
    query = (
        select(exposure.c.account_id, account.c.name, exposure.c.kind, exposure.c.at)
        .join(account, account.c.id == exposure.c.account_id)
        .where(exposure.c.case_id == case_id)
        .order_by(exposure.c.at, exposure.c.id)
    )
    return [
        Seen(account_id=row.account_id, name=row.name, kind=Exposure(row.kind), at=row.at)
        for row in connection.execute(query)
    ]
