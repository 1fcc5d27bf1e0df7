"""The reading room's furniture: what every page needs, made once by `create_app` and handed to each request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.domain.neighbours import Neighbours
from pipeline.errors import SecondreadError
from pipeline.protocol import TriageProtocol
from pipeline.reading_room import ReadingRoom
from pipeline.store import safe_state_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.safe_state_rows import Switch
from pipeline.web import words
from pipeline.web.door import Door
from pipeline.web.rate_limit import Buckets
from pipeline.web.shelf import ImageShelf


@dataclass(frozen=True, kw_only=True)
class RoomKeys:
    """Keys of the room beside the session's; an empty key switches off what needs it."""

    audit: bytes = field(default=b"", repr=False)  #: draws audit and second reads
    pseudonym: bytes = field(default=b"", repr=False)
    sealing: bytes = field(default=b"", repr=False)  #: 32 bytes; seals second factors in the database


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where things are, how long things last, and what time it is."""

    database: Database
    blobs: BlobStore
    shelf: ImageShelf
    protocols: Mapping[str, TriageProtocol]
    session_key: bytes
    now: Callable[[], datetime]
    https: bool
    lease: timedelta
    idle: timedelta
    absolute: timedelta
    certificates: Callable[[str], Sequence[str]]
    templates: Environment
    proofs: Buckets  #: wrong passwords and codes of those who are signed in, by account
    door: Door | None = None
    rules: ReadingRoom = field(default_factory=ReadingRoom)
    keys: RoomKeys = RoomKeys()
    neighbours: Callable[[str, float], Neighbours | None] = lambda _release, _score: None

    @property
    def cookie_name(self) -> str:
        """Name of the session cookie; over https the prefix binds it to this host and to every path."""
        return "__Host-secondread" if self.https else "secondread"

    def stopped(self) -> Switch | None:
        """The stop that is on, told on every page; None too while the database is away."""
        try:
            with self.database.read() as connection:
                return safe_state_rows.current_stop(connection)
        except SecondreadError:
            return None

    def page(self, template: str, *, status: int = 200, **context: object) -> HTMLResponse:
        """One page; every value in it is escaped."""
        text = self.templates.get_template(template).render(now=self.now(), stopped=self.stopped, **context)
        return HTMLResponse(text, status_code=status)


def make_templates() -> Environment:
    """The page templates with autoescape on and undefined names refused."""
    environment = Environment(
        loader=PackageLoader("pipeline.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    return environment


def room_of(request: Request) -> Room:
    """The room this request came into."""
    room: Room = request.app.state.room
    return room


Here = Annotated[Room, Depends(room_of)]
