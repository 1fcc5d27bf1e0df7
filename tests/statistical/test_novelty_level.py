"""The novelty level: familiar studies are called novel about as often as the level says, also with few held-out ones."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.domain.novelty import NoveltyReference

pytestmark = pytest.mark.statistical


def share_called_novel(held_out: int, level: float, shift: float = 0.0) -> float:
    generator = np.random.default_rng(held_out)
    called, studies = 0, 0
    for _ in range(40):
        fitted = NoveltyReference.fit(
            {"a": generator.normal(size=(300, 8)), "b": generator.standard_t(6, size=(300, 4))},
            {"a": generator.normal(size=(held_out, 8)), "b": generator.standard_t(6, size=(held_out, 4))},
        )
        for _ in range(100):
            study = {"a": generator.normal(size=(1, 8)) + shift, "b": generator.standard_t(6, size=(1, 4))}
            called += fitted.p_values(study, level).combined <= level
            studies += 1
    return called / studies


@pytest.mark.parametrize(("held_out", "level"), [(400, 0.05), (400, 0.02), (100, 0.05)])
def test_familiar_studies_are_called_novel_at_most_as_often_as_the_level_says(held_out: int, level: float) -> None:
    # 4000 studies: the standard error is at most 0.0035; ranks alone decide here, so that the bound is exact.
    assert share_called_novel(held_out, level) <= level + 3 * np.sqrt(level / 4000) * 2


def test_with_too_few_held_out_studies_for_ranks_alone_the_gate_still_works() -> None:
    # Two detectors and 40 studies: ranks could never go below 2 / 41 = 0.049.
    assert share_called_novel(40, 0.02) <= 0.05
    assert share_called_novel(40, 0.02, shift=3.0) > 0.9
