"""What open pages wait for: whether anything happened to a case since they last looked, and whether they may still look."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from pipeline.store.tables import account, audit_event, session


def newest_event(connection: Connection) -> int:
    """The number of the newest event of the audit trail, 0 before the first."""
    return int(connection.execute(select(func.coalesce(func.max(audit_event.c.sequence), 0))).scalar_one())


def touches_a_case(connection: Connection, *, after: int) -> bool:
    """Whether an event after that number is about a case or a study; everything that moves the worklist writes one."""
    about = audit_event.c.case_id.is_not(None) | audit_event.c.study_id.is_not(None)
    query = select(audit_event.c.sequence).where(audit_event.c.sequence > after, about).limit(1)
    return connection.execute(query).first() is not None


def live_sessions(
    connection: Connection, token_hashes: Collection[str], *, now: datetime, idle: timedelta, absolute: timedelta
) -> set[str]:
    """Those of the sessions that have not ended; asking does not lengthen them."""
    query = (
        select(session.c.token_hash)
        .join(account, account.c.id == session.c.account_id)
        .where(
            session.c.token_hash.in_(list(token_hashes)),
            session.c.last_seen_at > now - idle,
            session.c.created_at > now - absolute,
            account.c.disabled.is_(False),
        )
    )
    return set(connection.execute(query).scalars())
