"""The second factor of one's own account: a secret that is shown until a first code proves that it arrived.

Why the secret on offer is kept nowhere: it follows from the session and a key of the house, so that it is the same on
every look at the page and another one in the next session.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated

import pyotp
import segno
from fastapi import APIRouter, Form, Request, Response

from pipeline import membership
from pipeline.errors import NotAllowed
from pipeline.store import account_rows, audit_rows, second_factor_rows, session_rows
from pipeline.store.session_rows import SignedIn
from pipeline.web import proving
from pipeline.web.access import CLOSED, Session
from pipeline.web.room import Here, Room
from pipeline.web.sign_in import welcome

router = APIRouter(prefix="/account/second-factor", dependencies=CLOSED)
ISSUER = "secondread"
_SECRET_BYTES = 20  #: as RFC 4226 asks
_LATELY = timedelta(minutes=10)
_WRONG = "Password or code is not right. Look at the newest code and try again."
_LONG_AGO = "sign in again and come back here within ten minutes: you may have left your desk meanwhile"
_OFF = "this house has no key to keep second factors with; ask whoever runs it"
Password = Annotated[str, Form(max_length=4096)]
Code = Annotated[str, Form(max_length=64)]


def offered_secret(room: Room, session: SignedIn) -> str:
    """The secret that this session may enrol, in base 32. Raises NotAllowed where the house keeps none."""
    if not room.keys.sealing:
        raise NotAllowed(_OFF)
    content = f"second factor on offer:{session.account.id}:{session.token_hash}".encode()
    drawn = hmac.new(room.keys.sealing, content, hashlib.sha256).digest()[:_SECRET_BYTES]
    return base64.b32encode(drawn).decode()


def _page(room: Room, session: SignedIn, *, status: int = HTTPStatus.OK, problem: str = "") -> Response:
    with room.database.read() as connection:
        stored = account_rows.find_by_id(connection, session.account.id)
    secret = offered_secret(room, session)
    return room.page(
        "second_factor.html",
        status=status,
        session=session,
        problem=problem,
        enrolled=stored is not None and stored.second_factor,
        has_password=stored is not None and stored.has_password,
        secret=" ".join(secret[at : at + 4] for at in range(0, len(secret), 4)),
    )


@router.get("")
def show(room: Here, session: Session) -> Response:
    """The secret on offer, or that there is a second factor already."""
    return _page(room, session)


@router.get(".svg")
def show_code(room: Here, session: Session) -> Response:
    """The secret on offer as a picture for an authenticator's camera."""
    uri = pyotp.TOTP(offered_secret(room, session)).provisioning_uri(name=session.account.name, issuer_name=ISSUER)
    picture = io.BytesIO()
    segno.make(uri, error="m", micro=False).save(picture, kind="svg", scale=5, border=3, dark="#000", light="#fff")
    return Response(picture.getvalue(), media_type="image/svg+xml")


@router.post("")
def enrol(request: Request, room: Here, session: Session, password: Password = "", code: Code = "") -> Response:
    """Take the offered secret as second factor where a first code and `password` prove it; sessions begin anew.

    Without a password here, a code of the second factor that this one replaces takes its place.
    """
    secret = offered_secret(room, session)
    step = proving.step_of(secret, code.strip().replace(" ", ""), room.now())
    if step is None or not _is_themselves(room, session, password):
        return _page(room, session, status=HTTPStatus.UNPROCESSABLE_ENTITY, problem=_WRONG)
    account, now = session.account, room.now()
    sealed = proving.seal(room, secret.encode(), purpose=proving.secret_purpose(account.id))
    with room.database.transaction() as connection:
        second_factor_rows.put_secret(connection, account_id=account.id, sealed=sealed, step=step)
        session_rows.close_account_sessions(connection, account_id=account.id)
        what = {"account": account.id}
        audit_rows.append(connection, at=now, actor=account.name, event="second_factor_added", payload=what)
    return welcome(request, room, account, way="second factor added")


@router.post("/remove")
def remove(request: Request, room: Here, session: Session, secret: Password = "") -> Response:
    """Do without the second factor, after the password or a code; sessions begin anew."""
    if not proving.proves(room, session.account, secret):
        return _page(room, session, status=HTTPStatus.UNPROCESSABLE_ENTITY, problem=_WRONG)
    account = session.account
    membership.remove_second_factor(room.database, actor=account.name, account_id=account.id, now=room.now())
    return welcome(request, room, account, way="second factor removed")


def _is_themselves(room: Room, session: SignedIn, secret: str) -> bool:
    """Whether the password is right, or a code of the present second factor where there is no password.

    Whom the site's provider vouches for has neither at first: raises NotAllowed unless they signed in lately.
    """
    with room.database.read() as connection:
        stored = account_rows.find_by_id(connection, session.account.id)
    if stored is None or stored.has_password:
        return proving.has_password(room, session.account, secret)
    if stored.second_factor:
        return proving.proves(room, session.account, secret)
    if session.proven_at is None or session.proven_at <= room.now() - _LATELY:
        raise NotAllowed(_LONG_AGO)
    return True
