from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pytest
from mapie.risk_control import BinaryClassificationController

from pipeline.domain.certificate import Certificate, certificate_text, certify
from pipeline.errors import HaltPipeline

MADE, EXPIRES = date(2026, 1, 1), date(2027, 1, 1)


def made(
    tune: tuple[Sequence[float], Sequence[bool]], held: tuple[Sequence[float], Sequence[bool]], **changes: Any
) -> Certificate:
    values: dict[str, Any] = {
        "patients": [f"c{i}" for i in range(len(held[0]))],
        "tune_patients": [f"t{i}" for i in range(len(tune[0]))],
        "alpha": 0.05,
        "delta": 0.05,
        "side": "routine",
        "made_on": MADE,
        "expires_on": EXPIRES,
        "dependencies": {"protocol": "p" * 64},
        **changes,
    }
    return certify(*tune, *held, values.pop("patients"), **values)


def drawn(n: int, seed: int, share: float = 0.4, distance: float = 2.3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    positive = generator.random(n) < share
    return 1 / (1 + np.exp(-(generator.normal(size=n) + distance * positive - 1))), positive


def separated(positives: int, misses: int = 0) -> tuple[list[float], list[bool]]:
    """`positives` cases with the finding at 0.9, `misses` of them at 0.05, and as many without at 0.1."""
    return [0.05] * misses + [0.9] * (positives - misses) + [0.1] * positives, [True] * positives + [False] * positives


TUNE = ([0.1] * 60 + [0.9] * 40, [False] * 60 + [True] * 40)


def test_fifty_nine_positives_without_a_miss_certify_five_percent_and_fifty_eight_do_not() -> None:
    assert made(TUNE, separated(59)).certified
    assert not made(TUNE, separated(58)).certified


@pytest.mark.parametrize(("misses", "needed"), [(0, 59), (1, 93), (2, 124), (5, 208)])
def test_sample_sizes_hold_for_the_whole_certificate(misses: int, needed: int) -> None:
    found = made(TUNE, separated(needed, misses))
    assert (found.certified, found.threshold, found.misses, found.positives) == (True, 0.1, misses, needed)
    assert not made(TUNE, separated(needed - 1, misses)).certified


def test_the_threshold_is_the_last_rung_that_holds() -> None:
    found = made(TUNE, separated(100))
    assert [(r.threshold, r.k, r.n) for r in found.rungs] == [(0.1, 0, 100), (0.9, 100, 100)]
    assert (found.threshold, found.misses, found.patients) == (0.1, 0, 200)


def test_every_count_is_an_integer() -> None:
    assert all(type(r.k) is int and type(r.n) is int for r in made(drawn(300, 1), drawn(400, 2)).rungs)


def test_the_priority_side_is_the_mirror_of_the_routine_side() -> None:
    tune, held = drawn(300, 1), drawn(400, 2)
    upper = made(tune, held, side="priority")
    turned = made((1 - tune[0], ~tune[1]), (1 - held[0], ~held[1]))
    assert upper.certified
    assert (upper.positives, upper.misses) == (turned.positives, turned.misses)
    assert upper.threshold == pytest.approx(1 - turned.threshold, abs=1e-15)
    assert upper.misses == int((~held[1] & (held[0] >= upper.threshold)).sum())


def test_the_fixed_sequence_agrees_with_another_library() -> None:
    # The library counts exactly for false positives, which are the priority side's risk.
    tune, held = drawn(300, 3), drawn(500, 4)
    found = made(tune, held, side="priority")
    other = BinaryClassificationController(
        lambda p: np.column_stack([1 - p, p]),
        "fpr",
        0.05,
        confidence_level=0.95,
        list_predict_params=np.array([r.threshold for r in found.rungs]),
        fwer_method="fixed_sequence",
    )
    other.calibrate(held[0], held[1].astype(int))
    np.testing.assert_allclose(other.p_values.ravel(), [r.p for r in found.rungs], rtol=1e-9)
    assert found.threshold == other.valid_predict_params[-1]


def test_gated_cases_count_as_positives_and_never_as_misses() -> None:
    scores, positive = separated(100, misses=10)
    open_gate = made(TUNE, (scores, positive))
    gated = made(TUNE, ([np.inf] * 10 + scores[10:], positive))
    assert (open_gate.certified, open_gate.misses) == (False, 10)
    assert (gated.certified, gated.misses, gated.positives) == (True, 0, 100)


def test_shuffled_labels_are_not_certified() -> None:
    scores, positive = drawn(1000, 5)
    assert made(drawn(500, 6), (scores, positive)).certified
    assert not made(drawn(500, 6), (scores, np.random.default_rng(0).permutation(positive)), alpha=0.01).certified


@pytest.mark.parametrize("side", ["routine", "priority"])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_a_handful_of_cases_certifies_nothing(n: int, side: str) -> None:
    found = made(TUNE, ([0.5] * n, [True] * n), side=side)
    assert (found.certified, found.threshold) == (False, None)
    assert found.sentence()


def test_without_positives_nothing_is_certified() -> None:
    found = made(TUNE, ([0.1] * 200, [False] * 200))
    assert (found.certified, found.positives, found.smallest_alpha) == (False, 0, None)
    assert "no study goes to ROUTINE" in found.sentence()


def test_with_positives_only_the_certificate_still_counts() -> None:
    assert made(TUNE, ([0.9] * 59, [True] * 59)).certified


@pytest.mark.parametrize("tune", [([], []), ([np.inf] * 5, [True] * 5)])
def test_without_a_tune_score_nothing_is_certified(tune: tuple[list[float], list[bool]]) -> None:
    found = made(tune, separated(100))
    assert (found.certified, found.rungs, found.smallest_alpha) == (False, (), None)
    assert "No limit can be certified" in found.sentence()


@pytest.mark.parametrize(("positives", "misses"), [(10, 0), (10, 1), (40, 3)])
def test_the_smallest_limit_named_can_be_certified_and_a_smaller_one_cannot(positives: int, misses: int) -> None:
    held = separated(positives, misses)
    found = made(TUNE, held, alpha=0.01)
    assert found.smallest_alpha is not None
    assert made(TUNE, held, alpha=found.smallest_alpha).certified
    assert not made(TUNE, held, alpha=found.smallest_alpha - 1e-5).certified


def test_a_repeated_patient_is_refused() -> None:
    with pytest.raises(HaltPipeline, match="one case per patient"):
        made(TUNE, ([0.1, 0.9], [False, True]), patients=["a", "a"])


def test_a_patient_in_both_splits_is_refused() -> None:
    with pytest.raises(HaltPipeline, match="both the tune and the certify split"):
        made(TUNE, ([0.1, 0.9], [False, True]), patients=["c0", "t7"])


def test_certifying_on_the_tune_split_is_refused() -> None:
    scores, positive = separated(50)
    same = [f"p{i}" for i in range(100)]
    with pytest.raises(HaltPipeline, match="both the tune and the certify split"):
        made((scores, positive), (scores, positive), patients=same, tune_patients=same)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"delta": 0.0}, "delta"),
        ({"side": "left"}, "side"),
        ({"expires_on": date(2025, 1, 1)}, "expire"),
        ({"patients": ["a"]}, "differ in number"),
        ({"tune_patients": ["a"]}, "differ in number"),
    ],
)
def test_limits_and_sides_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(HaltPipeline, match=words):
        made(TUNE, separated(100), **changes)


