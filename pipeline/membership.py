"""Who belongs to the room: accounts and tokens made, changed and shut out, each of it written down without a secret.

Whatever lessens or changes what an account may do ends its sessions, so that nobody keeps what was taken away.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline.errors import NoSuchPerson, NotAllowed, UnfitAccount
from pipeline.store import account_rows, audit_rows, people_rows, second_factor_rows, session_rows, token_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.database import Database, Transaction
from pipeline.store.people_rows import Person
from pipeline.store.token_rows import Scope

_PASSWORD_BYTES = 15
_OURSELVES = "this is your own account; ask another administrator to change it"
_YOUR_PAGE = "this is your own account; change your password and second factor on your account's page"
_LAST_ADMIN = "this is the last administrator who may come in; make another one first"


@dataclass(frozen=True, kw_only=True)
class Made:
    """An account or token that was made; its secret is shown once, and empty where there is none."""

    id: str
    secret: str


def new_password() -> str:
    """A password that nobody can guess, to be told once."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def add_person(
    database: Database, *, actor: str, name: str, role: str, specialties: Sequence[str], now: datetime
) -> Made:
    """Make an account with a new password; a service has none. Raises UnfitAccount."""
    password = "" if role == Role.SERVICE else new_password()
    with database.transaction() as connection:
        account_id = account_rows.create_account(
            connection, name=name, password=password or None, role=role, specialties=specialties, now=now
        )
        _note(connection, actor, now, "account_created", account_id, role=role, specialties=list(specialties))
    return Made(id=account_id, secret=password)


def change_role(
    database: Database, admin: Account | str, account_id: str, *, role: str, specialties: Sequence[str], now: datetime
) -> None:
    """Give an account another role and other specialties. Raises NoSuchPerson, NotAllowed, UnfitAccount."""
    account_rows.refuse_role(role)
    with database.transaction() as connection:
        person = people_rows.known_person(connection, account_id)
        if Role.SERVICE in {person.role, role} and person.role != role:
            raise UnfitAccount("a person does not become a service, nor a service a person; make another account")
        if role != Role.ADMIN:
            _refuse_loss(connection, admin, person)
        people_rows.change_role(connection, account_id=account_id, role=Role(role), specialties=specialties)
        session_rows.close_account_sessions(connection, account_id=account_id)
        was = {"was": person.role, "specialties": list(specialties)}
        _note(connection, _name(admin), now, "account_changed", account_id, role=role, **was)


def set_disabled(database: Database, admin: Account | str, account_id: str, *, disabled: bool, now: datetime) -> None:
    """Shut an account out at once, or let it in again. Raises NoSuchPerson, NotAllowed."""
    with database.transaction() as connection:
        person = people_rows.known_person(connection, account_id)
        if disabled:
            _refuse_loss(connection, admin, person)
            session_rows.close_account_sessions(connection, account_id=account_id)
        if people_rows.set_disabled(connection, account_id=account_id, disabled=disabled):
            event = "account_disabled" if disabled else "account_enabled"
            _note(connection, _name(admin), now, event, account_id)


def reset_password(database: Database, *, actor: Account | str, account_id: str, now: datetime) -> str:
    """Give another's account a new password and return it.

    Raises NoSuchPerson, NotAllowed for one's own, UnfitAccount where it has no use for one.
    """
    _refuse_own(actor, account_id)
    password = new_password()
    with database.transaction() as connection:
        person = people_rows.known_person(connection, account_id)
        if person.role is Role.SERVICE or person.by_provider:
            raise UnfitAccount("this account has no password: it comes with a token or from the site's provider")
        account_rows.set_password(connection, account_id=account_id, name=person.name, password=password)
        session_rows.close_account_sessions(connection, account_id=account_id)
        _note(connection, _name(actor), now, "password_reset", account_id)
    return password


def change_own_password(database: Database, account: Account, password: str, *, now: datetime) -> None:
    """Give oneself another password; every session ends, so that the caller opens a new one. Raises UnfitAccount."""
    with database.transaction() as connection:
        account_rows.set_password(connection, account_id=account.id, name=account.name, password=password)
        session_rows.close_account_sessions(connection, account_id=account.id)
        _note(connection, account.name, now, "password_changed", account.id)


def reset_second_factor(database: Database, *, admin: Account, account_id: str, now: datetime) -> None:
    """Take the second factor of another's account away. Raises NoSuchPerson, NotAllowed for one's own."""
    _refuse_own(admin, account_id)
    remove_second_factor(database, actor=admin.name, account_id=account_id, now=now)


def remove_second_factor(database: Database, *, actor: str, account_id: str, now: datetime) -> None:
    """Take an account's second factor away and end its sessions. Raises NoSuchPerson."""
    with database.transaction() as connection:
        people_rows.known_person(connection, account_id)
        if second_factor_rows.remove_secret(connection, account_id=account_id):
            session_rows.close_account_sessions(connection, account_id=account_id)
            _note(connection, actor, now, "second_factor_removed", account_id)


