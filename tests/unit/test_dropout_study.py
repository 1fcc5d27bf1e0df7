from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks.dropout_study import PASSES, SETTINGS, SPLITS, _pooled, _quality, draw, one_network

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def samples(members: int, passes: int, *, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Six images answered with 0.8 for their class, the first `wrong` ones with 0.6 for the next class."""
    p = np.full((6, 3), 0.1)
    p[np.arange(6), LABELS] = 0.8
    p[:wrong] = 0.2
    p[np.arange(wrong), (LABELS[:wrong] + 1) % 3] = 0.6
    one = np.log(p)
    return np.tile(one, (members, 1, 1)), np.tile(one, (members, passes, 1, 1))


def row(augrc: float, *, members: int = 1, passes: int = 0, placement: str = "head", rate: float = 0.1) -> dict:
    return {"placement": placement, "rate": rate, "members": members, "passes": passes, "cost": 1.0 + passes} | {
        split: {"augrc": augrc} for split in SPLITS
    }


def test_pooling_takes_the_first_members_and_passes_and_averages_probabilities() -> None:
    certain = np.log(np.array([[[0.5, 0.5]], [[0.9, 0.1]]]))
    drawn = np.log(np.array([[[[0.2, 0.8]], [[0.4, 0.6]]], [[[0.6, 0.4]], [[0.8, 0.2]]]]))
    assert np.exp(_pooled((certain, drawn), 2, 0)) == pytest.approx(np.array([[0.7, 0.3]]))
    assert np.exp(_pooled((certain, drawn), 2, 1)) == pytest.approx(np.array([[0.4, 0.6]]))
    assert np.exp(_pooled((certain, drawn), 1, 2)) == pytest.approx(np.array([[0.3, 0.7]]))


def test_quality_counts_the_failures_of_the_split_it_judges() -> None:
    found = {"tune": samples(2, 3, wrong=2), "test": samples(2, 3, wrong=1)}
    data = {split: (torch.zeros(6, 1), LABELS) for split in SPLITS}
    tune, test = (_quality(found, data, split, 2, 3) for split in SPLITS)
    assert tune is not None
    assert test is not None
    assert tune["accuracy"] == pytest.approx(4 / 6)
    assert test["accuracy"] == pytest.approx(5 / 6)
    assert test["auroc_failure"] == 1.0
    # the one failure is accepted last: generalised risk is 0 up to 5/6 and rises to 1/6 at 1
    assert test["augrc"] == pytest.approx(0.5 * (1 / 6) * (1 / 6))


def test_answers_too_bad_to_be_calibrated_are_left_out() -> None:
    found = {split: samples(1, 1, wrong=6) for split in SPLITS}
    data = {split: (torch.zeros(6, 1), LABELS) for split in SPLITS}
    assert _quality(found, data, "test", 1, 1) is None


def test_the_single_network_of_the_picture_is_not_moved_by_one_spoilt_setting() -> None:
    spoilt = [row(0.03), row(0.04, rate=0.3), row(0.9, placement="every_block"), row(0.001, members=2)]
    assert one_network(spoilt, "test") == 0.04


def test_the_picture_is_drawn_also_where_settings_are_missing(tmp_path: Path) -> None:
    placement, rate = SETTINGS[2]
    rows = [row(0.03, members=m, passes=t, placement=placement, rate=rate) for m in (1, 2) for t in (0, *PASSES)]
    draw(rows, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
