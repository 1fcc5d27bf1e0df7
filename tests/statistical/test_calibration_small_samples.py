"""What a perfectly calibrated model shows by chance: why no calibration error is printed without its null.

Confidences are uniform from one half to one. Reference figures for 150, 600 and 5000 cases: an equal-width error of 0.074,
0.037 and 0.013, a sweep error of 0.041, 0.024 and 0.011, a debiased squared error of zero. Means over the draws have a
standard error below 0.003 for 150 cases; the tolerances below are at least three of them (false failure under 1 in 100 together).
"""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.domain.calibration_error import Binning, calibration_error, debiased_squared_error, sweep_error

pytestmark = pytest.mark.statistical


@pytest.mark.parametrize(
    ("cases", "draws", "width", "sweep", "tolerance"),
    [(150, 200, 0.074, 0.041, 0.010), (600, 100, 0.037, 0.024, 0.006), (5000, 20, 0.013, 0.011, 0.004)],
)
def test_errors_of_a_calibrated_model(cases: int, draws: int, width: float, sweep: float, tolerance: float) -> None:
    generator = np.random.default_rng(0)
    found = np.empty((draws, 3))
    for draw in range(draws):
        p = 0.5 + 0.5 * generator.random(cases)
        y = generator.random(cases) < p
        found[draw] = (
            calibration_error(p, y, binning=Binning.EQUAL_WIDTH),
            sweep_error(p, y),
            debiased_squared_error(p, y),
        )
    means, errors = found.mean(axis=0), found.std(axis=0) / np.sqrt(draws)
    assert means[0] == pytest.approx(width, abs=tolerance)
    assert means[1] == pytest.approx(sweep, abs=tolerance)
    assert abs(means[2]) <= 4 * errors[2]
    assert means[0] > 3 * errors[0]  # the uncorrected error is far from zero though the model is right
