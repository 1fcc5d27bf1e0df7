"""Sessions on the server's side: the cookie holds a random value, the database its hash, so both sides can end it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from pipeline.store.account_rows import Account, Role
from pipeline.store.tables import account, session

MOST_SESSIONS = 5  #: of one account at a time
_TOUCH_AFTER = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class SignedIn:
    """A live session: who, the token that proves a form is ours, and whether `last_seen_at` is due for a refresh."""

    account: Account
    csrf_token: str
    token_hash: str
    needs_touch: bool
    proven_at: datetime | None = None  #: when the person last proved who they are; None for a service
    by_token: bool = False  #: a service with a token and no cookie, so that there is nothing to forge


@dataclass(frozen=True, kw_only=True)
class OpenSession:
    """A session as its owner sees it."""

    token_hash: str
    created_at: datetime
    last_seen_at: datetime


def hash_token(token: str) -> str:
    """SHA-256 of a cookie's value, hexadecimal; the value itself is never stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def open_session(connection: Connection, *, account_id: str, now: datetime) -> str:
    """Start a session and return the cookie's value: 256 random bits, different at every sign-in.

    Beyond MOST_SESSIONS of one account those that began first end.
    """
    token = secrets.token_urlsafe(32)
    connection.execute(
        insert(session).values(
            token_hash=hash_token(token),
            account_id=account_id,
            csrf_token=secrets.token_urlsafe(32),
            created_at=now,
            last_seen_at=now,
            proven_at=now,
        )
    )
    _end_the_oldest(connection, account_id, keep=hash_token(token))
    return token


def _end_the_oldest(connection: Connection, account_id: str, *, keep: str) -> None:
    others = (session.c.account_id == account_id) & (session.c.token_hash != keep)
    query = select(session.c.token_hash).where(others).order_by(session.c.created_at.desc(), session.c.token_hash)
    surplus = list(connection.execute(query.offset(MOST_SESSIONS - 1)).scalars())
    if surplus:
        connection.execute(delete(session).where(session.c.token_hash.in_(surplus)))


def open_sessions(
    connection: Connection, *, account_id: str, now: datetime, idle: timedelta, absolute: timedelta
) -> list[OpenSession]:
    """The live sessions of an account, the one used last first."""
    live = (session.c.last_seen_at > now - idle) & (session.c.created_at > now - absolute)
    query = (
        select(session.c.token_hash, session.c.created_at, session.c.last_seen_at)
        .where(session.c.account_id == account_id, live)
        .order_by(session.c.last_seen_at.desc(), session.c.token_hash)
    )
    return [
        OpenSession(token_hash=row.token_hash, created_at=row.created_at, last_seen_at=row.last_seen_at)
        for row in connection.execute(query)
    ]


def find_session(
    connection: Connection, *, token: str, now: datetime, idle: timedelta, absolute: timedelta
) -> SignedIn | None:
    """The live session of a cookie's value, or None when unknown, ended, too old, or its account is disabled."""
    query = (
        select(session, account.c.name, account.c.role, account.c.specialties)
        .join(account, account.c.id == session.c.account_id)
        .where(
            session.c.token_hash == hash_token(token),
            session.c.last_seen_at > now - idle,
            session.c.created_at > now - absolute,
            account.c.disabled.is_(False),
        )
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    who = Account(id=row.account_id, name=row.name, role=Role(row.role), specialties=tuple(row.specialties))
    return SignedIn(
        account=who,
        csrf_token=row.csrf_token,
        token_hash=row.token_hash,
        needs_touch=row.last_seen_at <= now - _TOUCH_AFTER,
        proven_at=row.proven_at,
    )


def touch_session(connection: Connection, *, token_hash: str, now: datetime) -> None:
    """Note that the session was used."""
    connection.execute(update(session).where(session.c.token_hash == token_hash).values(last_seen_at=now))


def close_session(connection: Connection, *, token_hash: str) -> None:
    """End a session for good."""
    connection.execute(delete(session).where(session.c.token_hash == token_hash))


def close_account_sessions(connection: Connection, *, account_id: str) -> int:
    """End every session of an account and return how many there were."""
    return connection.execute(delete(session).where(session.c.account_id == account_id)).rowcount


def forget_ended_sessions(connection: Connection, *, now: datetime, idle: timedelta, absolute: timedelta) -> int:
    """Remove sessions that can not be used any more and return how many there were."""
    ended = (session.c.last_seen_at <= now - idle) | (session.c.created_at <= now - absolute)
    return connection.execute(delete(session).where(ended)).rowcount
