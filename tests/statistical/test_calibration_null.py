"""How large calibration errors are by chance: published for a perfectly calibrated model, mean over samples.

The size depends on how confident the model is; Beta(0.4, 0.4) has the spread of the published one at every n.
"""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.domain.calibration import calibration_error, debiased_squared_error, ece_null

pytestmark = pytest.mark.statistical


@pytest.mark.parametrize(("n", "published"), [(150, 0.074), (600, 0.037), (5000, 0.013)])
def test_a_perfectly_calibrated_model_shows_the_published_error_by_chance(n: int, published: float) -> None:
    generator = np.random.default_rng(0)
    errors, squares = [], []
    for _ in range(200):
        p = generator.beta(0.4, 0.4, size=n)
        y = (generator.random(n) < p).astype(float)
        errors.append(calibration_error(p, y))
        squares.append(debiased_squared_error(p, y))
    assert np.mean(errors) == pytest.approx(published, rel=0.06)
    assert abs(np.mean(squares)) < 4 * np.std(squares) / np.sqrt(200)


def test_the_null_distribution_covers_honest_samples_at_its_level() -> None:
    generator = np.random.default_rng(1)
    p = generator.dirichlet([1.0, 1.0, 1.0], size=300)
    limit = np.quantile(ece_null(p, seed=2, draws=2000), 0.95)
    confidence = p.max(axis=1)
    honest = [calibration_error(confidence, (generator.random(300) < confidence).astype(float)) for _ in range(500)]
    assert np.mean(np.array(honest) > limit) == pytest.approx(0.05, abs=0.04)
