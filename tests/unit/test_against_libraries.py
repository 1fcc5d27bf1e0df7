"""Our numbers beside those of libraries that define the same ones, and where theirs differ, by how much and why."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from mapie.metrics.calibration import top_label_ece
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from pipeline.domain.brier import brier_decomposition
from pipeline.domain.calibration import brier, ece, nll, top_label
from pipeline.domain.calibration_error import Binning, calibration_error, reliability_bins
from pipeline.domain.selective import augrc, aurc
from pipeline.domain.uncertainty import PosteriorSamples, decompose
from tests.peer_library import peer_metrics

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries themselves


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    return peer_metrics()


def answers(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    logits = generator.normal(0, 2, (n, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(3, p=row) for row in p**0.7 / (p**0.7).sum(axis=1, keepdims=True)])
    return p, labels


def test_nll_and_brier_are_scikit_learns_and_torch_uncertaintys(peer: ModuleType) -> None:
    p, labels = answers()
    assert nll(np.log(p), labels) == pytest.approx(log_loss(labels, p))
    metric = peer.BrierScore(num_classes=3)
    metric.update(torch.tensor(p), torch.tensor(labels))
    assert brier(p, labels) == pytest.approx(float(metric.compute()), rel=1e-5)
    binary = p[:, 1]
    assert brier_decomposition(binary, labels == 1).brier == pytest.approx(brier_score_loss(labels == 1, binary))


def test_equal_width_ece_is_torch_uncertaintys(peer: ModuleType) -> None:
    p, labels = answers()
    metric = peer.CalibrationError(task="multiclass", num_classes=3, num_bins=15, norm="l1")
    metric.update(torch.tensor(p), torch.tensor(labels))
    assert ece(p, labels, binning=Binning.EQUAL_WIDTH) == pytest.approx(float(metric.compute()), abs=1e-6)


def test_equal_mass_bins_are_scikit_learns_quantile_bins() -> None:
    confidence, right = top_label(*answers())
    observed, predicted = calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    bins = reliability_bins(confidence, right)
    assert [b.confidence for b in bins] == pytest.approx(predicted, abs=0.01)
    assert [b.frequency for b in bins] == pytest.approx(observed, abs=0.06)  # a case at a cut may fall either way


def test_mapies_top_label_error_is_a_mean_over_classes_and_ours_over_cases() -> None:
    """MAPIE averages the error of each predicted class, whatever its share: another number, near but not ours."""
    p, labels = answers()
    theirs = top_label_ece(labels, p.max(axis=1), y_score_arg=p.argmax(axis=1), num_bins=15)
    confidence, right = top_label(p, labels)
    chosen = p.argmax(axis=1)
    each = [
        calibration_error(confidence[chosen == c], right[chosen == c], binning=Binning.EQUAL_WIDTH) for c in range(3)
    ]
    assert theirs == pytest.approx(np.mean(each), abs=0.02)


def test_mutual_information_is_torch_uncertaintys_where_it_is_not_small(peer: ModuleType) -> None:
    generator = np.random.default_rng(0)
    p = generator.dirichlet([1, 1, 1], size=(40, 12))  # cases, estimators, classes
    metric = peer.MutualInformation(reduction="none")
    metric.update(torch.tensor(p))
    found = decompose(PosteriorSamples(np.log(p).transpose(1, 0, 2)[:, None]))
    np.testing.assert_allclose(found.mi_member, metric.compute().numpy(), rtol=1e-5)


def test_small_mutual_information_keeps_its_digits_where_a_difference_of_entropies_loses_them() -> None:
    base = np.array([0.2, 0.3, 0.5])
    step = 1e-6 * np.array([1.0, -2.0, 1.0])
    p = np.stack([base + step, base - step])
    found = float(decompose(PosteriorSamples(np.log(p)[:, None, None])).mi_member[0])
    expected = float((step**2 / (2 * base)).sum())  # second order, the next term is 1e-12 smaller
    assert found == pytest.approx(expected, rel=1e-5)
    single = p.astype(np.float32)
    mean = single.mean(axis=0)
    naive = float(-(mean * np.log(mean)).sum() + (single * np.log(single)).sum(axis=1).mean())
    assert abs(naive - expected) > 0.5 * expected


def test_aurc_and_augrc_are_torch_uncertaintys_but_for_its_first_step_and_its_scale(peer: ModuleType) -> None:
    """It integrates from the first case to the last and divides by 1 - 1/n; ours starts at coverage zero, and takes the
    expectation over ties. Without ties the two differ by exactly that.
    """
    p, labels = answers()
    failures = (p.argmax(axis=1) != labels).astype(float)
    confidence, n = p.max(axis=1), len(labels)
    first = failures[confidence.argmax()]
    for name, ours in (("AUGRC", augrc(failures, confidence)), ("AURC", aurc(failures, confidence))):
        metric = getattr(peer, name)()
        metric.update(torch.tensor(p), torch.tensor(labels))
        theirs = float(metric.compute()) * (1 - 1 / n)
        order = np.argsort(-confidence)
        risk = np.cumsum(failures[order]) / (np.arange(1, n + 1) if name == "AURC" else n)
        assert theirs == pytest.approx(float(np.trapezoid(risk, dx=1 / n)), abs=1e-6)
        missing = first / n / (2 * n) if name == "AUGRC" else (risk[0] + risk[-1]) / (2 * n)
        assert ours == pytest.approx(theirs + missing, abs=1e-6)
