"""Who may come in, for programs: accounts and the tokens of services. Secrets are answered once and never again."""

from __future__ import annotations

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from pipeline import membership
from pipeline.store import people_rows, token_rows
from pipeline.store.account_rows import LONGEST_NAME, Role
from pipeline.store.token_rows import LONGEST_LABEL, LONGEST_LIFE, Scope
from pipeline.web.access import FOR_PEOPLE, ManagesPeople
from pipeline.web.api_models import Sent, Told
from pipeline.web.idempotency import told_once
from pipeline.web.room import Here

router = APIRouter(prefix="/api/people", dependencies=FOR_PEOPLE)
AccountId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
Specialties = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9_-]+$")], ...], Field(max_length=64)
]


class ToldPerson(Told):
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


class ToldPeople(Told):
    """Every account."""

    people: tuple[ToldPerson, ...]


class ToldSecret(Told):
    """What was made, with its secret: a password or a token, empty where there is none; it is told this once."""

    id: str
    secret: str


class ToldToken(Told):
    """A token of a service without its value."""

    id: str
    label: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None


class ToldTokens(Told):
    """The tokens of a service that live."""

    tokens: tuple[ToldToken, ...]


class SentPerson(Sent):
    """An account to make."""

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    role: Role
    specialties: Specialties = ()


class SentRole(Sent):
    """What an account is to be from now on."""

    role: Role
    specialties: Specialties = ()


class SentToken(Sent):
    """A token to make."""

    label: Annotated[str, Field(min_length=1, max_length=LONGEST_LABEL)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=len(Scope))]
    days: Annotated[int, Field(ge=1, le=LONGEST_LIFE.days)]


def _told(room: Here, account_id: str) -> ToldPerson:
    with room.database.read() as connection:
        return ToldPerson.model_validate(people_rows.known_person(connection, account_id))


@router.get("", response_model=ToldPeople)
def list_people(room: Here) -> ToldPeople:
    """Every account."""
    with room.database.read() as connection:
        found = people_rows.list_people(connection)
    return ToldPeople(people=tuple(ToldPerson.model_validate(person) for person in found))


@router.post("", status_code=HTTPStatus.CREATED, response_model=ToldSecret)
@told_once
def add_person(room: Here, session: ManagesPeople, sent: SentPerson) -> ToldSecret:
    """Make an account; the answer holds its password."""
    made = membership.add_person(
        room.database,
        actor=session.account.name,
        name=sent.name,
        role=sent.role,
        specialties=sent.specialties,
        now=room.now(),
    )
    return ToldSecret.model_validate(made)


@router.get("/{account_id}", response_model=ToldPerson)
def show_person(account_id: AccountId, room: Here) -> ToldPerson:
    """One account."""
    return _told(room, account_id)


@router.put("/{account_id}/role", response_model=ToldPerson)
def change_role(account_id: AccountId, room: Here, session: ManagesPeople, sent: SentRole) -> ToldPerson:
    """Another role, other specialties; sessions of the account end."""
    membership.change_role(
        room.database, session.account, account_id, role=sent.role, specialties=sent.specialties, now=room.now()
    )
    return _told(room, account_id)


@router.post("/{account_id}/disable", response_model=ToldPerson)
def disable(account_id: AccountId, room: Here, session: ManagesPeople) -> ToldPerson:
    """Shut the account out at once."""
    membership.set_disabled(room.database, session.account, account_id, disabled=True, now=room.now())
    return _told(room, account_id)


@router.post("/{account_id}/enable", response_model=ToldPerson)
def enable(account_id: AccountId, room: Here, session: ManagesPeople) -> ToldPerson:
    """Let the account in again."""
    membership.set_disabled(room.database, session.account, account_id, disabled=False, now=room.now())
    return _told(room, account_id)


@router.post("/{account_id}/password", response_model=ToldSecret)
@told_once
def reset_password(account_id: AccountId, room: Here, session: ManagesPeople) -> ToldSecret:
    """A new password of somebody else's account, in the answer."""
    password = membership.reset_password(room.database, actor=session.account, account_id=account_id, now=room.now())
    return ToldSecret(id=account_id, secret=password)


@router.delete("/{account_id}/second-factor", response_model=ToldPerson)
def remove_second_factor(account_id: AccountId, room: Here, session: ManagesPeople) -> ToldPerson:
    """Without second factor, until its owner enrols another; not for one's own account."""
    membership.reset_second_factor(room.database, admin=session.account, account_id=account_id, now=room.now())
    return _told(room, account_id)


@router.get("/{account_id}/tokens", response_model=ToldTokens)
def list_tokens(account_id: AccountId, room: Here) -> ToldTokens:
    """The tokens of a service that are not revoked."""
    with room.database.read() as connection:
        people_rows.known_person(connection, account_id)
        found = token_rows.tokens_of(connection, account_id)
    return ToldTokens(tokens=tuple(ToldToken.model_validate(token) for token in found))


@router.post("/{account_id}/tokens", status_code=HTTPStatus.CREATED, response_model=ToldSecret)
@told_once
def issue_token(account_id: AccountId, room: Here, session: ManagesPeople, sent: SentToken) -> ToldSecret:
    """A new token of a service, in the answer."""
    made = membership.issue_token(
        room.database,
        session.account,
        account_id,
        label=sent.label,
        scopes=sent.scopes,
        life=timedelta(days=sent.days),
        now=room.now(),
    )
    return ToldSecret.model_validate(made)


@router.delete("/{account_id}/tokens/{token_id}", status_code=HTTPStatus.NO_CONTENT)
def revoke_token(account_id: AccountId, token_id: TokenId, room: Here, session: ManagesPeople) -> None:
    """End a token."""
    membership.revoke_token(room.database, session.account, account_id, token_id, now=room.now())
