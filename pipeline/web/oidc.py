"""Signing in with the site's own accounts: out to the provider, back with its word, in with a session like any other."""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from pipeline import membership
from pipeline.errors import NotAllowed
from pipeline.reading_room import Provider
from pipeline.web import provider as speaking
from pipeline.web.provider import Flow, NotVouchedFor, ProviderAway
from pipeline.web.rate_limit import provider_rate
from pipeline.web.room import Here, Room
from pipeline.web.sign_in import drop_cookie, set_cookie, show_form, welcome

router = APIRouter(prefix="/sign-in/provider", dependencies=[Depends(provider_rate)])
LASTS = timedelta(minutes=10)
_LONGEST_MOMENT = 10  #: digits of seconds; longer ones are beyond every calendar
_AWAY = "The provider of the site's accounts cannot be reached. Wait a moment, or use an account of this room."
_LOST = "This sign-in did not begin in this browser, or too long ago. Begin again."
_NONE = "No provider of accounts was agreed for this room. Use an account of this room."


def _cookie(room: Room) -> str:
    return f"{room.cookie_name}-provider"


def _back_to(request: Request, room: Room) -> str:
    """Our own address for the way back; the host is one of those that the room answers to, and the provider knows it."""
    return f"{'https' if room.https else 'http'}://{request.headers['host']}{router.prefix}/back"


@router.get("")
def go(request: Request, room: Here) -> Response:
    """To the provider, with what proves on the way back that it began here."""
    provider = room.rules.provider
    if provider is None:
        return show_form(room, status=HTTPStatus.NOT_FOUND, problem=_NONE)
    visit = f"{int(room.now().timestamp())}.{secrets.token_urlsafe(32)}"
    flow = Flow.of(room.session_key, visit)
    try:
        url = speaking.address_to_ask(provider, flow, back_to=_back_to(request, room))
    except ProviderAway:
        return show_form(room, status=HTTPStatus.SERVICE_UNAVAILABLE, problem=_AWAY)
    answer = RedirectResponse(url, status_code=HTTPStatus.SEE_OTHER)
    set_cookie(answer, room, _cookie(room), visit)
    return answer


@router.get("/back")
def come_back(
    request: Request,
    room: Here,
    code: Annotated[str, Query(max_length=4096)] = "",
    state: Annotated[str, Query(max_length=256)] = "",
) -> Response:
    """Back from the provider: in where it vouches for somebody whom the site's rules let in."""
    provider, flow = room.rules.provider, _flow(request, room)
    if provider is None:
        return show_form(room, status=HTTPStatus.NOT_FOUND, problem=_NONE)
    if flow is None or not hmac.compare_digest(state.encode(), flow.state.encode()):
        return _out(room, HTTPStatus.BAD_REQUEST, _LOST)
    try:
        return _in(request, room, provider, flow, code)
    except ProviderAway:
        return _out(room, HTTPStatus.SERVICE_UNAVAILABLE, _AWAY)
    except (NotVouchedFor, NotAllowed) as refused:
        said = str(refused)
        return _out(room, HTTPStatus.FORBIDDEN, f"{said[:1].upper()}{said[1:]}.")


def _in(request: Request, room: Room, provider: Provider, flow: Flow, code: str) -> Response:
    if not code:
        raise NotVouchedFor("the provider did not let this person in")
    word = speaking.vouch(provider, flow, code, back_to=_back_to(request, room), now=room.now)
    account = membership.admit(
        room.database,
        subject=word.subject,
        names=word.names,
        role=word.role,
        specialties=word.specialties,
        now=room.now(),
    )
    answer = welcome(request, room, account, way="provider")
    drop_cookie(answer, room, _cookie(room))
    return answer


def _flow(request: Request, room: Room) -> Flow | None:
    visit = request.cookies.get(_cookie(room), "")
    began, _, rest = visit.partition(".")
    if not rest or not (began.isascii() and began.isdecimal()) or len(began) > _LONGEST_MOMENT:
        return None
    age = room.now() - datetime.fromtimestamp(int(began), tz=room.now().tzinfo)
    return Flow.of(room.session_key, visit) if age < LASTS else None


def _out(room: Room, status: HTTPStatus, said: str) -> Response:
    """The sign-in page with what went wrong; what bound this sign-in to the browser is forgotten."""
    answer = show_form(room, status=status, problem=said)
    drop_cookie(answer, room, _cookie(room))
    return answer
