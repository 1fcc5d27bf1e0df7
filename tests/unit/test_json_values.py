from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest

from pipeline.domain.case import Reason
from pipeline.domain.evidence import Policy
from pipeline.domain.study import Completeness, SealEvidence
from pipeline.store.database import canonical_json
from pipeline.store.json_values import IDENTITY_FIELDS, header_from, header_json, plain, policy_from, seal_from
from tests.pretend_scanner import PretendedRelease, header, tiny_protocol


def test_a_header_comes_back_without_its_identity() -> None:
    given = header(patient_birth_date="19700101", accession_number="A1", pixel_spacing=(0.5, 0.5))
    text = json.dumps(header_json(given))
    assert "DOE" not in text
    assert "A1" not in text
    back = header_from(json.loads(text))
    assert all(getattr(back, name) is None for name in IDENTITY_FIELDS)
    assert (back.image_position, back.pixel_spacing, back.image_type) == (
        given.image_position,
        given.pixel_spacing,
        given.image_type,
    )


def test_seal_evidence_and_policies_come_back_as_they_were() -> None:
    seal = SealEvidence(
        completeness=Completeness.UNKNOWN, kind="k", detail="d", instances=1, series=1, quarantined=0, problems=("X",)
    )
    assert seal_from(json.loads(json.dumps(plain(seal)))) == seal
    policy: Policy = PretendedRelease(tiny_protocol()).policy
    assert policy_from(json.loads(json.dumps(plain(policy)))) == policy


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (Reason.NOVEL, "NOVEL"),
        ((1, None, True), [1, None, True]),
        ({Reason.NOVEL: 1.5}, {"NOVEL": 1.5}),
        (date(2026, 3, 1), "2026-03-01"),
        (object(), "object"),
    ],
)
def test_every_value_has_a_plain_form(value: object, expected: object) -> None:
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_numbers_come_back_bit_for_bit() -> None:
    value = 0.1 + 0.2
    assert json.loads(canonical_json(plain((value,)))) == [value]


def test_json_that_is_not_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
