"""Cases for programs: look, commit the read, ask for the model's answer, compare. No identity is sent here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field, SecretStr

from pipeline import review
from pipeline.errors import StaleClaim, UnfinishedRead
from pipeline.review import Agreement, Unreadable
from pipeline.store.account_rows import LONGEST_PASSWORD
from pipeline.web.access import FOR_CASES, Reader, SeesCases
from pipeline.web.api_models import Fence, Sent, Told
from pipeline.web.read_form import Draft, NotSigned, QuestionName, Said, write_read
from pipeline.web.room import Here
from pipeline.web.told_case import CaseId, ToldCase, case_now, tag_now

router = APIRouter(prefix="/api", dependencies=FOR_CASES)


class SentRead(Sent):
    """A read with the fence of the claim that it was made under; `secret` signs it where the case says `signed`."""

    fence: Fence
    finding: Annotated[str, Field(max_length=64)]
    certainty: Annotated[int, Field(ge=1, le=5)]
    comment: Annotated[str, Field(max_length=review.LONGEST_COMMENT)] = ""
    because: Unreadable | None = None
    answers: Annotated[dict[QuestionName, Said], Field(default_factory=dict, max_length=12)]
    secret: Annotated[SecretStr, Field(max_length=LONGEST_PASSWORD)] = SecretStr("")

    def draft(self) -> Draft:
        """The same as the form keeps it."""
        because = "" if self.because is None else self.because.value
        fields = {"finding": self.finding, "certainty": str(self.certainty), "comment": self.comment}
        return Draft(**fields, because=because, answers=self.answers)


class SentComparison(Sent):
    """What the reader makes of the revealed answer."""

    agreement: Agreement
    amended_to: Annotated[str | None, Field(max_length=64)] = None


class ToldCommit(Told):
    """The id of the read that was written."""

    read: str


@router.get("/cases/{case_id}", response_model=ToldCase)
def show_case(case_id: CaseId, room: Here, session: SeesCases, response: Response) -> ToldCase:
    """Show one case; `read` and `answer` are null until the caller's own read is committed and revealed."""
    told = case_now(room, session, case_id)
    response.headers["ETag"] = tag_now(told)
    return told


@router.post("/cases/{case_id}/commit", status_code=201, response_model=ToldCommit)
def commit_read(case_id: CaseId, room: Here, session: Reader, sent: SentRead) -> ToldCommit:
    """Commit the read of a held case, which is never changed afterwards; a refused one is kept in its draft."""
    draft, secret = sent.draft(), sent.secret.get_secret_value()
    try:
        return ToldCommit(read=write_read(room, session.account, case_id, sent.fence, draft.read(), secret))
    except (StaleClaim, UnfinishedRead, NotSigned):
        review.keep_draft(room.database, session.account, case_id, draft.model_dump(mode="json"), now=room.now())
        raise


@router.post("/cases/{case_id}/reveal", response_model=ToldCase)
def reveal_answer(case_id: CaseId, room: Here, session: Reader, response: Response) -> ToldCase:
    """Tell the model's answer to a reader whose own read is committed, and note when."""
    review.reveal(room.database, session.account, case_id, now=room.now())
    return show_case(case_id, room, session, response)


@router.post("/cases/{case_id}/compare", status_code=204)
def compare_answer(case_id: CaseId, room: Here, session: Reader, sent: SentComparison) -> None:
    """Note once what the reader makes of the answer."""
    review.record_agreement(
        room.database, session.account, case_id, sent.agreement, amended_to=sent.amended_to, now=room.now()
    )
