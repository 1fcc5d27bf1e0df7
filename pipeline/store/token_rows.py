"""Tokens of services: shown once, kept as a hash, with scopes, an end, and a way to end them sooner."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from pipeline.errors import UnfitAccount
from pipeline.store.account_rows import Account, May, Role
from pipeline.store.room_tables import api_token
from pipeline.store.sequences import new_id
from pipeline.store.tables import account

PREFIX = "sr_"
LONGEST_LIFE = timedelta(days=365)
LONGEST_LABEL = 64
_TOUCH_AFTER = timedelta(minutes=1)


class Scope(StrEnum):
    """What a service may fetch; none of them lets it claim, read, or see a model's answer before a person has read."""

    WORKLIST = "worklist"  #: The worklist, its cases and their images.
    FIGURES = "figures"  #: Counts, waits and rates, without patients.


GIVEN: Final[Mapping[Scope, frozenset[May]]] = {
    Scope.WORKLIST: frozenset({May.SEE_CASES}),
    Scope.FIGURES: frozenset({May.SEE_FIGURES}),
}


@dataclass(frozen=True, kw_only=True)
class ApiToken:
    """A token as an administrator sees it; its value is nowhere."""

    id: str
    label: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Bearer:
    """Who came with a token, with what its scopes give, and whether its use is due to be noted."""

    account: Account
    token_id: str
    token_hash: str
    needs_touch: bool


def hash_token(token: str) -> str:
    """SHA-256 of a token, hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def issue(
    connection: Connection,
    *,
    account_id: str,
    label: str,
    scopes: Sequence[Scope],
    life: timedelta,
    made_by: str | None,
    now: datetime,
) -> tuple[str, str]:
    """Make a token for a service account: its id and its value, which is never seen again. Raises UnfitAccount."""
    if not label.strip() or len(label) > LONGEST_LABEL or not label.isprintable():
        raise UnfitAccount(f"the token's label must have 1 to {LONGEST_LABEL} printable characters; choose another")
    if not timedelta(0) < life <= LONGEST_LIFE:
        raise UnfitAccount(f"a token lives 1 to {LONGEST_LIFE.days} days; choose another end")
    if not scopes:
        raise UnfitAccount(f"the token would open nothing: choose one of {', '.join(Scope)}")
    role = connection.execute(select(account.c.role).where(account.c.id == account_id)).scalar_one_or_none()
    if role != Role.SERVICE:
        raise UnfitAccount("tokens are for accounts of role service; people sign in")
    token_id, token = new_id(), PREFIX + secrets.token_urlsafe(32)
    row = {"id": token_id, "account_id": account_id, "label": label.strip(), "token_hash": hash_token(token)}
    when = {"created_at": now, "expires_at": now + life, "created_by": made_by}
    connection.execute(insert(api_token).values(scopes=sorted(set(scopes)), **row, **when))
    return token_id, token


def find_bearer(connection: Connection, *, token: str, now: datetime) -> Bearer | None:
    """Whose token this is, or None where it is unknown, over, revoked, or its account is disabled."""
    query = (
        select(api_token, account.c.name, account.c.role, account.c.specialties)
        .join(account, account.c.id == api_token.c.account_id)
        .where(
            api_token.c.token_hash == hash_token(token),
            api_token.c.revoked_at.is_(None),
            api_token.c.expires_at > now,
            account.c.disabled.is_(False),
            account.c.role == Role.SERVICE,
        )
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    granted = frozenset().union(*(GIVEN[Scope(name)] for name in row.scopes if name in set(Scope)))
    who = Account(
        id=row.account_id, name=row.name, role=Role.SERVICE, specialties=tuple(row.specialties), granted=granted
    )
    due = row.last_used_at is None or row.last_used_at <= now - _TOUCH_AFTER
    return Bearer(account=who, token_id=row.id, token_hash=row.token_hash, needs_touch=due)


def note_use(connection: Connection, *, token_id: str, now: datetime) -> None:
    """Note when a token was last used."""
    connection.execute(update(api_token).where(api_token.c.id == token_id).values(last_used_at=now))


def revoke(connection: Connection, *, account_id: str, token_id: str, now: datetime) -> bool:
    """End a service's token for good; False when it has none of that id that lives."""
    alive = (api_token.c.id == token_id) & (api_token.c.account_id == account_id) & api_token.c.revoked_at.is_(None)
    return connection.execute(update(api_token).where(alive).values(revoked_at=now)).rowcount == 1


def tokens_of(connection: Connection, account_id: str) -> list[ApiToken]:
    """The tokens of a service that are not revoked, by label."""
    query = (
        select(api_token)
        .where(api_token.c.account_id == account_id, api_token.c.revoked_at.is_(None))
        .order_by(api_token.c.label, api_token.c.id)
    )
    return [_token(row) for row in connection.execute(query)]


def _token(row: Row[Any]) -> ApiToken:
    return ApiToken(
        id=row.id,
        label=row.label,
        scopes=tuple(Scope(name) for name in row.scopes if name in set(Scope)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
