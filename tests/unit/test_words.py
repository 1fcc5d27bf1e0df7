from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.domain.case import Reason, Route
from pipeline.web import words

NOW = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_words_of_its_own(reason: Reason) -> None:
    said = f"{words.chip(reason)} {words.sentence(reason)}"
    assert words.chip(reason) != words.plain(reason) or " " in words.chip(reason)
    assert words.sentence(reason).endswith(".")
    assert not re.search(r"\b(normal|negative|cleared)\b", said, re.IGNORECASE)


@pytest.mark.parametrize("route", list(Route))
def test_no_route_is_called_a_rule_out(route: Route) -> None:
    assert not re.search(r"\b(normal|negative|cleared)\b", words.route(route), re.IGNORECASE)


def test_chips_differ_from_each_other() -> None:
    chips = [words.chip(reason) for reason in Reason]
    assert len(set(chips)) == len(chips)


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(0, "0 min"), (59, "59 min"), (60, "1 h 0 min"), (1439, "23 h 59 min"), (1500, "1 d 1 h"), (-5, "0 min")],
)
def test_lengths_of_time_are_told_in_two_units(minutes: int, expected: str) -> None:
    assert words.span(timedelta(minutes=minutes)) == expected


def test_due_says_until_and_overdue() -> None:
    assert words.due(NOW + timedelta(minutes=61), NOW) == "in 1 h 1 min"
    assert words.due(NOW, NOW) == "overdue 0 min"
    assert words.due(NOW - timedelta(hours=2), NOW) == "overdue 2 h 0 min"


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, "0.0 %"), (0.0001, "< 0.1 %"), (0.1234, "12.3 %"), (0.9999, "> 99.9 %"), (1.0, "100.0 %")],
)
def test_a_probability_is_never_rounded_to_certainty(share: float, expected: str) -> None:
    assert words.percent(share) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Doe^Jane^M", "Doe, Jane"),
        ("Yamada^Tarou=山田^太郎", "Yamada, Tarou"),
        ("Doe", "Doe"),
        ("^Jane", "Jane"),
        ("", "Name not given"),
        (None, "Name not given"),
    ],
)
def test_person_names_are_told_family_first(name: str | None, expected: str) -> None:
    assert words.person_name(name) == expected


@pytest.mark.parametrize(("value", "expected"), [("20260314", "2026-03-14"), ("2026", "2026"), (None, "")])
def test_dicom_dates_are_told_as_they_are_meant(value: str | None, expected: str) -> None:
    assert words.dicom_date(value) == expected
