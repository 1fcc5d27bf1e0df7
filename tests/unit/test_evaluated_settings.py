"""An evaluation judges what the release says under its own protocol's sampling, aggregation and calibration."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import log_loss

from models.evaluate import evaluate
from models.fitting import fit_release
from models.predictions import predict, prediction_rows
from models.release import Release
from models.sampling import Ensemble
from models.systems import pooled_looks
from pipeline.protocol import Sampling, TriageProtocol
from tests.unit.test_fitting import images, members, protocol

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def fitted(folder: Path, *, calibration: str = "pooled", **network: object) -> Release:
    content = protocol().model_dump(mode="json")
    content |= {"calibration": calibration, "network": content["network"] | network}
    return fit_release(TriageProtocol.model_validate(content), members(), images(), folder=folder / "r", created_at=NOW)


@pytest.mark.parametrize("calibration", ["pooled", "shared"])
@pytest.mark.parametrize("sampling", ["off", "fixed", "adaptive"])
def test_the_report_judges_the_probabilities_that_the_rows_hold(
    tmp_path: Path, calibration: str, sampling: str
) -> None:
    release = fitted(tmp_path, calibration=calibration, sampling=sampling)
    found = evaluate(release, images(), split="certify", draws=10)
    names = release.protocol.class_names
    said = np.array([[row[f"p_{name}"] for name in names] for row in found.rows], dtype=float)
    labels = [names.index(str(row["label"])) for row in found.rows]
    assert found.report["nll"] == pytest.approx(log_loss(labels, said, labels=range(len(names))), rel=1e-9)


def test_a_shared_temperature_acts_once_inside_every_pass(tmp_path: Path) -> None:
    release = fitted(tmp_path, calibration="shared")
    one = predict(release, Ensemble.load(release), images()["certify"][:1])[0]
    inside = log_softmax(one.samples.log_probabilities[:, :, 0] / release.temperature, axis=-1)
    pooled = logsumexp(inside, axis=(0, 1)) - np.log(inside.shape[0] * inside.shape[1])
    assert one.uncertainty.probabilities == pytest.approx(np.exp(pooled))


@pytest.mark.parametrize("sampling", ["off", "adaptive"])
def test_the_dropout_baseline_makes_the_whole_budget_whatever_the_release_does(tmp_path: Path, sampling: str) -> None:
    release = fitted(tmp_path, sampling=sampling, passes=12)
    found = evaluate(release, {name: images()[name] for name in ("certify",)}, split="certify", draws=10)
    whole = pooled_looks(Ensemble.load(release), images()["certify"])
    log_p = whole.dropout  # without a tune split the baseline has no temperature
    expected = log_loss(whole.labels, np.exp(log_p), labels=range(log_p.shape[1]))
    assert found.report["baselines"]["dropout"]["nll"] == pytest.approx(expected, rel=1e-9)


def test_passes_asked_for_by_hand_are_counted_even_where_sampling_is_off(tmp_path: Path) -> None:
    release = fitted(tmp_path, sampling="off")
    ensemble = Ensemble.load(release)
    ensemble.passes, ensemble.sampling = 3, Sampling.FIXED
    row = prediction_rows(predict(release, ensemble, images()["certify"][:1]))[0]
    assert (row["passes"], row["budget"], row["stop"]) == (3, 3, "budget")
