"""The case page: images, why the study came here, the read, and after it the model's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Path, Response
from fastapi.responses import RedirectResponse

from pipeline import claiming, review
from pipeline.errors import StaleClaim, UnfinishedRead
from pipeline.review import Agreement, Read
from pipeline.store.session_rows import SignedIn
from pipeline.web.access import CLOSED, Reader, Session
from pipeline.web.answer import answer_view
from pipeline.web.room import Here, Room

router = APIRouter(dependencies=CLOSED)
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A read that is not committed yet, as it came from the form; nothing in it is lost when a commit is refused."""

    finding: str = ""
    certainty: str = ""
    comment: str = ""

    def read(self) -> Read:
        """The read it stands for; a certainty that is no number becomes 0, which is refused with words."""
        number = int(self.certainty) if self.certainty.isdecimal() and len(self.certainty) == 1 else 0
        return Read(finding=self.finding, certainty=number, comment=self.comment)


def draft_of(
    finding: Annotated[str, Form(max_length=64)] = "",
    certainty: Annotated[str, Form(max_length=8)] = "",
    comment: Annotated[str, Form(max_length=16_000)] = "",
) -> Draft:
    """The draft in a form."""
    return Draft(finding=finding, certainty=certainty, comment=comment)


SentDraft = Annotated[Draft, Depends(draft_of)]


def _page(
    room: Room, session: SignedIn, case_id: str, *, draft: Draft | None = None, problem: str = "", status: int = 200
) -> Response:
    view = review.view_case(room.database, session.account, case_id, now=room.now())
    answer = None
    if view.answer is not None:
        digest = view.answer.release_digest
        answer = answer_view(view, room.certificates(digest) if digest else ())
    return room.page(
        "case.html",
        status=status,
        session=session,
        view=view,
        item=view.case.item,
        answer=answer,
        draft=draft or Draft(),
        problem=problem,
        choices=(*view.protocol.class_names, review.CANNOT_BE_READ),
        longest_comment=review.LONGEST_COMMENT,
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


@router.post("/cases/{case_id}/commit")
def commit(
    case_id: CaseId,
    room: Here,
    session: Reader,
    draft: SentDraft,
    fence: Annotated[int, Form()],
) -> Response:
    """Write the read; when that is refused the page comes back with the draft in it."""
    try:
        review.commit_read(room.database, session.account, case_id, fence, draft.read(), now=room.now())
    except StaleClaim as refused:
        return _page(room, session, case_id, draft=draft, problem=str(refused), status=409)
    except UnfinishedRead as refused:
        return _page(room, session, case_id, draft=draft, problem=str(refused), status=422)
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
    claiming.request_read(room.database, session.account, case_id, now=room.now())
    return RedirectResponse(f"/cases/{case_id}", status_code=303)
