"""Reading for programs: the draft of a held case, what the other readers said, and how readers agree."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from pipeline import review
from pipeline.errors import NoSuchCase
from pipeline.store import agreement_rows
from pipeline.web.access import FOR_CASES, FOR_FIGURES, Reader, SeesFigures
from pipeline.web.api_models import Fence, Moment, Sent, Told
from pipeline.web.read_form import Draft
from pipeline.web.room import Here
from pipeline.web.told_case import CaseId

router = APIRouter(prefix="/api", dependencies=FOR_CASES)
figures = APIRouter(prefix="/api", dependencies=FOR_FIGURES)
routers = (router, figures)


class HeldDraft(Sent):
    """A draft with the fence of the claim that it is made under.

    `saved_at`, where it is sent, is that of the draft which this one follows: a newer one is not overwritten.
    """

    fence: Fence
    draft: Draft
    saved_at: Moment | None = None


class ToldDraft(Told):
    """When the draft was saved, and what it holds."""

    saved_at: datetime
    draft: dict[str, Any]


class ToldOther(Told):
    """A colleague's read; the name is told to leads alone."""

    label: str
    name: str | None
    decided: bool
    finding: str
    certainty: int
    comment: str
    answers: dict[str, Any]
    because: str | None
    committed_at: datetime


class ToldReads(Told):
    """What the others read, and the finding that stands once nobody is asked any more."""

    reads: tuple[ToldOther, ...]
    outcome: str | None


class ToldAgreement(Told):
    """Two readers, or readers and the model, over the same cases; kappa and interval null where undefined."""

    protocol: str
    label: str
    n: int
    agreement: float | None
    kappa: float | None
    low: float | None
    high: float | None
    said: str


class ToldOverrides(Told):
    """How often reads name another class than the model's likeliest, with the 95 % interval of that rate."""

    protocol: str
    label: str
    n: int
    overridden: int
    amended: int
    rate: float | None
    low: float | None
    high: float | None


class ToldTables(Told):
    """Agreement over cases that nobody is asked to read any more."""

    protocols: tuple[ToldAgreement, ...]
    readers: tuple[ToldAgreement, ...]
    pairs: tuple[ToldAgreement, ...]
    with_model: tuple[ToldAgreement, ...]
    overrides: tuple[ToldOverrides, ...]


@router.get("/cases/{case_id}/draft", response_model=ToldDraft)
def show_draft(case_id: CaseId, room: Here, session: Reader) -> ToldDraft:
    """Show the caller's own draft of a case; 404 where there is none."""
    view = review.view_case(room.database, session.account, case_id, now=room.now())
    if view.draft is None:
        raise NoSuchCase("you have no draft of this case")
    return ToldDraft(saved_at=view.draft.saved_at, draft=dict(view.draft.content))


@router.put("/cases/{case_id}/draft", response_model=ToldDraft)
def save_draft(case_id: CaseId, room: Here, session: Reader, sent: HeldDraft) -> ToldDraft:
    """Keep the caller's draft of a held case; nobody else is ever shown it, and the commit removes it."""
    content = sent.draft.model_dump(mode="json")
    saved = review.save_draft(
        room.database, session.account, case_id, sent.fence, content, seen=sent.saved_at, now=room.now()
    )
    return ToldDraft(saved_at=saved, draft=content)


@router.get("/cases/{case_id}/reads", response_model=ToldReads)
def show_reads(case_id: CaseId, room: Here, session: Reader) -> ToldReads:
    """Show what the others read: to who adjudicates it now, and after the own reveal once all is said; else nothing."""
    view = review.view_case(room.database, session.account, case_id, now=room.now())
    return ToldReads(reads=tuple(ToldOther.model_validate(other) for other in view.others), outcome=view.outcome)


@figures.get("/agreement", response_model=ToldTables)
def show_agreement(room: Here, session: SeesFigures, since: Annotated[Moment | None, Query()] = None) -> ToldTables:
    """Show how first and second reads agree per protocol, reader and pair, and how reads and the model do."""
    with room.database.read() as connection:
        return ToldTables.model_validate(agreement_rows.tables(connection, since=since, asking=session.account.id))
