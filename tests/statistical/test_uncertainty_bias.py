"""The bias of few passes and its correction, against simulated ensembles whose information is known.

Each member's pass is the softmax of a common logit (3 classes) plus a member's and a pass's Gaussian deviation. The truth
comes from passes almost without number (20 000).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from pipeline.domain.uncertainty import PosteriorSamples, decompose

pytestmark = pytest.mark.statistical

REPLICATIONS = 4000
MANY = 20_000


def ensemble(seed: int, members: int, between: float) -> np.ndarray:
    """Member logits (M, 3)."""
    generator = np.random.default_rng(seed)
    return np.array([1.0, 0.0, -0.5]) + between * generator.normal(size=(members, 3))


def draw(centre: np.ndarray, passes: int, cases: int, within: float, seed: int) -> PosteriorSamples:
    noise = np.random.default_rng(seed).normal(size=(len(centre), passes, cases, 3))
    return PosteriorSamples(log_softmax(centre[:, None, None] + within * noise, axis=-1))


@pytest.mark.parametrize(
    ("members", "passes", "between", "within"),
    [(5, 5, 0.5, 0.5), (5, 10, 0.3, 0.8), (5, 4, 0.2, 1.0), (3, 20, 0.5, 0.8), (4, 2, 0.3, 0.5)],
)
def test_the_correction_removes_most_of_the_bias(members: int, passes: int, between: float, within: float) -> None:
    centre = ensemble(1, members, between)
    truth = decompose(draw(centre, MANY, 1, within, 2))
    found = decompose(draw(centre, passes, REPLICATIONS, within, 3))
    for exact, plug_in, corrected in (
        (truth.mi_dropout[0], found.mi_dropout, found.mi_dropout_corrected),
        (truth.mi_member[0], found.mi_member, found.mi_member_corrected),
        (
            truth.mi_dropout[0] + truth.mi_member[0],
            found.mi_dropout + found.mi_member,
            found.mutual_information,
        ),
    ):
        left, raw = corrected.mean() - exact, plug_in.mean() - exact
        chance = 4 * corrected.std() / np.sqrt(REPLICATIONS) + 2e-4
        assert abs(left) <= 0.35 * abs(raw) + chance


def test_with_four_passes_the_plug_in_member_part_is_many_times_too_large() -> None:
    # Published: truth 0.0012, plug-in 0.0439, corrected 0.0025.
    centre = ensemble(3, 5, 0.06)
    truth = decompose(draw(centre, MANY, 1, 1.0, 10)).mi_member_corrected[0]
    found = decompose(draw(centre, 4, REPLICATIONS, 1.0, 11))
    assert truth == pytest.approx(0.0012, abs=0.0006)
    assert found.mi_member.mean() == pytest.approx(0.0439, abs=0.005)
    assert found.mi_member.mean() > 20 * truth
    assert found.mi_member_corrected.mean() == pytest.approx(truth, abs=0.0015)


def test_one_member_with_ten_passes_reproduces_the_published_row() -> None:
    # Published: truth 0.14179, plug-in 0.12741, corrected 0.14156.
    centre = ensemble(1, 1, 0.0)
    found = decompose(draw(centre, 10, 4 * REPLICATIONS, 0.8, 6))
    assert decompose(draw(centre, MANY, 1, 0.8, 5)).mi_dropout[0] == pytest.approx(0.14179, abs=0.002)
    assert found.mi_dropout.mean() == pytest.approx(0.12741, abs=0.0015)
    assert found.mi_dropout_corrected.mean() == pytest.approx(0.14156, abs=0.0015)


def test_corrected_information_may_be_compared_between_numbers_of_passes() -> None:
    centre = ensemble(7, 5, 0.4)
    few = decompose(draw(centre, 4, REPLICATIONS, 0.7, 8))
    many = decompose(draw(centre, 40, REPLICATIONS, 0.7, 9))
    assert abs(few.mi_member.mean() / many.mi_member.mean() - 1) > 0.15
    assert few.mi_member_corrected.mean() == pytest.approx(many.mi_member_corrected.mean(), rel=0.06)
    assert few.mutual_information.mean() == pytest.approx(many.mutual_information.mean(), rel=0.03)
