"""Signing in and out: one message for every failure, the same time for every name, delays that grow and end."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from pipeline.store import account_rows, audit_rows, session_rows
from pipeline.store.account_rows import Account
from pipeline.web.access import CLOSED, Forged, Session, require_own_origin
from pipeline.web.room import Here, Room

public = APIRouter()
private = APIRouter(dependencies=CLOSED)
_REFUSED = "Name or password is not right. After several wrong attempts sign-in waits a while before it listens again."


def _visit_cookie(room: Room) -> str:
    return f"{room.cookie_name}-visit"


def _visit_token(room: Room, visit: str) -> str:
    return hmac.new(room.session_key, b"sign-in:" + visit.encode(), hashlib.sha256).hexdigest()


def _form(room: Room, *, status: int, problem: str = "", name: str = "") -> Response:
    visit = secrets.token_urlsafe(24)
    answer = room.page("sign_in.html", status=status, problem=problem, name=name, token=_visit_token(room, visit))
    _set_cookie(answer, room, _visit_cookie(room), visit)
    return answer


def _set_cookie(answer: Response, room: Room, name: str, value: str) -> None:
    answer.set_cookie(name, value, path="/", secure=room.https, httponly=True, samesite="lax")


@public.get("/sign-in")
def show_sign_in(room: Here) -> Response:
    """The form."""
    return _form(room, status=200)


@public.post("/sign-in")
def sign_in(
    request: Request,
    room: Here,
    name: Annotated[str, Form(max_length=256)] = "",
    password: Annotated[str, Form(max_length=4096)] = "",
    csrf_token: Annotated[str, Form(max_length=256)] = "",
) -> Response:
    """Open a session, or show the form again."""
    require_own_origin(request)
    visit = request.cookies.get(_visit_cookie(room), "")
    if not visit or not hmac.compare_digest(csrf_token.encode(), _visit_token(room, visit).encode()):
        raise Forged
    account = _check(room, name, password)
    if account is None:
        return _form(room, status=401, problem=_REFUSED, name=name)
    answer = RedirectResponse("/worklist", status_code=303)
    _set_cookie(answer, room, room.cookie_name, _open_session(room, request, account))
    answer.delete_cookie(_visit_cookie(room), path="/", secure=room.https, httponly=True, samesite="lax")
    return answer


def _check(room: Room, name: str, password: str) -> Account | None:
    """The account when the password is right and no delay runs; hashing happens outside any transaction."""
    with room.database.read() as connection:
        stored = account_rows.find_for_sign_in(connection, name)
    matches = account_rows.password_matches(stored, password)
    now = room.now()
    if stored is None or stored.disabled:
        return None
    if stored.locked_until is not None and stored.locked_until > now:
        return None
    with room.database.transaction() as connection:
        if matches:
            account_rows.record_success(connection, account_id=stored.account.id)
            account_rows.upgrade_hash(connection, stored=stored, password=password)
            return stored.account
        failures = account_rows.record_failure(connection, account_id=stored.account.id, now=now)
        audit_rows.append(
            connection, at=now, actor=stored.account.name, event="sign_in.refused", payload={"failures": failures}
        )
    return None


def _open_session(room: Room, request: Request, account: Account) -> str:
    """A fresh session; one that the browser still holds is ended, so that no value survives a sign-in."""
    now = room.now()
    with room.database.transaction() as connection:
        session_rows.forget_ended_sessions(connection, now=now, idle=room.idle, absolute=room.absolute)
        old = request.cookies.get(room.cookie_name)
        if old:
            session_rows.close_session(connection, token_hash=session_rows.hash_token(old))
        audit_rows.append(connection, at=now, actor=account.name, event="sign_in", payload={})
        return session_rows.open_session(connection, account_id=account.id, now=now)


@private.post("/sign-out")
def sign_out(room: Here, session: Session) -> Response:
    """End the session on the server and forget the cookie."""
    with room.database.transaction() as connection:
        session_rows.close_session(connection, token_hash=session.token_hash)
        audit_rows.append(connection, at=room.now(), actor=session.account.name, event="sign_out", payload={})
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(room.cookie_name, path="/", secure=room.https, httponly=True, samesite="lax")
    return answer
