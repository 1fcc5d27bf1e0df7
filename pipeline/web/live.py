"""Open pages learn at once that something changed: one look at the database every two seconds for all of them together.

What is sent says that something changed and never what, nor how many: a count that does not fall after one's own read
would tell that the case is read again. Looking lengthens no session, and a page whose session ends is told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from pipeline.errors import NotAllowed, SecondreadError
from pipeline.store import live_rows, session_rows
from pipeline.store.account_rows import May
from pipeline.store.session_rows import SignedIn
from pipeline.web.access import NotSignedIn
from pipeline.web.problems import problem
from pipeline.web.room import Here, Room, room_of

LOOK_EVERY: Final = 2.0  #: seconds
BEAT_EVERY: Final = 15.0  #: seconds; a page that hears nothing for longer knows that it is not live
MOST_STREAMS: Final = 3  #: of one session: browsers keep few connections to one host
MEDIA_TYPE: Final = "text/event-stream"


def may_watch(request: Request, room: Here) -> SignedIn:
    """The live session of a page that renews itself, which this does not lengthen; raises NotSignedIn or NotAllowed."""
    token = request.cookies.get(room.cookie_name)
    if not token:
        raise NotSignedIn
    with room.database.read() as connection:
        found = session_rows.find_session(
            connection, token=token, now=room.now(), idle=room.idle, absolute=room.absolute
        )
    if found is None:
        raise NotSignedIn
    if not found.account.may(May.SEE_CASES):
        raise NotAllowed("this account may not see cases; ask for the role of a viewer or a reader")
    return found


Watching = Annotated[SignedIn, Depends(may_watch)]
router = APIRouter(dependencies=[Depends(may_watch)])


@dataclass(eq=False)
class Listener:
    """One open page."""

    token_hash: str
    rung: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False  #: its session


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What one look found."""

    newest: int  #: event of the audit trail
    changed: bool
    alive: frozenset[str]  #: sessions


class Bell:
    """Rings in every open page when something happened to a case; it looks only while somebody listens."""

    def __init__(self, look: Callable[[frozenset[str], int | None], Glance], *, every: float = LOOK_EVERY) -> None:
        self._look = look
        self._every = every
        self._listeners: set[Listener] = set()
        self._watch: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()

    def streams(self, token_hash: str) -> int:
        """How many pages of one session listen."""
        return sum(one.token_hash == token_hash for one in self._listeners)

    @contextmanager
    def listen(self, token_hash: str) -> Iterator[Listener]:
        """A listener for as long as the block lasts."""
        listener = Listener(token_hash)
        self._listeners.add(listener)
        if self._watch is None or self._watch.done():
            self._looked = asyncio.Event()
            self._watch = asyncio.get_running_loop().create_task(self._keep_looking())
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._watch is not None:
                self._watch.cancel()
                self._watch = None

    async def has_looked(self) -> None:
        """Wait until there is a look to compare later ones with: what happens from here on rings."""
        await self._looked.wait()

    async def _keep_looking(self) -> None:
        newest: int | None = None
        while True:
            asked = frozenset(one.token_hash for one in self._listeners)
            try:
                seen = await to_thread.run_sync(self._look, asked, newest)
            except SecondreadError:  # the database is away or answers oddly: pages hear their beat and nothing else
                seen = None
            if seen is not None:
                newest = seen.newest
                self._ring(seen, asked)
                self._looked.set()
            await asyncio.sleep(self._every)

    def _ring(self, seen: Glance, asked: frozenset[str]) -> None:
        for one in self._listeners:
            one.ended = one.ended or (one.token_hash in asked and one.token_hash not in seen.alive)
            if seen.changed or one.ended:
                one.rung.set()


def looks_at(room: Room) -> Callable[[frozenset[str], int | None], Glance]:
    """The look of this room's bell: what is newest, whether a case moved since, and which sessions go on."""

    def look(asked: frozenset[str], since: int | None) -> Glance:
        with room.database.read() as connection:
            newest = live_rows.newest_event(connection)
            moved = since is not None and newest > since and live_rows.touches_a_case(connection, after=since)
            alive = live_rows.live_sessions(connection, asked, now=room.now(), idle=room.idle, absolute=room.absolute)
        return Glance(newest=newest, changed=moved, alive=frozenset(alive))

    return look


def _bell(request: Request) -> Bell:
    state = request.app.state
    if not hasattr(state, "bell"):
        state.bell = Bell(looks_at(room_of(request)))
    bell: Bell = state.bell
    return bell


def _event(name: str) -> str:
    return f"event: {name}\ndata: {{}}\n\n"


async def stream(bell: Bell, token_hash: str, *, beat: float = BEAT_EVERY) -> AsyncIterator[str]:
    """The events of one page until its session ends; a page that is told to be live asks for its lines once more.

    One page too many of a session hears nothing and is let go: several may come before any of them listens.
    """
    with bell.listen(token_hash) as listener:
        if bell.streams(token_hash) > MOST_STREAMS:
            return
        await bell.has_looked()
        yield f"retry: 3000\n{_event('live')}"
        while True:
            try:
                await asyncio.wait_for(listener.rung.wait(), beat)
            except TimeoutError:
                yield _event("beat")
                continue
            listener.rung.clear()
            yield _event("ended" if listener.ended else "changed")
            if listener.ended:
                return


@router.get("/worklist/events", include_in_schema=False)
async def events(request: Request, session: Watching) -> Response:
    """Server-sent events: live, changed, beat, ended. Who does not ask for a stream gets its first event alone."""
    if MEDIA_TYPE not in request.headers.get("accept", ""):
        return Response(_event("live"), media_type=MEDIA_TYPE)
    bell = _bell(request)
    if bell.streams(session.token_hash) >= MOST_STREAMS:
        return problem(request, HTTPStatus.TOO_MANY_REQUESTS, "this session has enough live pages open; close one")
    answer = StreamingResponse(stream(bell, session.token_hash), media_type=MEDIA_TYPE)
    answer.headers["X-Accel-Buffering"] = "no"  # a proxy that gathers text would hold the news back
    return answer
