"""The people and services of the room as those see them who look after accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from pipeline.errors import NoSuchPerson
from pipeline.store.account_rows import Role
from pipeline.store.tables import account


@dataclass(frozen=True, kw_only=True)
class Person:
    """One account without its secrets."""

    id: str
    name: str
    role: Role
    specialties: tuple[str, ...]
    disabled: bool
    second_factor: bool
    by_provider: bool
    created_at: datetime
    signed_in_at: datetime | None
    locked_until: datetime | None


def list_people(connection: Connection) -> list[Person]:
    """Every account but that of other systems: those who may come in first, by name."""
    query = (
        select(account)
        .where(account.c.role != Role.OUTSIDE)
        .order_by(account.c.disabled, func.lower(account.c.name), account.c.id)
    )
    return [_person(row) for row in connection.execute(query)]


def known_person(connection: Connection, account_id: str) -> Person:
    """One account; raises NoSuchPerson."""
    query = select(account).where(account.c.id == account_id, account.c.role != Role.OUTSIDE)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NoSuchPerson("there is no account of that id; open the list of people again")
    return _person(row)


def person_named(connection: Connection, name: str) -> Person:
    """The account of that name; raises NoSuchPerson."""
    query = select(account).where(account.c.name == name.strip(), account.c.role != Role.OUTSIDE)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NoSuchPerson(f"there is no account named '{name}'; `secondread people list` names them all")
    return _person(row)


def person_of_subject(connection: Connection, oidc_subject: str) -> Person | None:
    """The account that the site's provider vouches for under this subject, or None before the first sign-in."""
    row = connection.execute(select(account).where(account.c.oidc_subject == oidc_subject)).one_or_none()
    return None if row is None else _person(row)


def _person(row: Row[Any]) -> Person:
    return Person(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        specialties=tuple(row.specialties),
        disabled=row.disabled,
        second_factor=row.totp_secret is not None,
        by_provider=row.oidc_subject is not None,
        created_at=row.created_at,
        signed_in_at=row.signed_in_at,
        locked_until=row.locked_until,
    )


def admins_who_may_come_in(connection: Connection) -> list[str]:
    """Ids of the enabled administrators; their rows stay as they are until this transaction ends."""
    able = (account.c.role == Role.ADMIN) & account.c.disabled.is_(False)
    query = select(account.c.id).where(able).order_by(account.c.id).with_for_update()
    return list(connection.execute(query).scalars())


def change_role(connection: Connection, *, account_id: str, role: Role, specialties: Sequence[str]) -> None:
    """Give an account another role and other specialties."""
    changed = {"role": role, "specialties": list(specialties)}
    connection.execute(update(account).where(account.c.id == account_id).values(**changed))


def set_disabled(connection: Connection, *, account_id: str, disabled: bool) -> bool:
    """Shut an account out, or let it in again; False where it was so already."""
    other = (account.c.id == account_id) & (account.c.disabled.is_not(disabled))
    return connection.execute(update(account).where(other).values(disabled=disabled)).rowcount == 1


def note_sign_in(connection: Connection, *, account_id: str, now: datetime) -> None:
    """Note when somebody last signed in."""
    connection.execute(update(account).where(account.c.id == account_id).values(signed_in_at=now))
