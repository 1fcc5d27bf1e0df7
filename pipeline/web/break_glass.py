"""Opening one case in an emergency: a reason, an hour, and everybody in charge is told."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import Field

from pipeline import emergencies
from pipeline.errors import UnfinishedRead
from pipeline.web.access import CLOSED, BreaksGlass
from pipeline.web.api_models import Sent, Told
from pipeline.web.room import Here

router = APIRouter(dependencies=CLOSED)
api_router = APIRouter(prefix="/api", dependencies=CLOSED)
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]


class SentEmergency(Sent):
    """Why a case cannot wait for somebody with the ordinary right."""

    reason: Annotated[
        str,
        Field(
            min_length=emergencies.SHORTEST_REASON,
            max_length=emergencies.LONGEST_REASON,
            examples=["Ruptured aneurysm, nobody of the specialty is in the house"],
        ),
    ]


class ToldEmergency(Told):
    """Until when the case stands open to whoever asked."""

    case_id: str
    until: datetime


@router.get("/cases/{case_id}/emergency")
def show_emergency(case_id: CaseId, room: Here, session: BreaksGlass) -> Response:
    """The form, with what will happen."""
    return room.page("emergency.html", session=session, case_id=case_id, problem="", reason="")


@router.post("/cases/{case_id}/emergency")
def open_case(
    case_id: CaseId,
    room: Here,
    session: BreaksGlass,
    reason: Annotated[str, Form(max_length=4096)] = "",
) -> Response:
    """Open the case and go to it, or show the form again."""
    try:
        emergencies.open_in_emergency(room.database, session.account, case_id, reason, now=room.now())
    except UnfinishedRead as refused:
        said = str(refused)
        problem = f"{said[:1].upper()}{said[1:]}."
        return room.page(
            "emergency.html",
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            session=session,
            case_id=case_id,
            problem=problem,
            reason=reason,
        )
    return RedirectResponse(f"/cases/{case_id}", status_code=HTTPStatus.SEE_OTHER)


@api_router.post("/cases/{case_id}/emergency", status_code=HTTPStatus.CREATED, response_model=ToldEmergency)
def open_case_for_program(case_id: CaseId, room: Here, session: BreaksGlass, sent: SentEmergency) -> ToldEmergency:
    """Open one case for an hour; 403 where the ordinary right is there."""
    until = emergencies.open_in_emergency(room.database, session.account, case_id, sent.reason, now=room.now())
    return ToldEmergency(case_id=case_id, until=until)
