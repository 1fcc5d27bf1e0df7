"""One's own account: password, second factor, and the sessions that are open."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from pipeline import membership
from pipeline.errors import UnfitAccount
from pipeline.store import account_rows, audit_rows, session_rows
from pipeline.store.session_rows import SignedIn
from pipeline.web import proving
from pipeline.web.access import CLOSED, Session
from pipeline.web.room import Here, Room
from pipeline.web.sign_in import signed_out, welcome

router = APIRouter(prefix="/account", dependencies=CLOSED)
_WRONG = "The current password is not right, or there were too many attempts. Wait a moment and try again."
_DIFFERENT = "The new password was not typed the same way twice. Type it again."
Password = Annotated[str, Form(max_length=4096)]


def _page(room: Room, session: SignedIn, *, status: int = HTTPStatus.OK, problem: str = "") -> Response:
    with room.database.read() as connection:
        stored = account_rows.find_by_id(connection, session.account.id)
        sessions = session_rows.open_sessions(
            connection, account_id=session.account.id, now=room.now(), idle=room.idle, absolute=room.absolute
        )
    return room.page(
        "account.html",
        status=status,
        session=session,
        problem=problem,
        stored=stored,
        sessions=sessions,
        offers_second_factor=bool(room.keys.sealing),
        shortest=account_rows.SHORTEST_PASSWORD,
    )


@router.get("")
def show(room: Here, session: Session) -> Response:
    """The page."""
    return _page(room, session)


@router.post("/password")
def change_password(
    request: Request, room: Here, session: Session, *, current: Password = "", new: Password = "", again: Password = ""
) -> Response:
    """Another password; every session ends and this browser gets a new one."""
    if not proving.has_password(room, session.account, current):
        return _page(room, session, status=HTTPStatus.UNPROCESSABLE_ENTITY, problem=_WRONG)
    if new != again:
        return _page(room, session, status=HTTPStatus.UNPROCESSABLE_ENTITY, problem=_DIFFERENT)
    try:
        membership.change_own_password(room.database, session.account, new, now=room.now())
    except UnfitAccount as refused:
        said = str(refused)
        return _page(room, session, status=HTTPStatus.UNPROCESSABLE_ENTITY, problem=f"{said[:1].upper()}{said[1:]}.")
    return welcome(request, room, session.account, way="password changed")


@router.post("/sign-out-everywhere")
def sign_out_everywhere(room: Here, session: Session) -> Response:
    """End every session of this account, this one too."""
    now, account = room.now(), session.account
    with room.database.transaction() as connection:
        count = session_rows.close_account_sessions(connection, account_id=account.id)
        what = {"sessions": count}
        audit_rows.append(connection, at=now, actor=account.name, event="sign_out_everywhere", payload=what)
    return signed_out(room)
