"""The interface for programs as a whole: which routers belong to it, and the care that each of their endpoints takes.

The same room, the same session or a service's token, the same rules and the same blindness as the pages. Unsafe requests
of a session carry its token in `X-CSRF-Token`; `GET /api/session` tells it. Errors are problem+json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, Depends, FastAPI

from pipeline.store.account_rows import May
from pipeline.web import cases_api, claims_api, etags, idempotency, images_api, openapi
from pipeline.web.access import CLOSED, Session
from pipeline.web.api_models import Told
from pipeline.web.etags import tagged
from pipeline.web.idempotency import once
from pipeline.web.sound_input import SOUND
from pipeline.web.told_case import as_seen

router = APIRouter(prefix="/api", dependencies=CLOSED)
CARE: Final = [*SOUND, Depends(once), Depends(as_seen), Depends(tagged)]  #: a replay comes before its If-Match


class ToldSession(Told):
    """Who is signed in, what the role allows, and the token that unsafe requests carry in X-CSRF-Token."""

    name: str
    role: str
    specialties: tuple[str, ...]
    may: tuple[May, ...]
    csrf_token: str


@router.get("/session", response_model=ToldSession)
def show_session(session: Session) -> ToldSession:
    """Tell who is signed in, what they may do, and the token that unsafe requests carry."""
    who = session.account
    return ToldSession(
        name=who.name,
        role=who.role,
        specialties=who.specialties,
        may=tuple(what for what in May if who.may(what)),
        csrf_token=session.csrf_token,
    )


def install(app: FastAPI, routers: Sequence[APIRouter] = ()) -> None:
    """Add the interface to the application, with the routers that stand in files of their own."""
    for each in (router, openapi.router, cases_api.router, claims_api.router, images_api.router, *routers):
        app.include_router(each, dependencies=CARE)
    idempotency.install(app)
    etags.install(app)
