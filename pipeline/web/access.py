"""Who may come in: dependencies that the routers carry, so that a new endpoint is closed until somebody opens it.

Authorisation never looks at the request's path (a poisoned Host header can change it); it is bound to the endpoint.
"""

from __future__ import annotations

import hmac
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from pipeline.errors import NotAllowed
from pipeline.store import session_rows
from pipeline.store.session_rows import SignedIn
from pipeline.web.door import Door
from pipeline.web.room import Here

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class NotSignedIn(Exception):
    """There is no live session behind this request."""


class Forged(Exception):
    """An unsafe request does not prove that it comes from one of our own pages."""


class NoDoor(Exception):
    """No token was agreed with any other system: none may come in."""


class NotKnown(Exception):
    """The request does not carry the token that was agreed with other systems."""


class Refused(Exception):
    """Another system's request cannot be met; the text is for whoever looks after that system."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def signed_in(request: Request, room: Here) -> SignedIn:
    """The live session of this request; raises NotSignedIn."""
    token = request.cookies.get(room.cookie_name)
    if not token:
        raise NotSignedIn
    now = room.now()
    with room.database.read() as connection:
        session = session_rows.find_session(connection, token=token, now=now, idle=room.idle, absolute=room.absolute)
    if session is None:
        raise NotSignedIn
    if session.needs_touch:
        with room.database.transaction() as connection:
            session_rows.touch_session(connection, token_hash=session.token_hash, now=now)
    return session


Session = Annotated[SignedIn, Depends(signed_in)]


def require_own_origin(request: Request) -> None:
    """Raise Forged unless Origin, or Referer where Origin is absent, names this very host."""
    source = request.headers.get("origin") or request.headers.get("referer") or ""
    parts = urlsplit(source)
    own = request.headers.get("host", "")
    if parts.scheme not in {"http", "https"} or not own or parts.netloc.lower() != own.lower():
        raise Forged


async def own_page_only(request: Request, session: Session) -> None:
    """Raise Forged unless an unsafe request carries our origin and this session's token (form field or header)."""
    if request.method in _SAFE_METHODS:
        return
    require_own_origin(request)
    token = request.headers.get("x-csrf-token")
    if token is None:
        field = (await request.form()).get("csrf_token")
        token = field if isinstance(field, str) else ""
    if not hmac.compare_digest(token.encode(), session.csrf_token.encode()):
        raise Forged


def reader(session: Session) -> SignedIn:
    """The session of an account that may claim and read; raises NotAllowed for one that may only look."""
    if not session.account.may_read:
        raise NotAllowed("this account may look and not read; ask for the role of a reader")
    return session


Reader = Annotated[SignedIn, Depends(reader)]
CLOSED = [Depends(signed_in), Depends(own_page_only)]  #: what every router but the public one carries


def from_outside(request: Request, room: Here) -> Door:
    """The door for another system that shows its token; no cookie opens it. Raises NoDoor or NotKnown."""
    if room.door is None:
        raise NoDoor
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), room.door.token.encode()):
        raise NotKnown
    return room.door


Outside = Annotated[Door, Depends(from_outside)]
FROM_OUTSIDE = [Depends(from_outside)]  #: what every router for other systems carries
