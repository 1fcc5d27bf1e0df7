"""The same room for programs: JSON, problem+json, the same session, the same rules and the same blindness.

Unsafe requests carry the session's token in `X-CSRF-Token`; `GET /api/session` tells it. No identity is sent here.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path
from pydantic import BaseModel, ConfigDict, Field

from pipeline import claiming, review
from pipeline.errors import NoSuchCase
from pipeline.review import Agreement, CaseView, Read
from pipeline.store.line_rows import Line, Show
from pipeline.store.worklist_rows import Claim
from pipeline.web.access import CLOSED, Reader, Session
from pipeline.web.answer import answer_view
from pipeline.web.room import Here, Room

router = APIRouter(prefix="/api", dependencies=CLOSED)
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
Fence = Annotated[int, Body(embed=True, ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WantedClaim(_Strict):
    """Which case to claim; None means the next one in reading order."""

    case_id: Annotated[str | None, Field(pattern=r"^[0-9a-f-]{1,36}$")] = None


class SentRead(_Strict):
    """A read with the fence of the claim that it was made under."""

    fence: int
    finding: Annotated[str, Field(max_length=64)]
    certainty: int
    comment: Annotated[str, Field(max_length=16_000)] = ""


class SentComparison(_Strict):
    """What the reader makes of the revealed answer."""

    agreement: Agreement
    amended_to: Annotated[str | None, Field(max_length=64)] = None


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def _line(line: Line) -> dict[str, Any]:
    return {
        "case_id": line.case_id,
        "protocol": line.protocol,
        "state": line.state,
        "specialty": line.specialty,
        "priority": line.priority,
        "reasons": list(line.reasons),
        "created_at": _moment(line.created_at),
        "due_at": _moment(line.due_at),
        "held_by": line.holder if line.state == "IN_PROGRESS" else None,
        "lease_until": _moment(line.lease_until),
        "route": line.route,
        "read_at": _moment(line.read_at),
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {"case_id": claim.case_id, "fence": claim.fence, "lease_until": _moment(claim.lease_until)}


@router.get("/session")
def show_session(session: Session) -> dict[str, Any]:
    """Who is signed in, and the token that unsafe requests carry."""
    who = session.account
    return {
        "name": who.name,
        "role": who.role.value,
        "specialties": list(who.specialties),
        "csrf_token": session.csrf_token,
    }


@router.get("/worklist")
def show_worklist(room: Here, session: Session, show: Show = Show.ALL) -> dict[str, Any]:
    """One filter of the worklist in reading order."""
    worklist = claiming.open_worklist(room.database, session.account, show, now=room.now())
    return {"show": show.value, "counts": worklist.counts, "items": [_line(line) for line in worklist.lines]}


@router.get("/cases/{case_id}")
def show_case(case_id: CaseId, room: Here, session: Session) -> dict[str, Any]:
    """One case; `read` and `answer` are null until this reader's read is committed and revealed."""
    return _case(room, review.view_case(room.database, session.account, case_id, now=room.now()))


def _case(room: Room, view: CaseView) -> dict[str, Any]:
    case = view.case
    digest = view.answer.release_digest if view.answer else None
    answer = answer_view(view, room.certificates(digest) if digest else ())
    read = None
    if view.read is not None:
        read = {
            "finding": view.read.finding,
            "certainty": view.read.certainty,
            "comment": view.read.comment,
            "opened_at": _moment(view.read.opened_at),
            "committed_at": _moment(view.read.committed_at),
            "revealed_at": _moment(view.read.revealed_at),
            "agreement": view.read.agreement,
        }
    return {
        "case_id": case.case_id,
        "question": view.protocol.question,
        "choices": [*view.protocol.class_names, review.CANNOT_BE_READ],
        "revision": case.revision,
        "completeness": case.seal,
        "problems": [{"reason": reason, "detail": detail} for reason, detail in case.problems],
        "item": None if case.item is None else _line(case.item),
        "held": view.held,
        "fence": case.fence if view.held else None,
        "newer_case_id": case.newer_case_id,
        "read": read,
        "answer": None if answer is None else asdict(answer),
    }


@router.post("/claim")
def claim(wanted: WantedClaim, room: Here, session: Reader) -> dict[str, Any]:
    """Hold a case, or the next one in reading order; 404 when nothing waits, 409 when somebody else holds it."""
    reader, now = session.account, room.now()
    if wanted.case_id is not None:
        return _claim(claiming.claim_case(room.database, reader, wanted.case_id, lease=room.lease, now=now))
    found = claiming.claim_next(room.database, reader, lease=room.lease, now=now)
    if found is None:
        raise NoSuchCase("nothing waits for you; look again later")
    return _claim(found)


@router.post("/cases/{case_id}/extend")
def extend(case_id: CaseId, room: Here, session: Reader, fence: Fence) -> dict[str, Any]:
    """Lengthen the hold."""
    until = claiming.extend_claim(room.database, session.account, case_id, fence, lease=room.lease, now=room.now())
    return {"lease_until": _moment(until)}


@router.post("/cases/{case_id}/release", status_code=204)
def release(case_id: CaseId, room: Here, session: Reader, fence: Fence) -> None:
    """Give the case back unread."""
    claiming.release_case(room.database, session.account, case_id, fence, now=room.now())


@router.post("/cases/{case_id}/commit", status_code=201)
def commit(case_id: CaseId, room: Here, session: Reader, sent: SentRead) -> dict[str, Any]:
    """Write the read."""
    read = Read(finding=sent.finding, certainty=sent.certainty, comment=sent.comment)
    return {"read": review.commit_read(room.database, session.account, case_id, sent.fence, read, now=room.now())}


@router.post("/cases/{case_id}/reveal")
def reveal(case_id: CaseId, room: Here, session: Reader) -> dict[str, Any]:
    """Note that the answer is asked for, and tell it."""
    review.reveal(room.database, session.account, case_id, now=room.now())
    return _case(room, review.view_case(room.database, session.account, case_id, now=room.now()))


@router.post("/cases/{case_id}/compare", status_code=204)
def compare(case_id: CaseId, room: Here, session: Reader, sent: SentComparison) -> None:
    """Note what the reader makes of the answer."""
    review.record_agreement(
        room.database, session.account, case_id, sent.agreement, amended_to=sent.amended_to, now=room.now()
    )
