"""The worklist page: what waits, for how long, why, and who holds it."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from pipeline import claiming
from pipeline.store.line_rows import Show
from pipeline.web.access import CLOSED, Reader, Session
from pipeline.web.room import Here

router = APIRouter(dependencies=CLOSED)


@router.get("/")
def start() -> Response:
    """The front door leads to the worklist."""
    return RedirectResponse("/worklist", status_code=303)


@router.get("/worklist")
def show_worklist(room: Here, session: Session, show: Show | None = None, empty: bool = False) -> Response:
    """One filter of the worklist; without one, what this reader may claim."""
    asked = show or (Show.SPECIALTY if session.account.may_read else Show.ALL)
    worklist = claiming.open_worklist(room.database, session.account, asked, now=room.now())
    return room.page("worklist.html", session=session, worklist=worklist, empty=empty, shown=claiming.LINES_SHOWN)


@router.post("/worklist/next")
def take_next(room: Here, session: Reader) -> Response:
    """Claim the first case in reading order and open it."""
    claim = claiming.claim_next(room.database, session.account, lease=room.lease, now=room.now())
    target = "/worklist?empty=true" if claim is None else f"/cases/{claim.case_id}"
    return RedirectResponse(target, status_code=303)
