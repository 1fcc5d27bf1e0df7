"""The case page: images, why the study came here, the read, and after it the model's answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse

from pipeline import claiming, review
from pipeline.answering import CANNOT_BE_READ, LONGEST_ANSWER, LONGEST_COMMENT
from pipeline.errors import NotAllowed, StaleClaim, UnfinishedRead
from pipeline.review import Agreement
from pipeline.store.exposure_rows import Exposure
from pipeline.store.session_rows import SignedIn
from pipeline.web.access import FOR_CASES, Reader, Session
from pipeline.web.answer import answer_to_show
from pipeline.web.read_form import (
    UNREADABLE_WORDS,
    Draft,
    NotSigned,
    SentDraft,
    draft_to_show,
    labelled,
    reading_of,
    write_read,
)
from pipeline.web.room import Here, Room

router = APIRouter(dependencies=FOR_CASES)
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
Secret = Annotated[str, Form(max_length=1024)]


def _page(
    room: Room, session: SignedIn, case_id: str, *, draft: Draft | None = None, problem: str = "", status: int = 200
) -> Response:
    view = review.view_case(room.database, session.account, case_id, now=room.now())
    questions = reading_of(room, view.case.protocol).questions
    shown = draft_to_show(view, draft)
    return room.page(
        "case.html",
        status=status,
        session=session,
        view=view,
        item=view.case.item,
        answer=answer_to_show(room, view),
        draft=shown,
        saved_at=view.draft.saved_at if view.draft and not draft else None,
        problem=problem,
        choices=(*view.protocol.class_names, CANNOT_BE_READ),
        questions=questions,
        labelled=lambda answers: labelled(questions, answers),
        unreadable=UNREADABLE_WORDS,
        signs=room.rules.signing == "password",
        longest_comment=LONGEST_COMMENT,
        longest_answer=LONGEST_ANSWER,
        room=room,
    )


@router.get("/cases/{case_id}")
def show_case(case_id: CaseId, room: Here, session: Session) -> Response:
    """One case as this reader may see it now."""
    return _page(room, session, case_id)


@router.post("/cases/{case_id}/claim")
def claim(
    case_id: CaseId,
    room: Here,
    session: Reader,
    draft: SentDraft,
) -> Response:
    """Hold the case; a draft that came along is shown again in the form."""
    try:
        claiming.claim_case(room.database, session.account, case_id, lease=room.lease, now=room.now())
    except StaleClaim as refused:
        return _page(room, session, case_id, draft=draft, problem=str(refused), status=409)
    if draft != Draft():
        return _page(room, session, case_id, draft=draft)
    return RedirectResponse(f"/cases/{case_id}", status_code=303)


@router.post("/cases/{case_id}/release")
def release(case_id: CaseId, room: Here, session: Reader, fence: Annotated[int, Form()]) -> Response:
    """Give the case back; one that is not held any more needs no giving back."""
    try:
        claiming.release_case(room.database, session.account, case_id, fence, now=room.now())
    except StaleClaim as refused:
        return _page(room, session, case_id, problem=str(refused), status=409)
    return RedirectResponse("/worklist", status_code=303)


_REFUSED = {StaleClaim: 409, UnfinishedRead: 422, NotSigned: 403}


@router.post("/cases/{case_id}/commit")
def commit(  # noqa: PLR0917 - the parts of one request
    case_id: CaseId,
    room: Here,
    session: Reader,
    draft: SentDraft,
    fence: Annotated[int, Form()],
    secret: Secret = "",
) -> Response:
    """Write the read, signed where the site wants that; when it is refused the page comes back with the draft in it."""
    try:
        write_read(room, session.account, case_id, fence, draft.read(), secret)
    except (StaleClaim, UnfinishedRead, NotSigned) as refused:
        review.keep_draft(room.database, session.account, case_id, draft.model_dump(mode="json"), now=room.now())
        return _page(room, session, case_id, draft=draft, problem=str(refused), status=_REFUSED[type(refused)])
    except NotAllowed:
        if review.view_case(room.database, session.account, case_id, now=room.now()).read is None:
            raise
    return RedirectResponse(f"/cases/{case_id}", status_code=303)


@router.post("/cases/{case_id}/reveal")
def reveal(case_id: CaseId, room: Here, session: Reader) -> Response:
    """Note that the reader asked to see the model's answer, and show it."""
    review.reveal(room.database, session.account, case_id, now=room.now())
    return RedirectResponse(f"/cases/{case_id}", status_code=303)


@router.post("/cases/{case_id}/compare")
def compare(
    case_id: CaseId,
    room: Here,
    session: Reader,
    agreement: Annotated[Agreement, Form()],
    amended_to: Annotated[str, Form(max_length=64)] = "",
) -> Response:
    """Note what the reader makes of the answer."""
    try:
        review.record_agreement(
            room.database, session.account, case_id, agreement, amended_to=amended_to or None, now=room.now()
        )
    except UnfinishedRead as refused:
        return _page(room, session, case_id, problem=str(refused), status=422)
    return RedirectResponse(f"/cases/{case_id}", status_code=303)


@router.post("/cases/{case_id}/request")
def request(case_id: CaseId, room: Here, session: Reader) -> Response:
    """Ask for a read of a case that was decided without one."""
    review.note_exposure(room.database, session.account, case_id, Exposure.ROUTE, now=room.now())
    claiming.request_read(room.database, session.account, case_id, now=room.now())
    return RedirectResponse(f"/cases/{case_id}", status_code=303)
