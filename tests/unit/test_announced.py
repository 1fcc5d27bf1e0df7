from __future__ import annotations

import pytest

from pipeline.domain.announced import AnnouncedSeries, Announcement, judge_counts
from pipeline.domain.study import Completeness


def said(*series: tuple[str, str | None, int | None]) -> Announcement:
    found = (AnnouncedSeries(uid=uid, modality=modality, instances=count) for uid, modality, count in series)
    return Announcement(source="pacs", series=tuple(found))


def judged(announcement: Announcement, held: dict[str, int], *ours: str) -> Completeness:
    return judge_counts(announcement, held, ours).completeness


def test_the_same_counts_prove_a_study() -> None:
    found = judge_counts(said(("1", "MR", 16), ("2", "MR", 3)), {"1": 16, "2": 3})
    assert (found.completeness, found.detail) == (Completeness.PROVEN, "pacs counts the same 19 instances in 2 series")


@pytest.mark.parametrize("held", [{"1": 15}, {}, {"1": 1}])
def test_more_at_the_pacs_than_here_contradicts(held: dict[str, int]) -> None:
    assert judged(said(("1", "MR", 16)), held) is Completeness.CONTRADICTED


def test_a_series_that_never_came_contradicts() -> None:
    assert judged(said(("1", "MR", 16), ("2", "MR", 1)), {"1": 16}) is Completeness.CONTRADICTED


@pytest.mark.parametrize(
    ("announcement", "held"),
    [
        (said(("1", "MR", 15)), {"1": 16}),  # the PACS has not got everything yet
        (said(("1", "MR", None)), {"1": 16}),  # it does not count
        (said(("1", "MR", 16)), {"1": 16, "2": 4}),  # it does not know a series of ours
        (said(), {"1": 16}),  # it knows the study and no series
        (said(("9", "SR", 1)), {}),  # nothing but reports
    ],
)
def test_a_count_that_is_absent_smaller_or_about_something_else_proves_nothing(announcement, held) -> None:
    assert judged(announcement, held) is Completeness.UNKNOWN


def test_reports_and_presentation_states_leave_no_gap() -> None:
    assert judged(said(("1", "MR", 16), ("9", "SR", 2), ("8", "PR", 1)), {"1": 16}) is Completeness.PROVEN


def test_reports_that_came_too_change_nothing() -> None:
    assert judged(said(("1", "MR", 16), ("9", "SR", 2)), {"1": 16, "9": 2}) is Completeness.PROVEN


def test_our_own_results_there_are_not_missed_here() -> None:
    assert judged(said(("1", "MR", 16), ("7", "OT", 1)), {"1": 16}, "7") is Completeness.PROVEN
    assert judged(said(("1", "MR", 16), ("7", "OT", 1)), {"1": 16}) is Completeness.CONTRADICTED


def test_a_series_of_unknown_modality_counts_as_images() -> None:
    assert judged(said(("1", None, 2)), {"1": 1}) is Completeness.CONTRADICTED
