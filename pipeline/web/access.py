"""Who may come in: dependencies that the routers carry, so that a new endpoint is closed until somebody opens it.

Authorisation never looks at the request's path (a poisoned Host header can change it); it is bound to the endpoint.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request

from pipeline.errors import NotAllowed
from pipeline.store import emergency_rows, session_rows, token_rows
from pipeline.store.account_rows import May
from pipeline.store.session_rows import SignedIn
from pipeline.web.door import Door
from pipeline.web.rate_limit import unsafe_rate
from pipeline.web.room import Here, Room, room_of

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class NotSignedIn(Exception):
    """There is no live session behind this request."""


class CaseClosed(NotAllowed):
    """This account may not see the case, and may open it in an emergency."""


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
    """The live session of this request, or on the interface for programs the service whose token it shows.

    A request that shows a token is judged by it alone, whatever cookie it carries. Raises NotSignedIn, NotKnown, TooMany.
    """
    token = _bearer(request)
    counts = token is not None or request.method not in _SAFE_METHODS
    try:
        found = _by_cookie(request, room) if token is None else _by_token(room, token)
    except (NotSignedIn, NotKnown):
        if counts:
            unsafe_rate(request, None)
        raise
    if counts:
        unsafe_rate(request, found.account.id)
    return found


def _bearer(request: Request) -> str | None:
    """The token of a request to an endpoint for programs, by the endpoint's template and never by the path asked for."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    is_for_programs = str(request.scope["route"].path).startswith("/api/")
    return token.strip() if is_for_programs and scheme.lower() == "bearer" else None


def _by_token(room: Room, token: str) -> SignedIn:
    now = room.now()
    with room.database.read() as connection:
        found = token_rows.find_bearer(connection, token=token, now=now)
    if found is None:
        raise NotKnown
    if found.needs_touch:
        with room.database.transaction() as connection:
            token_rows.note_use(connection, token_id=found.token_id, now=now)
    return SignedIn(account=found.account, csrf_token="", token_hash=found.token_hash, needs_touch=False, by_token=True)


def _by_cookie(request: Request, room: Room) -> SignedIn:
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
    """Raise Forged unless Origin, or Referer where Origin is absent, names this very host (by https where it has it)."""
    source = request.headers.get("origin") or request.headers.get("referer") or ""
    try:
        parts = urlsplit(source)
    except ValueError:
        raise Forged from None
    own, schemes = request.headers.get("host", ""), {"https"} if room_of(request).https else {"http", "https"}
    if parts.scheme not in schemes or not own or parts.netloc.lower() != own.lower():
        raise Forged


async def own_page_only(request: Request, session: Session) -> None:
    """Raise Forged unless an unsafe request carries our origin and this session's token (form field or header)."""
    if request.method in _SAFE_METHODS or session.by_token:
        return
    require_own_origin(request)
    token = request.headers.get("x-csrf-token")
    if token is None:
        field = (await request.form()).get("csrf_token")
        token = field if isinstance(field, str) else ""
    if not hmac.compare_digest(token.encode(), session.csrf_token.encode()):
        raise Forged


_REFUSALS: Final[Mapping[May, str]] = {
    May.SEE_CASES: "this account may not see cases; ask for the role of a viewer or a reader",
    May.READ: "this account may look and not read; ask for the role of a reader",
    May.ADJUDICATE: "this account may not decide between two reads; ask for the role of an adjudicator",
    May.READ_ALL: "this account may not claim every specialty; ask for the role of a lead",
    May.HAND_OVER: "this account may not hand cases over; ask for the role of a lead",
    May.SEE_FIGURES: "this account may not see the figures; ask for the role of a lead",
    May.SEE_RECORD: "this account may not see the whole record of a case; ask for the role of a lead",
    May.STOP: "this account may not stop or re-arm automation; ask a lead or an administrator",
    May.MANAGE_PEOPLE: "this account may not look after accounts; ask an administrator",
    May.BREAK_GLASS: "this account may not open a case in an emergency; ask a lead",
}


@cache
def may(what: May) -> Callable[..., SignedIn]:
    """The dependency that lets pass whose role allows this and raises NotAllowed for the others."""

    def permitted(session: Session) -> SignedIn:
        if not session.account.may(what):
            raise NotAllowed(_REFUSALS[what])
        return session

    return permitted


def sees_case(request: Request, room: Here, session: Session) -> SignedIn:
    """The session of an account that may see cases, or this very case for the time of an emergency; or NotAllowed."""
    case_id = request.path_params.get("case_id")
    if session.account.may(May.SEE_CASES):
        return session
    if case_id is not None and session.account.may(May.BREAK_GLASS):
        with room.database.read() as connection:
            if emergency_rows.is_open(connection, account_id=session.account.id, case_id=case_id, now=room.now()):
                return session
        raise CaseClosed(_REFUSALS[May.SEE_CASES])
    raise NotAllowed(_REFUSALS[May.SEE_CASES])


SeesCases = Annotated[SignedIn, Depends(sees_case)]
Reader = Annotated[SignedIn, Depends(may(May.READ))]
Adjudicates = Annotated[SignedIn, Depends(may(May.ADJUDICATE))]
HandsOver = Annotated[SignedIn, Depends(may(May.HAND_OVER))]
SeesFigures = Annotated[SignedIn, Depends(may(May.SEE_FIGURES))]
SeesRecord = Annotated[SignedIn, Depends(may(May.SEE_RECORD))]
Stops = Annotated[SignedIn, Depends(may(May.STOP))]
ManagesPeople = Annotated[SignedIn, Depends(may(May.MANAGE_PEOPLE))]
BreaksGlass = Annotated[SignedIn, Depends(may(May.BREAK_GLASS))]

CLOSED = [Depends(signed_in), Depends(own_page_only)]  #: what every router but the public one carries
FOR_CASES = [*CLOSED, Depends(sees_case)]  #: of routers whose every endpoint shows cases
FOR_FIGURES = [*CLOSED, Depends(may(May.SEE_FIGURES))]
FOR_RECORD = [*CLOSED, Depends(may(May.SEE_RECORD))]
FOR_PEOPLE = [*CLOSED, Depends(may(May.MANAGE_PEOPLE))]


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
