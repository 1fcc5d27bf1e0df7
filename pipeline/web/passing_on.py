"""Passing a case on: handing it to a colleague, putting it aside for a while, and taking it back among those that wait."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse

from pipeline import claiming, review
from pipeline.errors import NotAllowed, StaleClaim
from pipeline.store.account_rows import May
from pipeline.store.handover_rows import PauseReason
from pipeline.store.session_rows import SignedIn
from pipeline.web.access import FOR_CASES, Reader
from pipeline.web.read_form import Draft, SentDraft
from pipeline.web.room import Here, Room

router = APIRouter(dependencies=FOR_CASES)
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
Fence = Annotated[int | None, Form(ge=0, le=2**31 - 1)]


def _page(
    room: Room,
    session: SignedIn,
    case_id: str,
    *,
    draft: Draft,
    fence: int | None,
    problem: str = "",
    status: int = 200,
) -> Response:
    view = review.view_case(room.database, session.account, case_id, now=room.now())
    item = view.case.item
    colleagues = claiming.colleagues(room.database, session.account, str(item.specialty)) if item else []
    return room.page(
        "pass_on.html",
        status=status,
        session=session,
        case=view.case,
        item=item,
        held=view.held,
        fence=view.case.fence if fence is None and view.held else fence,
        draft=draft,
        colleagues=colleagues,
        may_hand_over=view.held or session.account.may(May.HAND_OVER),
        reasons=tuple(PauseReason),
        problem=problem,
        room_open="/worklist",
    )


@router.get("/cases/{case_id}/pass-on")
def show_ways(case_id: CaseId, room: Here, session: Reader) -> Response:
    """The ways to pass a case on."""
    return _page(room, session, case_id, draft=Draft(), fence=None)


@router.post("/cases/{case_id}/pass-on")
def show_ways_with_draft(
    case_id: CaseId, room: Here, session: Reader, draft: SentDraft, fence: Fence = None
) -> Response:
    """The same page, reached from the read form, which keeps what was filled in."""
    try:
        _keep(room, session, case_id, fence, draft)
    except StaleClaim as refused:
        return _page(room, session, case_id, draft=draft, fence=fence, problem=str(refused), status=409)
    return _page(room, session, case_id, draft=draft, fence=fence)


def _keep(room: Room, session: SignedIn, case_id: str, fence: int | None, draft: Draft) -> None:
    """Store what was filled in under the hold; raises StaleClaim."""
    if fence is not None and draft != Draft():
        content = draft.model_dump(mode="json")
        review.save_draft(room.database, session.account, case_id, fence, content, now=room.now())


@router.post("/cases/{case_id}/hand-over")
def hand_over(
    *,
    case_id: CaseId,
    room: Here,
    session: Reader,
    draft: SentDraft,
    to: Annotated[str, Form(max_length=64)] = "",
    fence: Fence = None,
) -> Response:
    """Give the case to a colleague; a hold that has ended, or a colleague who may not, leaves everything as it is."""
    try:
        _keep(room, session, case_id, fence, draft)
        claiming.hand_over(room.database, session.account, case_id, to, fence=fence, now=room.now())
    except (StaleClaim, NotAllowed) as refused:
        return _refused(room, session, case_id, draft=draft, fence=fence, refused=refused)
    return RedirectResponse("/worklist", status_code=303)


def _refused(
    room: Room, session: SignedIn, case_id: str, *, draft: Draft, fence: int | None, refused: Exception
) -> Response:
    status = 409 if isinstance(refused, StaleClaim) else 403
    return _page(room, session, case_id, draft=draft, fence=fence, problem=str(refused), status=status)


@router.post("/cases/{case_id}/pause")
def pause(
    *,
    case_id: CaseId,
    room: Here,
    session: Reader,
    draft: SentDraft,
    reason: Annotated[PauseReason, Form()],
    fence: Annotated[int, Form(ge=0, le=2**31 - 1)],
) -> Response:
    """Put the case aside until it is due, or for a day."""
    try:
        _keep(room, session, case_id, fence, draft)
        claiming.pause_case(room.database, session.account, case_id, fence, reason, now=room.now())
    except (StaleClaim, NotAllowed) as refused:
        return _refused(room, session, case_id, draft=draft, fence=fence, refused=refused)
    return RedirectResponse("/worklist", status_code=303)


@router.post("/cases/{case_id}/resume")
def resume(case_id: CaseId, room: Here, session: Reader) -> Response:
    """Put a paused case back among those that wait."""
    claiming.resume_case(room.database, session.account, case_id, now=room.now())
    return RedirectResponse(f"/cases/{case_id}", status_code=303)
