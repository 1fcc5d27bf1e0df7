"""What a read says, and what it must say before it is written: the finding, how certain, the answers of the form, why not.

A case that cannot be read is a finding of its own, with its reason; the form then asks only what names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipeline.errors import UnfinishedRead
from pipeline.protocol import Question, Reading, TriageProtocol

CANNOT_BE_READ = "cannot_be_read"
LONGEST_COMMENT = 4000  #: characters
LONGEST_ANSWER = 1000  #: characters of one answer in words
NO_FORM = Reading()  #: asks nothing, and sends nobody a second time


class Unreadable(StrEnum):
    """Why a case cannot be read."""

    MOTION = "MOTION"  #: The patient moved.
    MISSING_IMAGES = "MISSING_IMAGES"  #: Images that the question needs are not there.
    WRONG_STUDY = "WRONG_STUDY"  #: The images are of another body part, examination or patient.
    ARTEFACT = "ARTEFACT"  #: Metal, noise or another artefact hides what is asked for.
    OTHER = "OTHER"  #: Something else, which the comment says.


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a reader says about a case: a class of the protocol or CANNOT_BE_READ, certainty 1 to 5, answers and words.

    `answers` are by the name of the question; None where the read was made without the form, by another system.
    """

    finding: str
    certainty: int
    comment: str = ""
    because: Unreadable | None = None
    answers: Mapping[str, str | tuple[str, ...]] | None = field(default_factory=dict)


def check(read: Read, protocol: TriageProtocol) -> None:
    """Raise UnfinishedRead, with what to do, unless the read names finding, certainty and why a case cannot be read."""
    if read.finding not in (*protocol.class_names, CANNOT_BE_READ):
        raise UnfinishedRead("choose what you see, or that the case cannot be read")
    if not 1 <= read.certainty <= 5:
        raise UnfinishedRead("choose how certain you are, from 1 to 5")
    has_reason = read.because not in {None, Unreadable.OTHER}
    if read.finding == CANNOT_BE_READ and not has_reason and not read.comment.strip():
        raise UnfinishedRead("say in the comment why the case cannot be read, or choose the reason")
    if len(read.comment) > LONGEST_COMMENT:
        raise UnfinishedRead(f"the comment is longer than {LONGEST_COMMENT} characters; shorten it")


def is_asked(question: Question, finding: str) -> bool:
    """Whether the form asks this beside that finding; a case that cannot be read is asked only what names it."""
    if finding == CANNOT_BE_READ:
        return finding in question.only_for
    return not question.only_for or finding in question.only_for


def checked_answers(read: Read, reading: Reading) -> dict[str, Any] | None:
    """The answers as they are stored, with the form they answer; raises UnfinishedRead naming the question."""
    because = read.because if read.finding == CANNOT_BE_READ else None
    if read.answers is None:
        return None
    known = {question.name for question in reading.questions}
    if unknown := sorted(set(read.answers) - known):
        raise UnfinishedRead(f"the form asks nothing named '{unknown[0][:40]}'; open the case again")
    asked = [question for question in reading.questions if is_asked(question, read.finding)]
    answers = {question.name: _answer(question, read.answers.get(question.name, ())) for question in asked}
    given = {name: answer for name, answer in answers.items() if answer}
    if not reading.questions and because is None:
        return None
    return {"form": reading.digest, "answers": given} | ({} if because is None else {"because": because.value})


def _answer(question: Question, said: str | tuple[str, ...]) -> str | list[str]:
    values = [value.strip() for value in ((said,) if isinstance(said, str) else said) if value.strip()]
    if not values and question.required:
        raise UnfinishedRead(f"answer '{question.label}'")
    if question.choices and not set(values) <= set(question.choices):
        raise UnfinishedRead(f"'{question.label}': choose one of {', '.join(question.choices)}")
    if len(values) > 1 and not question.several:
        raise UnfinishedRead(f"'{question.label}': give one answer")
    if any(len(value) > LONGEST_ANSWER for value in values):
        raise UnfinishedRead(f"'{question.label}': longer than {LONGEST_ANSWER} characters; shorten it")
    if question.several and question.choices:
        return [choice for choice in question.choices if choice in values]
    return values[0] if values else ""
