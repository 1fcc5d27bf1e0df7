from itertools import product

import pytest

from pipeline.dicom.kleene import agreed, all_of
from pipeline.dicom.scope_gate import judge_scope
from pipeline.domain.case import Reason
from pipeline.domain.study import InstanceHeader
from pipeline.protocol import AgeRange, Device, Scope

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
SCOPE = Scope(
    modality=("MR",), body_part=("BRAIN", "HEAD"), age_years=AgeRange(minimum=18, maximum=120),
    devices=(Device(manufacturer="siemens", model="Prisma"), Device(manufacturer="ge")),
)  # fmt: skip


def header(**changes):
    values = {
        "sop_instance_uid": "1.2.3", "sop_class_uid": MR, "study_instance_uid": "1.2", "series_instance_uid": "1.2.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1", "modality": "MR", "body_part_examined": "brain",
        "patient_age_years": 40.0, "manufacturer": "SIEMENS", "manufacturer_model_name": "prisma",
    }  # fmt: skip
    return InstanceHeader(**(values | changes))


def test_images_that_say_all_that_is_asked_are_in_scope():
    verdict = judge_scope([header(), header()], SCOPE)
    assert (verdict.in_scope, verdict.reasons) == (True, ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modality": "CT", "sop_class_uid": CT}, Reason.WRONG_MODALITY),
        ({"body_part_examined": "KNEE"}, Reason.WRONG_BODY_PART),
        ({"patient_age_years": 8.0}, Reason.WRONG_AGE),
        ({"manufacturer": "Philips"}, Reason.WRONG_DEVICE),
        ({"manufacturer_model_name": "Aera"}, Reason.WRONG_DEVICE),
    ],
)
def test_one_tag_that_rules_the_images_out_is_out_of_scope_with_its_reason(changes, reason):
    verdict = judge_scope([header(**changes)], SCOPE)
    assert (verdict.in_scope, verdict.reasons) == (False, (reason,))


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": None},
        {"body_part_examined": None},
        {"patient_age_years": None},
        {"manufacturer": None},
        {"manufacturer_model_name": None},
        {"modality": "CT"},  # contradicts the SOP class
        {"body_part_examined": "HEAD^NECK"},
        {"manufacturer": "Siemens Healthineers"},
    ],
)
def test_a_missing_or_doubtful_tag_is_unknown_and_never_out_of_scope(changes):
    verdict = judge_scope([header(**changes)], SCOPE)
    assert (verdict.in_scope, verdict.reasons) == (None, (Reason.SCOPE_UNKNOWN,))


def test_images_that_differ_are_unknown():
    assert judge_scope([header(), header(body_part_examined="KNEE")], SCOPE).in_scope is None
    assert judge_scope([header(), header(body_part_examined=None)], SCOPE).in_scope is None
    assert judge_scope([], SCOPE).in_scope is None


def test_what_is_not_asked_may_be_missing():
    bare = header(body_part_examined=None, patient_age_years=None, manufacturer=None)
    assert judge_scope([bare], Scope(modality=("MR",))).in_scope is True


def test_a_second_device_of_the_list_is_enough():
    assert judge_scope([header(manufacturer="GE", manufacturer_model_name=None)], SCOPE).in_scope is True


def test_no_sentence_repeats_a_value_of_the_images():
    for changes in ({"body_part_examined": "SECRETPART"}, {"manufacturer": "SECRETMAKER"}):
        assert "SECRET" not in judge_scope([header(**changes)], SCOPE).detail


@pytest.mark.parametrize("truths", list(product((True, False, None), repeat=3)))
def test_conjunction_is_the_least_truth_in_the_order_false_unknown_true(truths):
    order = [False, None, True]
    assert all_of(truths) is order[min(order.index(truth) for truth in truths)]
    assert agreed(truths) is (truths[0] if len(set(truths)) == 1 else None)
