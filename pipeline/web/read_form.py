"""The read form: its fields as a draft, the draft as a read, the protocol's questions, and the signature under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from pipeline import review
from pipeline.answering import NO_FORM, Read, Unreadable
from pipeline.errors import NotAllowed
from pipeline.protocol import Question, Reading
from pipeline.review import CaseView
from pipeline.store.account_rows import Account
from pipeline.web import words
from pipeline.web.api_models import Sent
from pipeline.web.proving import proves
from pipeline.web.room import Room

_PREFIX: Final = "answer."  #: of the fields that answer the protocol's questions
_FIELDS: Final = ("finding", "certainty", "comment", "because")
UNREADABLE_WORDS: Final[Mapping[Unreadable, str]] = {
    Unreadable.MOTION: "The patient moved",
    Unreadable.MISSING_IMAGES: "Images are missing",
    Unreadable.WRONG_STUDY: "Wrong study or body part",
    Unreadable.ARTEFACT: "An artefact hides it",
    Unreadable.OTHER: "Something else: say what",
}
QuestionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Said = Annotated[tuple[Annotated[str, Field(max_length=4_000)], ...], Field(max_length=64)]


class NotSigned(NotAllowed):
    """The site wants reads signed, and what came is neither the password nor a current code."""


class Draft(Sent):
    """A read that is not committed yet, as it came from the form; nothing in it is lost when a commit is refused."""

    finding: Annotated[str, Field(max_length=64)] = ""
    certainty: Annotated[str, Field(max_length=8)] = ""
    comment: Annotated[str, Field(max_length=16_000)] = ""
    because: Annotated[str, Field(max_length=32)] = ""
    answers: Annotated[dict[QuestionName, Said], Field(max_length=12)] = Field(default_factory=dict)

    def read(self) -> Read:
        """The read it stands for; a certainty that is no number becomes 0, which is refused with words."""
        number = int(self.certainty) if self.certainty.isdecimal() and len(self.certainty) == 1 else 0
        because = Unreadable(self.because) if self.because in set(Unreadable) else None
        return Read(
            finding=self.finding, certainty=number, comment=self.comment, because=because, answers=dict(self.answers)
        )

    def fields(self) -> list[tuple[str, str]]:
        """Names and values as the form sends them."""
        plain = [(name, str(getattr(self, name))) for name in _FIELDS]
        return plain + [(f"{_PREFIX}{name}", value) for name, said in self.answers.items() for value in said]


async def draft_of(request: Request) -> Draft:
    """The draft in a form; raises RequestValidationError."""
    form = await request.form()
    sent: dict[str, Any] = {name: form.get(name, "") for name in _FIELDS}
    names = dict.fromkeys(name for name in form if name.startswith(_PREFIX))
    sent["answers"] = {name.removeprefix(_PREFIX): form.getlist(name) for name in names}
    try:
        return Draft.model_validate(sent)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


SentDraft = Annotated[Draft, Depends(draft_of)]


def draft_to_show(view: CaseView, sent: Draft | None) -> Draft:
    """What was just sent, else this reader's own stored draft, else an empty one."""
    if sent is not None and sent != Draft():
        return sent
    if view.draft is None:
        return Draft()
    try:
        return Draft.model_validate(dict(view.draft.content))
    except ValidationError:  # of another version of the form
        return Draft()


def reading_of(room: Room, protocol: str) -> Reading:
    """The form and the rules of reading under the active protocol of that name."""
    active = room.protocols.get(protocol)
    return NO_FORM if active is None else active.reading


def labelled(questions: tuple[Question, ...], answers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Stored answers under their questions' labels, in the order of the form, then those it asks no more."""
    labels = {question.name: question.label for question in questions}
    order = [*(name for name in labels if name in answers), *(name for name in answers if name not in labels)]
    return [(labels.get(name, words.plain(name)), _in_words(answers[name])) for name in order]


def _in_words(answer: Any) -> str:
    return ", ".join(map(str, answer)) if isinstance(answer, list | tuple) else str(answer)


def require_signature(room: Room, account: Account, secret: str) -> None:
    """Raise NotSigned where the site wants reads signed and this is neither the password nor a current code."""
    if room.rules.signing == "password" and not (secret and proves(room, account, secret)):
        raise NotSigned(
            "sign the read with your password or a current code; what was given was not right, or was wrong too often"
        )


def write_read(  # noqa: PLR0917 - who commits what, and what proves it
    room: Room, account: Account, case_id: str, fence: int, read: Read, secret: str
) -> str:
    """Commit a read under the active protocol's form and rules, signed where the site wants that; returns its id.

    Raises NotSigned, UnfinishedRead, StaleClaim, NotAllowed or NoSuchCase.
    """
    require_signature(room, account, secret)
    now = room.now()
    protocol = review.view_case(room.database, account, case_id, now=now).case.protocol
    reading = reading_of(room, protocol)
    return review.commit_read(
        room.database, account, case_id, fence, read, reading=reading, key=room.keys.audit, now=now
    )