@pytest.mark.parametrize(("side", "score"), [("routine", -np.inf), ("priority", np.inf), ("routine", np.nan)])
def test_an_undefined_score_is_refused(side: str, score: float) -> None:
    with pytest.raises(HaltPipeline, match="undefined"):
        made(TUNE, ([score, 0.5], [True, False]), side=side)


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(HaltPipeline, match="neither present nor absent"):
        made(TUNE, ([0.1, 0.2], [1, 2]))


@pytest.mark.parametrize("side", ["routine", "priority"])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_a_certificate_survives_json_exactly(side: str, alpha: float) -> None:
    found = made(drawn(300, 1), drawn(400, 2), side=side, alpha=alpha)
    assert Certificate.from_dict(json.loads(certificate_text(found))) == found
    assert Certificate.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 0.99),
        ("certified", False),
        ("alpha", 0.001),
        ("alpha", 0.0),
        ("delta", 1e-9),
        ("positives", 10_000),
        ("patients", 3),
        ("start", 31),
        ("side", "left"),
        ("expires_on", "soon"),
        ("rungs", []),
        ("rungs", None),
        ("unknown", 1),
    ],
)
def test_a_certificate_that_was_changed_is_refused(field: str, value: Any) -> None:
    content = made(drawn(300, 1), drawn(400, 2)).to_dict()
    with pytest.raises(HaltPipeline, match="certificate"):
        Certificate.from_dict({**content, field: value})


@pytest.mark.parametrize(("field", "value"), [("k", 0), ("n", 5), ("p", 0.0), ("k", 2.5), ("threshold", 0.0)])
def test_a_rung_that_was_changed_is_refused(field: str, value: Any) -> None:
    content = made(drawn(300, 1), drawn(400, 2)).to_dict()
    content["rungs"][20] = {**content["rungs"][20], field: value}
    with pytest.raises(HaltPipeline, match="changed after it was made"):
        Certificate.from_dict(content)


def test_a_certificate_without_a_field_is_refused() -> None:
    content = made(TUNE, separated(100)).to_dict()
    for field in content:
        with pytest.raises(HaltPipeline, match="certificate"):
            Certificate.from_dict({name: value for name, value in content.items() if name != field})


def test_the_sentence_of_a_certificate_names_counts_confidence_and_last_day() -> None:
    assert made(TUNE, separated(124, 2)).sentence() == (
        "With 95 % confidence at most 5 % of studies with the finding go to ROUTINE: 2 of 124 patients with the "
        "finding did in the certification test; this holds until 2027-01-01 while new studies resemble those tested."
    )


def test_the_sentence_without_a_certificate_names_the_limit_that_could_be_certified() -> None:
    assert made(TUNE, separated(10)).sentence() == (
        "Not certified: with 95 % confidence these 10 patients with the finding can certify a limit of 25.9 % for "
        "ROUTINE and not 5 % (5 % would need at least 59 such patients without a single miss), so no study goes to "
        "ROUTINE."
    )


def test_the_sentence_of_the_priority_side_speaks_of_studies_without_the_finding() -> None:
    text = made(TUNE, ([0.1] * 100 + [0.9] * 50, [False] * 100 + [True] * 50), side="priority").sentence()
    assert "of studies without the finding go to PRIORITY: 0 of 100 patients without the finding" in text
