from __future__ import annotations

from typing import Any

import pytest

from pipeline.domain.announced import CountFinding
from pipeline.domain.case import Reason
from pipeline.domain.completeness import judge_completeness, seal_evidence
from pipeline.domain.study import Completeness, InstanceHeader
from tests.pretend_scanner import header


def series(*numbers: int, **changes: Any) -> list[InstanceHeader]:
    return [header(number=number, **changes) for number in numbers]


def verdict(headers: list[InstanceHeader], unreadable: int = 0) -> tuple[Completeness, str]:
    found = judge_completeness(headers, unreadable)
    return found.completeness, found.kind


PROVEN, CONTRADICTED, UNKNOWN = Completeness.PROVEN, Completeness.CONTRADICTED, Completeness.UNKNOWN


def test_numbers_from_one_or_zero_without_a_gap_prove() -> None:
    assert verdict(series(1, 2, 3)) == (PROVEN, "gap_check")
    assert verdict(series(0, 1, 2)) == (PROVEN, "gap_check")


@pytest.mark.parametrize("missing", [2, 3, 4, 5])
def test_every_slice_missing_inside_is_seen(missing: int) -> None:
    assert verdict(series(*(n for n in range(1, 7) if n != missing))) == (CONTRADICTED, "gap_check")


def test_a_missing_first_slice_is_not_proven_whole() -> None:
    assert verdict(series(2, 3, 4))[0] is UNKNOWN


def test_a_missing_last_slice_is_seen_where_the_count_is_announced() -> None:
    assert verdict(series(1, 2, 3, images_in_acquisition=3)) == (PROVEN, "expected_count")
    assert verdict(series(1, 2, images_in_acquisition=3)) == (CONTRADICTED, "expected_count")


def test_an_announced_count_stands_for_numbers_that_begin_elsewhere() -> None:
    assert verdict(series(7, 8, 9, images_in_acquisition=3)) == (PROVEN, "expected_count")


def test_a_count_may_be_of_the_acquisition_or_of_the_series() -> None:
    first = series(1, 2, acquisition_number=1, images_in_acquisition=2)
    second = series(3, 4, acquisition_number=2, images_in_acquisition=2)
    assert verdict(first + second) == (PROVEN, "expected_count")
    whole = [header(number=n, acquisition_number=n, images_in_acquisition=4) for n in range(1, 5)]
    assert verdict(whole) == (PROVEN, "expected_count")
    assert verdict(first + second[:1]) == (CONTRADICTED, "expected_count")


def test_a_slice_missing_by_position_is_seen_behind_whole_numbers() -> None:
    placed = [header(number=n, image_position=(0.0, 0.0, z)) for n, z in enumerate((0.0, 5.0, 15.0, 20.0), start=1)]
    assert verdict(placed) == (CONTRADICTED, "gap_check")


def test_oblique_slices_are_measured_along_their_normal() -> None:
    # the normal of these row and column directions is (0, -0.8, 0.6): places 0, 10, 20 and 40 mm along it
    oriented = (1.0, 0.0, 0.0, 0.0, 0.6, 0.8)
    places = [(0.0, -0.8 * step, 0.6 * step) for step in (0.0, 10.0, 20.0, 40.0)]
    slices = [
        header(number=n, image_orientation=oriented, image_position=place) for n, place in enumerate(places, start=1)
    ]
    assert verdict(slices) == (CONTRADICTED, "gap_check")
    assert verdict(slices[:3]) == (PROVEN, "gap_check")


def test_several_images_at_each_position_are_one_series_and_a_lone_one_is_doubtful() -> None:
    twice = [header(number=n, image_position=(0.0, 0.0, 5.0 * ((n - 1) % 3))) for n in range(1, 7)]
    assert verdict(twice)[0] is PROVEN
    assert verdict(twice[:5])[0] is UNKNOWN


def test_scout_views_of_several_orientations_are_judged_by_their_numbers() -> None:
    scout = [
        header(number=1, image_orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
        header(number=2, image_orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)),
        header(number=3, image_orientation=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0)),
    ]
    assert verdict(scout)[0] is PROVEN


