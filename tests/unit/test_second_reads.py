from __future__ import annotations

import pytest

from pipeline.answering import CANNOT_BE_READ, LONGEST_ANSWER, Read, Unreadable, check, checked_answers
from pipeline.domain.audit_sampling import drawn_for_audit
from pipeline.domain.second_reads import are_concordant, asks_for_second, drawn_for_second_read
from pipeline.errors import UnfinishedRead
from pipeline.protocol import Question, Reading
from tests.slice_protocol import slice_protocol

KEY = b"k" * 32
IDS = [f"case-{n}" for n in range(4000)]


def test_the_draw_holds_its_share_and_repeats() -> None:
    drawn = [drawn_for_second_read(KEY, case, 0.25) for case in IDS]
    assert abs(sum(drawn) / len(drawn) - 0.25) < 0.03
    assert drawn == [drawn_for_second_read(KEY, case, 0.25) for case in IDS]
    assert drawn != [drawn_for_second_read(b"o" * 32, case, 0.25) for case in IDS]


def test_a_second_read_tells_nothing_about_an_audit_read() -> None:
    both = sum(drawn_for_audit(KEY, case, 0.5) and drawn_for_second_read(KEY, case, 0.5) for case in IDS)
    assert abs(both / len(IDS) - 0.25) < 0.03  # as often together as two independent coins


def test_without_a_key_only_all_or_none_can_be_drawn() -> None:
    assert drawn_for_second_read(b"", "case", 1.0)
    assert not drawn_for_second_read(b"", "case", 0.0)
    with pytest.raises(ValueError, match="key"):
        drawn_for_second_read(b"", "case", 0.5)
    with pytest.raises(ValueError, match="case id"):
        drawn_for_second_read(KEY, "", 0.5)


@pytest.mark.parametrize(
    ("finding", "certainty", "drawn", "asks"),
    [
        ("no_tumour", 4, False, False),
        ("no_tumour", 4, True, True),
        ("tumour", 5, False, True),
        ("no_tumour", 2, False, True),
        ("no_tumour", 3, False, False),
        (CANNOT_BE_READ, 5, False, True),
    ],
)
def test_what_asks_for_a_second_read(finding: str, certainty: int, drawn: bool, asks: bool) -> None:
    rule = {"findings": ("tumour", CANNOT_BE_READ), "least_certainty": 3}
    assert asks_for_second(finding=finding, certainty=certainty, drawn=drawn, **rule) is asks  # type: ignore[arg-type]


def test_that_a_case_cannot_be_read_is_a_finding_of_its_own() -> None:
    assert are_concordant("tumour", "tumour")
    assert are_concordant(CANNOT_BE_READ, CANNOT_BE_READ)
    assert not are_concordant("tumour", CANNOT_BE_READ)
    assert not are_concordant("tumour", "no_tumour")


SIDE = Question(name="side", label="Side", choices=("left", "right"), required=True, only_for=("tumour",))
SIGNS = Question(name="signs", label="Signs", choices=("oedema", "mass_effect", "bleeding"), several=True)
WHERE = Question(name="where", label="Where")
WHY = Question(name="why", label="What to repeat", required=True, only_for=(CANNOT_BE_READ,))
FORM = Reading(questions=(SIDE, SIGNS, WHERE, WHY))


def read(finding: str = "tumour", **answers: str | tuple[str, ...]) -> Read:
    return Read(finding=finding, certainty=3, answers=answers)


def test_answers_are_stored_with_the_form_they_answer() -> None:
    said = checked_answers(read(side="left", signs=("bleeding", "oedema"), where="  frontal "), FORM)
    assert said == {
        "form": FORM.digest,
        "answers": {"side": "left", "signs": ["oedema", "bleeding"], "where": "frontal"},
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (read(), "answer 'Side'"),
        (read(side="  "), "answer 'Side'"),
        (read(side="up"), "'Side': choose one of left, right"),
        (read(side=("left", "right")), "'Side': give one answer"),
        (read(side="left", signs=("rash",)), "'Signs': choose one of"),
        (read(side="left", where="x" * (LONGEST_ANSWER + 1)), "'Where': longer"),
        (read(side="left", colour="blue"), "asks nothing named 'colour'"),
        (read(CANNOT_BE_READ), "answer 'What to repeat'"),
    ],
)
def test_an_answer_that_is_missing_or_wrong_is_named_by_its_label(given: Read, words: str) -> None:
    with pytest.raises(UnfinishedRead, match=words):
        checked_answers(given, FORM)


def test_what_belongs_to_another_finding_is_not_asked_and_not_stored() -> None:
    said = checked_answers(read("no_tumour", side="left", where="all"), FORM)
    assert said == {"form": FORM.digest, "answers": {"where": "all"}}
    unread = Read(finding=CANNOT_BE_READ, certainty=3, because=Unreadable.MOTION, answers={"why": "all", "where": "no"})
    assert checked_answers(unread, FORM) == {"form": FORM.digest, "answers": {"why": "all"}, "because": "MOTION"}


def test_other_systems_answer_no_form() -> None:
    assert checked_answers(Read(finding="tumour", certainty=3, answers=None), FORM) is None
    assert checked_answers(Read(finding="tumour", certainty=3), Reading()) is None


@pytest.mark.parametrize(
    ("because", "comment", "is_enough"),
    [
        (None, "", False),
        (None, "it moved", True),
        (Unreadable.OTHER, " ", False),
        (Unreadable.OTHER, "wrong patient?", True),
        (Unreadable.MOTION, "", True),
    ],
)
def test_a_case_that_cannot_be_read_says_why(because: Unreadable | None, comment: str, is_enough: bool) -> None:
    said = Read(finding=CANNOT_BE_READ, certainty=3, because=because, comment=comment)
    if is_enough:
        check(said, slice_protocol())
        return
    with pytest.raises(UnfinishedRead, match="why"):
        check(said, slice_protocol())
