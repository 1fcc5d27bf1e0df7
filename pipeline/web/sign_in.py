"""Signing in and out: one message for every failure, the same time for every name, delays that grow and end.

Why the second page comes whether or not the password was right: it tells a guesser nothing then. For the same reason it
comes for some names that nobody has, always for the same ones.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from pipeline.store import account_rows, audit_rows, people_rows, session_rows
from pipeline.store.account_rows import Account, StoredPassword
from pipeline.store.database import Transaction
from pipeline.web import proving
from pipeline.web.access import CLOSED, Forged, Session, require_own_origin
from pipeline.web.rate_limit import sign_in_rate
from pipeline.web.room import Here, Room

public = APIRouter()
private = APIRouter(dependencies=CLOSED)
SECOND_PAGE_LASTS = timedelta(minutes=5)
_REFUSED = (
    "Name, password or code is not right. After several wrong attempts sign-in waits a while before it listens again."
)
_PURPOSE = "second page of sign-in"
CsrfToken = Annotated[str, Form(max_length=256)]


@dataclass(frozen=True, kw_only=True)
class FirstPage:
    """What the first page of a sign-in led to; nobody but this house can read it on its way through the browser."""

    account_id: str
    right: bool
    password: str  #: a fingerprint of its hash: a password that was changed meanwhile opens nothing
    until: datetime


def _visit_cookie(room: Room) -> str:
    return f"{room.cookie_name}-visit"


def _first_page_cookie(room: Room) -> str:
    return f"{room.cookie_name}-first-page"


def _visit_token(room: Room, visit: str) -> str:
    return hmac.new(room.session_key, b"sign-in:" + visit.encode(), hashlib.sha256).hexdigest()


def show_form(
    room: Room, *, status: int, problem: str = "", name: str = "", template: str = "sign_in.html"
) -> Response:
    """A page of the sign-in with a token that binds its form to this visit."""
    visit = secrets.token_urlsafe(24)
    provider = room.rules.provider
    answer = room.page(
        template,
        status=status,
        problem=problem,
        name=name,
        token=_visit_token(room, visit),
        provider=None if provider is None else provider.label,
    )
    set_cookie(answer, room, _visit_cookie(room), visit)
    return answer


def set_cookie(answer: Response, room: Room, name: str, value: str) -> None:
    """Set a cookie that scripts cannot read and other sites cannot send with a form."""
    answer.set_cookie(name, value, path="/", secure=room.https, httponly=True, samesite="lax")


def drop_cookie(answer: Response, room: Room, name: str) -> None:
    """Make the browser forget a cookie."""
    answer.delete_cookie(name, path="/", secure=room.https, httponly=True, samesite="lax")


def own_visit_only(request: Request, room: Here, csrf_token: CsrfToken = "") -> None:
    """Raise Forged unless the form was sent from our own page of this very visit."""
    require_own_origin(request)
    visit = request.cookies.get(_visit_cookie(room), "")
    if not visit or not hmac.compare_digest(csrf_token.encode(), _visit_token(room, visit).encode()):
        raise Forged


OWN_VISIT = [Depends(sign_in_rate), Depends(own_visit_only)]


@public.get("/sign-in")
def show_sign_in(room: Here) -> Response:
    """The form."""
    return show_form(room, status=HTTPStatus.OK)


@public.post("/sign-in", dependencies=OWN_VISIT)
def sign_in(
    request: Request,
    room: Here,
    name: Annotated[str, Form(max_length=256)] = "",
    password: Annotated[str, Form(max_length=4096)] = "",
) -> Response:
    """Open a session, ask for the code of the second factor, or show the form again."""
    with room.database.read() as connection:
        stored = account_rows.find_for_sign_in(connection, name)
    right = account_rows.password_matches(stored, password)  # outside any transaction, for it takes long
    if _asks_for_code(room, stored, name) and room.keys.sealing:
        return _to_second_page(room, stored, right=right)
    if stored is None or stored.second_factor or not _opens(room, stored, password, right=right):
        return show_form(room, status=HTTPStatus.UNAUTHORIZED, problem=_REFUSED, name=name)
    return welcome(request, room, stored.account, way="password")


def _asks_for_code(room: Room, stored: StoredPassword | None, name: str) -> bool:
    if stored is not None:
        return stored.second_factor
    drawn = hmac.new(room.session_key, b"second page:" + name.strip().encode(), hashlib.sha256).digest()
    return bool(room.keys.sealing) and drawn[0] % 2 == 0


def _opens(room: Room, stored: StoredPassword, password: str, *, right: bool) -> bool:
    """Whether a right password without second factor opens the room; a wrong one is counted."""
    with room.database.transaction() as connection:
        present = _awaited(room, connection, stored.account.id)
        if present is None:
            return False
        if right and not present.second_factor and present.password_hash == stored.password_hash:
            account_rows.record_success(connection, account_id=stored.account.id)
            account_rows.upgrade_hash(connection, stored=stored, password=password)
            return True
        _note_failure(room, connection, present.account)
        return False


def _awaited(room: Room, connection: Transaction, account_id: str) -> StoredPassword | None:
    """The account as it is now, held, or None where it may not sign in at this moment.

    Judged here and not before the password was hashed, so that many guesses at once are still one after the other.
    """
    present = account_rows.hold_account(connection, account_id)
    return present if present is not None and present.may_sign_in and not _is_delayed(present, room.now()) else None


def _is_delayed(stored: StoredPassword, now: datetime) -> bool:
    return stored.locked_until is not None and stored.locked_until > now


def _note_failure(room: Room, connection: Transaction, account: Account) -> None:
    """Count a wrong attempt and write it down."""
    now = room.now()
    failures = account_rows.record_failure(connection, account_id=account.id, now=now)
    what = {"failures": failures}
    audit_rows.append(connection, at=now, actor=account.name, event="sign_in.refused", payload=what)


def _to_second_page(room: Room, stored: StoredPassword | None, *, right: bool) -> Response:
    content = {
        "account": uuid.uuid4().hex if stored is None else stored.account.id,
        "right": int(right),
        "password": _fingerprint("" if stored is None else stored.password_hash),
        "until": (room.now() + SECOND_PAGE_LASTS).isoformat(timespec="microseconds"),
    }
    answer = RedirectResponse("/sign-in/code", status_code=HTTPStatus.SEE_OTHER)
    sealed = proving.seal(room, json.dumps(content).encode(), purpose=_PURPOSE)
    set_cookie(answer, room, _first_page_cookie(room), sealed)
    return answer


def _fingerprint(password_hash: str) -> str:
    return hashlib.sha256(password_hash.encode()).hexdigest()[:16]


def first_page(request: Request, room: Here) -> FirstPage | None:
    """What the first page led to, or None where there was none lately."""
    sealed = request.cookies.get(_first_page_cookie(room), "")
    found = proving.unseal(room, sealed, purpose=_PURPOSE) if sealed and room.keys.sealing else None
    if found is None:
        return None
    content = json.loads(found)
    until = datetime.fromisoformat(content["until"])
    if until <= room.now():
        return None
    right = bool(content["right"])
    return FirstPage(account_id=content["account"], right=right, password=content["password"], until=until)


First = Annotated[FirstPage | None, Depends(first_page)]


@public.get("/sign-in/code")
def ask_for_code(room: Here, first: First) -> Response:
    """The second page, for those who come from the first."""
    if first is None:
        return RedirectResponse("/sign-in", status_code=HTTPStatus.SEE_OTHER)
    return show_form(room, status=HTTPStatus.OK, template="second_page.html")


@public.post("/sign-in/code", dependencies=OWN_VISIT)
def sign_in_with_code(
    request: Request, room: Here, first: First, code: Annotated[str, Form(max_length=64)] = ""
) -> Response:
    """Open a session where password and code were both right, or begin again."""
    account = None if first is None else _proven(room, first, code)
    if account is None:
        answer = show_form(room, status=HTTPStatus.UNAUTHORIZED, problem=_REFUSED)
        drop_cookie(answer, room, _first_page_cookie(room))
        return answer
    return welcome(request, room, account, way="password and code")


def _proven(room: Room, first: FirstPage, code: str) -> Account | None:
    with room.database.transaction() as connection:
        stored = _awaited(room, connection, first.account_id)
        if stored is None:
            return None
        right = first.right and first.password == _fingerprint(stored.password_hash)
        if right and proving.uses_code(room, connection, stored.account.id, code):
            account_rows.record_success(connection, account_id=stored.account.id)
            return stored.account
        _note_failure(room, connection, stored.account)
        return None


def welcome(request: Request, room: Room, account: Account, *, way: str) -> Response:
    """The front door with a fresh session; one that the browser still holds ends, so that no value survives a sign-in."""
    now = room.now()
    with room.database.transaction() as connection:
        session_rows.forget_ended_sessions(connection, now=now, idle=room.idle, absolute=room.absolute)
        old = request.cookies.get(room.cookie_name)
        if old:
            session_rows.close_session(connection, token_hash=session_rows.hash_token(old))
        people_rows.note_sign_in(connection, account_id=account.id, now=now)
        audit_rows.append(connection, at=now, actor=account.name, event="sign_in", payload={"way": way})
        value = session_rows.open_session(connection, account_id=account.id, now=now)
    answer = RedirectResponse("/", status_code=HTTPStatus.SEE_OTHER)
    set_cookie(answer, room, room.cookie_name, value)
    for name in (_visit_cookie(room), _first_page_cookie(room)):
        drop_cookie(answer, room, name)
    return answer


@private.post("/sign-out")
def sign_out(room: Here, session: Session) -> Response:
    """End the session on the server and forget the cookie."""
    with room.database.transaction() as connection:
        session_rows.close_session(connection, token_hash=session.token_hash)
        audit_rows.append(connection, at=room.now(), actor=session.account.name, event="sign_out", payload={})
    return signed_out(room)


def signed_out(room: Room) -> Response:
    """The sign-in page, with the session's cookie forgotten."""
    answer = RedirectResponse("/sign-in", status_code=HTTPStatus.SEE_OTHER)
    drop_cookie(answer, room, room.cookie_name)
    return answer
