"""The pages of who may come in: people and services, their roles, and what is reset for them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse

from pipeline import membership
from pipeline.errors import NotAllowed, UnfitAccount
from pipeline.store import people_rows, token_rows
from pipeline.store.account_rows import OF_ACCOUNTS, Role
from pipeline.store.session_rows import SignedIn
from pipeline.store.token_rows import Scope
from pipeline.web.access import FOR_PEOPLE, ManagesPeople
from pipeline.web.room import Here, Room

router = APIRouter(prefix="/people", dependencies=FOR_PEOPLE)
AccountId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
ChosenRole = Annotated[Role, Form()]
Specialties = Annotated[list[str], Form(max_length=64)]


def known_specialties(room: Room) -> list[str]:
    """Every specialty that a protocol of this room sends cases to."""
    return sorted({rule.specialty for protocol in room.protocols.values() for rule in protocol.routes.values()})


def _list(
    room: Room, session: SignedIn, *, status: int = HTTPStatus.OK, problem: str = "", name: str = "", **secret: str
) -> Response:
    with room.database.read() as connection:
        people = people_rows.list_people(connection)
    return room.page(
        "people.html",
        status=status,
        session=session,
        room_open="/people",
        people=people,
        roles=OF_ACCOUNTS,
        specialties=known_specialties(room),
        problem=problem,
        name=name,
        told=secret,
    )


def _one(
    room: Room, session: SignedIn, account_id: str, *, status: int = HTTPStatus.OK, problem: str = "", **secret: str
) -> Response:
    with room.database.read() as connection:
        person = people_rows.known_person(connection, account_id)
        tokens = token_rows.tokens_of(connection, account_id)
    return room.page(
        "person.html",
        status=status,
        session=session,
        room_open="/people",
        person=person,
        tokens=tokens,
        roles=[role for role in OF_ACCOUNTS if role is not Role.SERVICE],
        specialties=sorted({*known_specialties(room), *person.specialties}),
        scopes=list(Scope),
        problem=problem,
        told=secret,
    )


def _sentence(refused: Exception) -> str:
    said = str(refused)
    return f"{said[:1].upper()}{said[1:]}."


def _changed(room: Room, session: SignedIn, account_id: str, change: Callable[[], None]) -> Response:
    """Make the change and show the person again, or show why it was not made."""
    try:
        change()
    except (UnfitAccount, NotAllowed) as refused:
        return _one(room, session, account_id, status=HTTPStatus.UNPROCESSABLE_ENTITY, problem=_sentence(refused))
    return RedirectResponse(f"/people/{account_id}", status_code=HTTPStatus.SEE_OTHER)


@router.get("")
def show_people(room: Here, session: ManagesPeople) -> Response:
    """Everybody, and the form for somebody new."""
    return _list(room, session)


@router.post("")
def add(
    room: Here,
    session: ManagesPeople,
    role: ChosenRole,
    name: Annotated[str, Form(max_length=256)] = "",
    specialties: Specialties = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Make an account; its password stands on the page that comes back and nowhere else."""
    try:
        made = membership.add_person(
            room.database, actor=session.account.name, name=name, role=role, specialties=specialties, now=room.now()
        )
    except UnfitAccount as refused:
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        return _list(room, session, status=status, problem=_sentence(refused), name=name)
    if not made.secret:
        return RedirectResponse(f"/people/{made.id}", status_code=HTTPStatus.SEE_OTHER)
    return _list(room, session, who=name.strip(), password=made.secret)


@router.get("/{account_id}")
def show_person(account_id: AccountId, room: Here, session: ManagesPeople) -> Response:
    """One account and what can be done for it."""
    return _one(room, session, account_id)


@router.post("/{account_id}/role")
def change_role(
    account_id: AccountId,
    room: Here,
    session: ManagesPeople,
    role: ChosenRole,
    specialties: Specialties = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Another role, other specialties; sessions end."""
    return _changed(
        room,
        session,
        account_id,
        lambda: membership.change_role(
            room.database, session.account, account_id, role=role, specialties=specialties, now=room.now()
        ),
    )


@router.post("/{account_id}/disable")
def disable(account_id: AccountId, room: Here, session: ManagesPeople) -> Response:
    """Out at once."""
    return _changed(
        room,
        session,
        account_id,
        lambda: membership.set_disabled(room.database, session.account, account_id, disabled=True, now=room.now()),
    )


@router.post("/{account_id}/enable")
def enable(account_id: AccountId, room: Here, session: ManagesPeople) -> Response:
    """In again."""
    return _changed(
        room,
        session,
        account_id,
        lambda: membership.set_disabled(room.database, session.account, account_id, disabled=False, now=room.now()),
    )


@router.post("/{account_id}/password")
def reset_password(account_id: AccountId, room: Here, session: ManagesPeople) -> Response:
    """A new password, shown once."""
    try:
        password = membership.reset_password(
            room.database, actor=session.account, account_id=account_id, now=room.now()
        )
    except (UnfitAccount, NotAllowed) as refused:
        return _one(room, session, account_id, status=HTTPStatus.UNPROCESSABLE_ENTITY, problem=_sentence(refused))
    return _one(room, session, account_id, password=password)


@router.post("/{account_id}/second-factor")
def reset_second_factor(account_id: AccountId, room: Here, session: ManagesPeople) -> Response:
    """Without second factor, until its owner enrols another."""
    return _changed(
        room,
        session,
        account_id,
        lambda: membership.reset_second_factor(
            room.database, admin=session.account, account_id=account_id, now=room.now()
        ),
    )


@router.post("/{account_id}/tokens")
def issue_token(
    account_id: AccountId,
    room: Here,
    session: ManagesPeople,
    *,
    scopes: Annotated[list[Scope], Form()] = [],  # noqa: B006 - FastAPI copies it
    label: Annotated[str, Form(max_length=256)] = "",
    days: Annotated[int, Form(ge=1, le=token_rows.LONGEST_LIFE.days)] = 90,
) -> Response:
    """A new token of a service, shown once."""
    try:
        made = membership.issue_token(
            room.database,
            session.account,
            account_id,
            label=label,
            scopes=scopes,
            life=timedelta(days=days),
            now=room.now(),
        )
    except UnfitAccount as refused:
        return _one(room, session, account_id, status=HTTPStatus.UNPROCESSABLE_ENTITY, problem=_sentence(refused))
    return _one(room, session, account_id, token=made.secret)


@router.post("/{account_id}/tokens/{token_id}/revoke")
def revoke_token(account_id: AccountId, token_id: TokenId, room: Here, session: ManagesPeople) -> Response:
    """End a token."""
    return _changed(
        room,
        session,
        account_id,
        lambda: membership.revoke_token(room.database, session.account, account_id, token_id, now=room.now()),
    )
