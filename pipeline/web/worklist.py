"""The worklist page: what waits, for how long, why, and who holds it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Response
from fastapi.responses import RedirectResponse

from pipeline import claiming
from pipeline.claiming import Worklist
from pipeline.domain.case import Reason
from pipeline.domain.reason_words import REASON_WORDS
from pipeline.store.account_rows import May
from pipeline.store.line_rows import LARGEST_COUNT, Show
from pipeline.store.page_rows import Filters, ItemStatus
from pipeline.store.reading_order import PRIORITIES
from pipeline.store.session_rows import SignedIn
from pipeline.store.worklist_rows import REQUESTED
from pipeline.web import cursors, live
from pipeline.web.access import CLOSED, FOR_CASES, Reader, Session
from pipeline.web.cursors import AskedCursor
from pipeline.web.live import Watching, may_watch
from pipeline.web.room import Here, Room

front = APIRouter(dependencies=CLOSED)
router = APIRouter(dependencies=FOR_CASES)
watched = APIRouter(
    dependencies=[Depends(may_watch)]
)  #: what an open page fetches by itself; no session lives on by it
routers = (front, router, watched, live.router)
_OPEN_TABS = (Show.SPECIALTY, Show.MINE, Show.ALL)
_Code = Annotated[str | None, Query(max_length=64)]


def asked_filters(
    specialty: _Code = None,
    priority: Annotated[str | None, Query(pattern=r"^[0-2]?$")] = None,
    protocol: _Code = None,
    reason: _Code = None,
    status: Annotated[str | None, Query(max_length=16)] = None,
) -> Filters:
    """The filters of a request; a choice that is left empty asks for all, and so does one that is not known."""
    return Filters(
        specialty=specialty or None,
        priority=int(priority) if priority else None,
        protocol=protocol or None,
        reason=reason or None,
        status=ItemStatus(status) if status in set(ItemStatus) else None,
    )


AskedFilters = Annotated[Filters, Depends(asked_filters)]


@front.get("/")
def start(session: Session) -> Response:
    """The front door leads to where the role works."""
    if session.account.may(May.SEE_CASES):
        return RedirectResponse("/worklist", status_code=303)
    return RedirectResponse("/people" if session.account.may(May.MANAGE_PEOPLE) else "/lead", status_code=303)


def _open(room: Room, session: SignedIn, show: Show | None, filters: Filters, after: Any) -> Worklist:
    asked = show or (Show.SPECIALTY if session.account.may_read else Show.ALL)
    return claiming.open_worklist(room.database, session.account, asked, filters=filters, after=after, now=room.now())


@router.get("/worklist")
def show_worklist(
    *,
    room: Here,
    session: Session,
    filters: AskedFilters,
    after: AskedCursor,
    show: Show | None = None,
    empty: bool = False,
) -> Response:
    """One filter of the worklist; without one, what this reader may claim."""
    worklist = _open(room, session, show, filters, after)
    return room.page("worklist.html", empty=empty, **_context(room, session, worklist, first=after is None))


@watched.get("/worklist/lines")
def show_lines(
    room: Here, session: Watching, filters: AskedFilters, after: AskedCursor, show: Show | None = None
) -> Response:
    """What changes on that page, for the page to renew itself."""
    worklist = _open(room, session, show, filters, after)
    return room.page("worklist_lines.html", **_context(room, session, worklist, first=after is None))


def _context(room: Room, session: SignedIn, worklist: Worklist, *, first: bool) -> dict[str, Any]:
    filters = {name: value for name, value in asdict(worklist.filters).items() if value is not None}
    asked = urlencode({"show": worklist.show.value, **filters})
    after = cursors.written(worklist.after)
    return {
        "session": session,
        "worklist": worklist,
        "room_open": "/worklist",
        "most": LARGEST_COUNT,
        "first_page": first,
        "this_page": f"/worklist?{asked}",
        "next_page": f"/worklist?{asked}&after={after}" if after else None,
        "filtered": bool(filters),
        "choices": _choices(room) if worklist.show in _OPEN_TABS else None,
    }


def _choices(room: Room) -> dict[str, list[tuple[str, str]]]:
    """What can be asked for, by filter: value and the filter of words that says it."""
    specialties = {rule.specialty for one in room.protocols.values() for rule in one.routes.values()}
    return {
        "specialty": [(code, "plain") for code in sorted(specialties)],
        "priority": [(str(level), "priority") for level in PRIORITIES],
        "protocol": [(name, "plain") for name in sorted(room.protocols)],
        "reason": [(code, "chip") for code in _reasons()],
        "status": [(status.value, "plain") for status in ItemStatus],
    }


def _reasons() -> list[str]:
    """The codes that may be asked for: none that tells of an earlier read, nor the one that no item carries."""
    untold = (Reason.CONFIDENT_ABSENCE, Reason.DISCORDANT)
    return [str(code) for code in (*REASON_WORDS, REQUESTED) if code not in untold]


@router.post("/worklist/next")
def take_next(room: Here, session: Reader) -> Response:
    """Claim the first case in reading order and open it."""
    claim = claiming.claim_next(room.database, session.account, lease=room.lease, now=room.now())
    target = "/worklist?empty=true" if claim is None else f"/cases/{claim.case_id}"
    return RedirectResponse(target, status_code=303)


@router.post("/worklist/search")
def search(room: Here, session: Session, text: Annotated[str, Form(max_length=64)] = "") -> Response:
    """Cases by accession number, patient ID or pseudonym; what is looked for never stands in an address."""
    wanted = text.strip()
    lines = claiming.search(room.database, session.account, wanted, now=room.now()) if wanted else ()
    return room.page("worklist_search.html", session=session, text=wanted, lines=lines, room_open="/worklist")
