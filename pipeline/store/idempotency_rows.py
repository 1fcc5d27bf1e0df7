"""What was answered to a request with an Idempotency-Key, so that the same request is not carried out twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from pipeline.store.room_tables import idempotent_answer

KEPT: Final = timedelta(hours=24)
GIVEN_UP_AFTER: Final = timedelta(seconds=60)  #: a request that is not answered by then died with its process


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """One request that is being answered under a key since `at`."""

    account_id: str
    key: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An earlier request under the same key; `status` is None while it is being answered.

    `body` is None where the answer held something that is told only once.
    """

    request_digest: str
    status: int | None
    headers: Mapping[str, str]
    body: str | None


def begin(connection: Connection, ticket: Ticket, *, request_digest: str) -> Earlier | None:
    """Take the key for this request, or return the earlier request that has it.

    Answers older than a day are removed first. A key whose request was given up passes to this one when it is the same.
    """
    connection.execute(delete(idempotent_answer).where(idempotent_answer.c.at <= ticket.at - KEPT))
    if _inserted(connection, ticket, request_digest) or _taken_over(connection, ticket, request_digest):
        return None
    row = connection.execute(select(idempotent_answer).where(_of(ticket))).one_or_none()
    if row is None:  # the earlier request failed and freed its key at this moment
        return begin(connection, ticket, request_digest=request_digest)
    return Earlier(request_digest=row.request_digest, status=row.status, headers=dict(row.headers or {}), body=row.body)


def _inserted(connection: Connection, ticket: Ticket, request_digest: str) -> bool:
    row = {"account_id": ticket.account_id, "key": ticket.key, "at": ticket.at, "request_digest": request_digest}
    try:
        with connection.begin_nested():
            connection.execute(insert(idempotent_answer).values(**row))
    except IntegrityError:
        return False
    return True


def _taken_over(connection: Connection, ticket: Ticket, request_digest: str) -> bool:
    given_up = and_(
        _of(ticket),
        idempotent_answer.c.request_digest == request_digest,
        idempotent_answer.c.status.is_(None),
        idempotent_answer.c.at <= ticket.at - GIVEN_UP_AFTER,
    )
    return connection.execute(update(idempotent_answer).where(given_up).values(at=ticket.at)).rowcount == 1


def _of(ticket: Ticket) -> ColumnElement[bool]:
    return and_(idempotent_answer.c.account_id == ticket.account_id, idempotent_answer.c.key == ticket.key)


def _still_of(ticket: Ticket) -> ColumnElement[bool]:
    return and_(_of(ticket), idempotent_answer.c.status.is_(None), idempotent_answer.c.at == ticket.at)


def finish(
    connection: Connection, ticket: Ticket, *, status: int, headers: Mapping[str, str], body: str | None
) -> None:
    """Keep what was answered, unless another request took the key over meanwhile."""
    kept = {"status": status, "headers": dict(headers), "body": body}
    connection.execute(update(idempotent_answer).where(_still_of(ticket)).values(**kept))


def forget(connection: Connection, ticket: Ticket) -> None:
    """Free the key of a request that changed nothing."""
    connection.execute(delete(idempotent_answer).where(_still_of(ticket)))