def issue_token(
    database: Database,
    admin: Account,
    account_id: str,
    *,
    label: str,
    scopes: Sequence[Scope],
    life: timedelta,
    now: datetime,
) -> Made:
    """Make a token of a service, to be told once. Raises NoSuchPerson, UnfitAccount."""
    with database.transaction() as connection:
        people_rows.known_person(connection, account_id)
        token_id, token = token_rows.issue(
            connection, account_id=account_id, label=label, scopes=scopes, life=life, made_by=admin.id, now=now
        )
        what = {"token": token_id, "scopes": sorted(scopes), "until": (now + life).isoformat()}
        _note(connection, admin.name, now, "token_issued", account_id, **what)
    return Made(id=token_id, secret=token)


def revoke_token(database: Database, admin: Account, account_id: str, token_id: str, *, now: datetime) -> None:
    """End a token of a service. Raises NoSuchPerson."""
    with database.transaction() as connection:
        if not token_rows.revoke(connection, account_id=account_id, token_id=token_id, now=now):
            raise NoSuchPerson("there is no token of that id that lives; open the list again")
        _note(connection, admin.name, now, "token_revoked", account_id, token=token_id)


def admit(
    database: Database, *, subject: str, names: Sequence[str], role: Role, specialties: Sequence[str], now: datetime
) -> Account:
    """Whom the site's provider vouches for, with today's role; an account is made at the first sign-in.

    The last administrator stays one, which is written down: else nobody could look after the room. Raises NotAllowed
    where the account was shut out here, UnfitAccount where no name of theirs can be used.
    """
    with database.transaction() as connection:
        person = people_rows.person_of_subject(connection, subject)
        if person is None:
            account_id, name = _first_admission(connection, subject, names, role=role, specialties=specialties, now=now)
            return Account(id=account_id, name=name, role=role, specialties=tuple(specialties))
        if person.disabled:
            raise NotAllowed("this account was shut out of the reading room; ask an administrator")
        role = _kept_role(connection, person, role, now)
        if (person.role, person.specialties) != (role, tuple(specialties)):
            people_rows.change_role(connection, account_id=person.id, role=role, specialties=specialties)
            session_rows.close_account_sessions(connection, account_id=person.id)
            _note(connection, "provider", now, "account_changed", person.id, role=role, was=person.role)
    return Account(id=person.id, name=person.name, role=role, specialties=tuple(specialties))


def _kept_role(connection: Transaction, person: Person, role: Role, now: datetime) -> Role:
    if role is Role.ADMIN or people_rows.admins_who_may_come_in(connection) != [person.id]:
        return role
    _note(connection, "provider", now, "last_admin_kept", person.id, role=role)
    return person.role


def _first_admission(
    connection: Transaction,
    subject: str,
    names: Sequence[str],
    *,
    role: Role,
    specialties: Sequence[str],
    now: datetime,
) -> tuple[str, str]:
    """Make the account under the first name that is fit and free; a number sets namesakes apart."""
    for name in _candidates(names):
        if account_rows.find_for_sign_in(connection, name) is None:
            made = account_rows.create_account(
                connection, name=name, password=None, role=role, specialties=specialties, now=now, oidc_subject=subject
            )
            _note(connection, "provider", now, "account_created", made, role=role, specialties=list(specialties))
            return made, name
    raise UnfitAccount("the site's provider names this person in no way that can be used here; ask an administrator")


def _candidates(names: Sequence[str]) -> list[str]:
    printable = ("".join(letter for letter in name if letter.isprintable()).strip() for name in names)
    fit = [name[: account_rows.LONGEST_NAME - 4].strip() for name in printable if name]
    fit = [name for name in fit if not account_rows.is_reserved(name)]
    return fit + [f"{name} {number}" for name in fit[:1] for number in range(2, 100)]


def _refuse_own(actor: Account | str, account_id: str) -> None:
    """Raise NotAllowed where a session alone would take its own account over."""
    if isinstance(actor, Account) and actor.id == account_id:
        raise NotAllowed(_YOUR_PAGE)


def _refuse_loss(connection: Transaction, admin: Account | str, person: Person) -> None:
    """Raise NotAllowed where the room would lose its last administrator, or somebody would saw off their own branch."""
    if isinstance(admin, Account) and admin.id == person.id:
        raise NotAllowed(_OURSELVES)
    if people_rows.admins_who_may_come_in(connection) == [person.id]:
        raise NotAllowed(_LAST_ADMIN)


def _name(admin: Account | str) -> str:
    return admin if isinstance(admin, str) else admin.name


def _note(connection: Transaction, actor: str, now: datetime, event: str, account_id: str, **what: Any) -> None:
    audit_rows.append(connection, at=now, actor=actor, event=event, payload={"account": account_id, **what})
