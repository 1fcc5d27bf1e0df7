"""Holds for programs: claim a case or the next one, lengthen the hold, give the case back."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter

from pipeline import claiming
from pipeline.errors import NoSuchCase
from pipeline.web.access import FOR_CASES, Reader
from pipeline.web.api_models import Fence, Identifier, Sent, Told
from pipeline.web.room import Here
from pipeline.web.told_case import CaseId

router = APIRouter(prefix="/api", dependencies=FOR_CASES)


class WantedClaim(Sent):
    """Which case to claim; null means the next one in reading order."""

    case_id: Identifier | None = None


class SentFence(Sent):
    """The fence of the claim that the request is about."""

    fence: Fence


class ToldClaim(Told):
    """A hold; every later write names its fence."""

    case_id: str
    fence: int
    lease_until: datetime


class ToldLease(Told):
    """Until when the hold lasts now."""

    lease_until: datetime


@router.post("/claim", response_model=ToldClaim)
def claim_case(wanted: WantedClaim, room: Here, session: Reader) -> ToldClaim:
    """Claim a case, or the next one in reading order; 404 when nothing waits, 409 when somebody else holds it."""
    reader, now = session.account, room.now()
    if wanted.case_id is not None:
        found = claiming.claim_case(room.database, reader, wanted.case_id, lease=room.lease, now=now)
        return ToldClaim.model_validate(found)
    next_one = claiming.claim_next(room.database, reader, lease=room.lease, now=now)
    if next_one is None:
        raise NoSuchCase("nothing waits for you; look again later")
    return ToldClaim.model_validate(next_one)


@router.post("/cases/{case_id}/extend", response_model=ToldLease)
def extend_claim(case_id: CaseId, room: Here, session: Reader, sent: SentFence) -> ToldLease:
    """Lengthen the hold of a case."""
    until = claiming.extend_claim(room.database, session.account, case_id, sent.fence, lease=room.lease, now=room.now())
    return ToldLease(lease_until=until)


@router.post("/cases/{case_id}/release", status_code=204)
def release_case(case_id: CaseId, room: Here, session: Reader, sent: SentFence) -> None:
    """Give a case back unread."""
    claiming.release_case(room.database, session.account, case_id, sent.fence, now=room.now())
