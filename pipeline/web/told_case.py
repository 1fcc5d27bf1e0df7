"""One case as programs are told it: what its page shows and no identity; the answer only after the own read's reveal."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

from fastapi import Header, Path, Request

from pipeline import review
from pipeline.answering import CANNOT_BE_READ, Unreadable
from pipeline.protocol import Question
from pipeline.review import CaseView
from pipeline.store.line_rows import Line
from pipeline.store.read_rows import StoredRead
from pipeline.store.session_rows import SignedIn
from pipeline.web.access import Session, sees_case
from pipeline.web.answer import AnswerView, answer_to_show
from pipeline.web.api_models import Told
from pipeline.web.etags import OlderView, is_matched, tag_of_case
from pipeline.web.read_form import reading_of
from pipeline.web.room import Here, Room

CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$", description="the id of a case")]
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class ToldItem(Told):
    """The newest worklist item of a case."""

    state: str
    specialty: str
    priority: int
    reasons: tuple[str, ...]
    created_at: datetime
    due_at: datetime
    held_by: str | None
    lease_until: datetime | None


class ToldProblem(Told):
    """One thing that was met on the way to the model."""

    reason: str
    detail: str


class ToldSeal(Told):
    """How complete the revision is, and how that is known."""

    completeness: str
    kind: str
    detail: str
    instances: int
    series: int
    quarantined: int


class ToldRead(Told):
    """The caller's own read."""

    finding: str
    certainty: int
    comment: str
    because: Unreadable | None
    answers: dict[str, str | tuple[str, ...]]
    opened_at: datetime
    committed_at: datetime
    revealed_at: datetime | None
    agreement: str | None
    amended_to: str | None


class ToldCase(Told):
    """One case; `read` is null until the caller's own is committed, `answer` until it is revealed too.

    `choices` are the findings and `questions` what the form asks beside them; with `signed` a commit needs `secret`.
    """

    case_id: str
    protocol: str
    question: str
    choices: tuple[str, ...]
    questions: tuple[Question, ...]
    signed: bool
    revision: int
    completeness: ToldSeal
    problems: tuple[ToldProblem, ...]
    item: ToldItem | None
    held: bool
    fence: int | None
    newer_case_id: str | None
    read: ToldRead | None
    answer: AnswerView | None


def told_case(room: Room, view: CaseView) -> ToldCase:
    """What the view tells."""
    case = view.case
    return ToldCase(
        case_id=case.case_id,
        protocol=case.protocol,
        question=view.protocol.question,
        choices=(*view.protocol.class_names, CANNOT_BE_READ),
        questions=reading_of(room, case.protocol).questions,
        signed=room.rules.signing == "password",
        revision=case.revision,
        completeness=ToldSeal.model_validate(dict(case.seal)),
        problems=tuple(ToldProblem(reason=reason, detail=detail) for reason, detail in case.problems),
        item=None if case.item is None else told_item(case.item),
        held=view.held,
        fence=case.fence if view.held else None,
        newer_case_id=case.newer_case_id,
        read=None if view.read is None else _told_read(view.read),
        answer=answer_to_show(room, view),
    )


def _told_read(read: StoredRead) -> ToldRead:
    form = read.answers or {}
    asked = {"because": form.get("because"), "answers": form.get("answers") or {}}
    return ToldRead.model_validate({**vars(read), **asked})


def told_item(line: Line) -> ToldItem:
    """A line that has a worklist item."""
    return ToldItem(
        state=str(line.state),
        specialty=str(line.specialty),
        priority=line.priority or 0,
        reasons=line.reasons,
        created_at=line.created_at,
        due_at=line.due_at or line.created_at,
        held_by=line.holder if line.state == "IN_PROGRESS" else None,
        lease_until=line.lease_until,
    )


def case_now(room: Room, session: SignedIn, case_id: str) -> ToldCase:
    """The case as this caller may see it now; raises NoSuchCase."""
    return told_case(room, review.view_case(room.database, session.account, case_id, now=room.now()))


def tag_now(told: ToldCase) -> str:
    """The ETag of the case as it is told."""
    return tag_of_case(json.loads(told.model_dump_json()))


def as_seen(
    request: Request,
    room: Here,
    session: Session,
    if_match: Annotated[
        str | None,
        Header(alias="If-Match", max_length=1024, description="the ETag of the case as you saw it; 412 if it changed"),
    ] = None,
) -> None:
    """Hold an unsafe request to the view of the case that it was made on. Raises OlderView, NotAllowed, NoSuchCase."""
    if if_match is None or request.method in _SAFE:
        return
    case_id = request.path_params.get("case_id")
    if case_id is None:
        raise OlderView(None)
    tag = tag_now(case_now(room, sees_case(request, room, session), str(case_id)))
    if not is_matched(if_match, tag):
        raise OlderView(tag)