def test_headers_that_say_nothing_prove_nothing() -> None:
    silent = [header(sop_instance_uid=str(n), instance_number=None, image_position=None) for n in range(3)]
    assert verdict(silent) == (UNKNOWN, "quiet_time")
    assert verdict([]) == (UNKNOWN, "quiet_time")


def test_one_number_for_two_images_proves_nothing() -> None:
    assert verdict([*series(1, 2), header(number=2, sop_instance_uid="9")])[0] is UNKNOWN


def test_an_unreadable_image_is_a_gap_whatever_the_others_say() -> None:
    assert verdict(series(1, 2, 3, images_in_acquisition=3), unreadable=1)[0] is CONTRADICTED


def test_the_worst_series_decides_for_the_study() -> None:
    other = [header(number=n, series_instance_uid="5.5") for n in (1, 3)]
    assert verdict(series(1, 2, 3) + other)[0] is CONTRADICTED
    assert "2 series" in judge_completeness([*series(1, 2), header(number=1, series_instance_uid="5")], 0).detail


def test_evidence_counts_and_says_who_vouched_for_silence() -> None:
    found = seal_evidence(series(1, 2), quarantined=2, unreadable=0, problems=[Reason.LATE_DATA], forced=True)
    assert (found.instances, found.series, found.quarantined, found.problems) == (2, 1, 2, ("LATE_DATA",))
    assert found.detail.endswith("sealed on request")
    assert seal_evidence([], quarantined=0, unreadable=0, forced=True).kind == "forced"


def test_odd_positions_do_not_break_the_judgement() -> None:
    assert verdict([header(number=n, image_orientation=(1.0, 0.0)) for n in (1, 2, 3)])[0] is PROVEN
    nowhere = [header(number=n, image_position=(0.0, 0.0, float("nan"))) for n in (1, 2, 3)]
    assert verdict(nowhere)[0] is not CONTRADICTED


def said(completeness: Completeness) -> CountFinding:
    return CountFinding(completeness=completeness, detail="what the PACS counts")


def weighed(headers: list[InstanceHeader], counted: Completeness, unreadable: int = 0) -> tuple[Completeness, str]:
    found = seal_evidence(headers, quarantined=unreadable, unreadable=unreadable, counted=said(counted))
    return found.completeness, found.kind


def test_a_count_that_is_met_proves_a_study_whose_images_show_nothing() -> None:
    assert verdict(series(1, 2, instance_number=None))[0] is UNKNOWN
    assert weighed(series(1, 2, instance_number=None), PROVEN) == (PROVEN, "expected_count")


@pytest.mark.parametrize("numbers", [(1, 2, 4, 5), (1, 3)])
def test_a_count_that_is_met_mends_no_gap(numbers: tuple[int, ...]) -> None:
    assert weighed(series(*numbers), PROVEN) == (CONTRADICTED, "gap_check")


def test_a_count_that_is_met_mends_no_unreadable_image() -> None:
    assert weighed(series(1, 2, 3), PROVEN, unreadable=1) == (CONTRADICTED, "gap_check")


def test_a_count_that_is_met_does_not_outweigh_numbers_that_begin_late() -> None:
    assert weighed(series(2, 3, 4), PROVEN)[0] is UNKNOWN, "the PACS may lack the first slice too"


def test_more_at_the_pacs_contradicts_images_that_look_whole() -> None:
    assert weighed(series(1, 2, 3), CONTRADICTED) == (CONTRADICTED, "expected_count")


def test_a_count_that_says_nothing_changes_nothing() -> None:
    assert weighed(series(1, 2, 3), UNKNOWN) == (PROVEN, "gap_check")
    assert weighed(series(2, 3, 4), UNKNOWN)[0] is UNKNOWN


@pytest.mark.parametrize("turned", [False, True])
def test_a_silent_series_does_not_hide_a_suspicious_one_from_the_count(turned: bool) -> None:
    silent = series(1, 2, instance_number=None, series_instance_uid="1.1.1")
    late = series(2, 3, 4, series_instance_uid="1.1.2")
    assert weighed(late + silent if turned else silent + late, PROVEN)[0] is UNKNOWN
