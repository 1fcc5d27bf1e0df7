"""The reading room as one application: everything is closed but signing in, the static files and the health checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.neighbours import Neighbours
from pipeline.errors import SecondreadError
from pipeline.protocol import TriageProtocol
from pipeline.reading_room import ReadingRoom
from pipeline.store import line_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.web import (
    account_page,
    api,
    break_glass,
    case_page,
    images,
    lead,
    lead_api,
    maps,
    oidc,
    passing_on,
    people,
    people_api,
    problems,
    reading_api,
    second_factor,
    sign_in,
    stow,
    timeline,
    work_items,
    worklist,
    worklist_api,
)
from pipeline.web.door import Door
from pipeline.web.hardening import BodyLimit, SecurityHeaders
from pipeline.web.own_files import OurOwnFiles
from pipeline.web.rate_limit import PROOFS, Buckets, RateLimits
from pipeline.web.room import Here, Room, RoomKeys, make_templates
from pipeline.web.shelf import ImageShelf
from pipeline.web.sound_input import SOUND

LEASE = timedelta(minutes=15)
IDLE = timedelta(minutes=15)
ABSOLUTE = timedelta(hours=12)
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def _no_certificates(_: str) -> Sequence[str]:
    return ()


def _no_neighbours(_release: str, _score: float) -> Neighbours | None:
    return None


def create_app(
    *,
    database: Database,
    blobs: BlobStore,
    sandbox: Sandbox,
    protocols: Mapping[str, TriageProtocol],
    session_key: bytes,
    now: Callable[[], datetime],
    allowed_hosts: Sequence[str] = LOCAL_HOSTS,
    https: bool = False,
    lease: timedelta = LEASE,
    idle: timedelta = IDLE,
    absolute: timedelta = ABSOLUTE,
    certificates: Callable[[str], Sequence[str]] = _no_certificates,
    door: Door | None = None,
    rules: ReadingRoom | None = None,
    keys: RoomKeys | None = None,
    neighbours: Callable[[str, float], Neighbours | None] = _no_neighbours,
) -> FastAPI:
    """The application; `certificates` gives a release's certificate sentences by its digest, where they are at hand.

    With `https` the cookies are Secure and carry the __Host- prefix, and browsers are told to stay on https. Without a
    `door` no other system comes in. Raises ValueError when the session key has fewer than 32 bytes.
    """
    if len(session_key) < 32:
        raise ValueError("the session key has fewer than 32 bytes")
    app = FastAPI(title="secondread", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.room = Room(
        database=database,
        blobs=blobs,
        shelf=ImageShelf(sandbox),
        protocols=protocols,
        session_key=session_key,
        now=now,
        https=https,
        lease=lease,
        idle=idle,
        absolute=absolute,
        certificates=certificates,
        templates=make_templates(),
        proofs=Buckets(PROOFS, now),
        door=door,
        rules=rules or ReadingRoom(),
        keys=keys or RoomKeys(),
        neighbours=neighbours,
    )
    app.state.limits = RateLimits.by(now)
    for router in (sign_in.public, sign_in.private, case_page.router, images.router, maps.router):
        app.include_router(router, dependencies=SOUND)
    for router in (*worklist.routers, passing_on.router):
        app.include_router(router, dependencies=SOUND)
    for router in (oidc.router, account_page.router, second_factor.router, people.router, break_glass.router):
        app.include_router(router, dependencies=SOUND)
    for router in (lead.router, lead.stopping, timeline.router, timeline.records):
        app.include_router(router, dependencies=SOUND)
    json_routers = [people_api.router, break_glass.api_router, *lead_api.routers, *reading_api.routers]
    api.install(app, [worklist_api.router, *json_routers])  # the others are named there
    for router in (stow.router, work_items.router):
        app.include_router(router)
    app.add_api_route("/live", live, methods=["GET"])
    app.add_api_route("/ready", ready, methods=["GET"])
    app.mount("/static", OurOwnFiles(directory=str(files("pipeline.web").joinpath("static"))), name="static")
    problems.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)
    app.add_middleware(problems.Unexpected)  # inside the headers, so that they are on its answers too
    app.add_middleware(SecurityHeaders, https=https)
    return app


async def live() -> dict[str, Any]:  # no thread of the pool is needed, however busy the room is
    """The process answers."""
    return {"live": True}


def ready(room: Here) -> JSONResponse:
    """The database answers too; nothing about cases is told here."""
    try:
        with room.database.read() as connection:
            line_rows.count_unread(connection)
    except SecondreadError:
        return JSONResponse({"ready": False}, status_code=503, headers={"Retry-After": "5"})
    return JSONResponse({"ready": True})
