"""The timeline of a case: what happened to it, as whoever asks may know it, and its whole record for a lead."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from pipeline import chronicle
from pipeline.chronicle import Timeline
from pipeline.store.account_rows import May
from pipeline.store.session_rows import SignedIn
from pipeline.web.access import CLOSED, FOR_CASES, SeesCases, SeesRecord
from pipeline.web.room import Here, Room

router = APIRouter(dependencies=FOR_CASES)
records = APIRouter(dependencies=CLOSED)
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]


def _page(room: Room, session: SignedIn, story: Timeline) -> Response:
    return room.page(
        "timeline.html",
        session=session,
        story=story,
        may_open=session.account.may(May.SEE_RECORD) and not story.is_whole and not session.by_token,
    )


@router.get("/cases/{case_id}/timeline")
def show_timeline(case_id: CaseId, room: Here, session: SeesCases) -> Response:
    """What happened to the case, blind until the caller's own read is revealed."""
    return _page(room, session, chronicle.timeline(room.database, session.account, case_id))


@records.post("/cases/{case_id}/record")
def open_record(case_id: CaseId, room: Here, session: SeesRecord) -> Response:
    """The whole record; whoever opens it is written down and may not read the case any more."""
    return _page(room, session, chronicle.record(room.database, session.account, case_id, now=room.now()))
