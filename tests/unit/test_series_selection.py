from dataclasses import replace

import pytest

from pipeline.dicom.orientation import plane_of
from pipeline.dicom.series_selection import satisfies, select_series
from pipeline.domain.study import InstanceHeader
from pipeline.protocol import SeriesRule

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
RULE = SeriesRule(slices=(3, 10), orientation="axial", prefer="most_slices")


def series(name, count, **changes):
    plain = InstanceHeader(
        sop_instance_uid="", sop_class_uid="1.2.840.10008.5.1.4.1.1.4", study_instance_uid="1.2",
        series_instance_uid=f"1.2.{name}", transfer_syntax_uid="1.2.840.10008.1.2.1", modality="MR",
        image_type=("ORIGINAL", "PRIMARY"), image_orientation=AXIAL, series_description="Ax T1 post",
    )  # fmt: skip
    return [
        replace(plain, sop_instance_uid=f"1.2.{name}.{number}", instance_number=number, **changes)
        for number in range(count, 0, -1)
    ]


def test_one_fitting_series_is_selected_in_order_of_instance_number():
    found = select_series(series(1, 4) + series(2, 2), RULE)
    assert found.outcome == "selected"
    assert [header.instance_number for header in found.series[0]] == [1, 2, 3, 4]


def test_most_slices_wins_and_a_tie_is_ambiguous():
    assert select_series(series(1, 4) + series(2, 5), RULE).series[0][0].series_instance_uid == "1.2.2"
    assert select_series(series(1, 4) + series(2, 4), RULE).outcome == "ambiguous"


def test_without_a_preference_two_candidates_are_ambiguous():
    rule = SeriesRule(slices=(3, 10), orientation="axial")
    assert select_series(series(1, 4) + series(2, 5), rule).outcome == "ambiguous"


def test_no_series_that_can_fit_is_none():
    assert select_series(series(1, 2), RULE).outcome == "none"
    assert select_series([], RULE).outcome == "none"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"image_orientation": None}, RULE),
        ({"image_type": ()}, RULE),
        ({"series_description": None}, RULE.model_copy(update={"description_any": ("t1",)})),
    ],
)
def test_a_missing_tag_that_the_rule_asks_for_is_unknown_and_never_a_match(changes, rule):
    candidate = series(1, 4, **changes)
    assert satisfies(tuple(candidate), rule) is None
    assert select_series(candidate, rule).outcome == "ambiguous"


def test_a_series_left_open_blocks_a_smaller_certain_one_but_not_a_larger():
    assert select_series(series(1, 4) + series(2, 6, image_orientation=None), RULE).outcome == "ambiguous"
    assert select_series(series(1, 7) + series(2, 6, image_orientation=None), RULE).outcome == "selected"


def test_what_rules_a_series_out_outweighs_what_is_missing():
    scout = series(1, 4, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), image_orientation=None)
    assert satisfies(tuple(scout), RULE) is False


def test_all_fitting_series_are_taken_when_the_rule_says_so():
    rule = SeriesRule(use="all", slices=(1, 10))
    found = select_series(series(1, 2) + series(2, 5) + series(3, 1, image_type=("DERIVED",)), rule)
    assert [len(one) for one in found.series] == [2, 5]
    assert select_series(series(1, 2) + series(2, 5, image_type=()), rule).outcome == "ambiguous"


def test_frames_count_as_slices():
    assert select_series(series(1, 1, number_of_frames=8), RULE).outcome == "selected"


def test_candidates_of_two_modalities_are_ambiguous_unless_one_is_asked_for():
    both = series(1, 4) + series(2, 9, modality="PT")
    assert select_series(both, RULE).outcome == "ambiguous"
    assert select_series(both, RULE, modality=("MR",)).series[0][0].modality == "MR"
    assert select_series(series(1, 4, modality=None), RULE, modality=("MR",)).outcome == "ambiguous"


def test_described_series_need_one_of_the_words():
    rule = RULE.model_copy(update={"description_any": ("t2", "flair")})
    assert (
        select_series(series(1, 4) + series(2, 4, series_description="AX FLAIR"), rule).series[0][0].series_instance_uid
        == "1.2.2"
    )


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        (AXIAL, "axial"),
        ((0, 1, 0, 0, 0, -1), "sagittal"),
        ((1, 0, 0, 0, 0, -1), "coronal"),
        ((1, 0, 0, 0, 0.8, 0.6), "axial"),  # tilted by 37 degrees
        ((1, 0, 0, 0, 0.7071, 0.7071), "oblique"),
        ((1, 0, 0, 1, 0, 0), None),
        (None, None),
    ],
)
def test_the_plane_is_that_of_the_nearest_axis_within_forty_degrees(orientation, plane):
    assert plane_of(orientation) == plane
