"""Known digits 0 to 7 against what is foreign to them: which detector sees what, and that together they see it all.

Features are those of a small network trained here for a moment. The simple histogram sees every change of intensity and is blind
to turning; the network's depths see the turning. Nothing foreign is used for fitting.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from pipeline.domain.image_statistics import intensity_histogram, pixel_statistics
from pipeline.domain.novelty import NoveltyReference
from pipeline.domain.selective import auroc

pytestmark = pytest.mark.statistical

LEVEL = 0.05


@cache
def known() -> tuple[dict[str, np.ndarray], np.ndarray]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, labels = digits.images[order] / 16.0, digits.target[order]
    kept = images[labels < 8]
    splits = {"train": kept[:700], "held": kept[700:1000], "test": kept[1000:1400]}
    return splits | {"near": images[labels >= 8]}, labels[labels < 8][:700]


@cache
def network() -> MLPClassifier:
    images, labels = known()
    return MLPClassifier((64, 32), max_iter=60, random_state=0, early_stopping=True).fit(
        images["train"].reshape(-1, 64), labels
    )


def features(images: np.ndarray) -> dict[str, np.ndarray]:
    flat, fitted = images.reshape(len(images), -1), network()
    first = np.maximum(flat @ fitted.coefs_[0] + fitted.intercepts_[0], 0)
    second = np.maximum(first @ fitted.coefs_[1] + fitted.intercepts_[1], 0)
    p = np.clip(fitted.predict_proba(flat), 1e-12, 1)
    return {
        "histogram": np.stack([intensity_histogram(image) for image in images]),
        "pixels": np.stack([pixel_statistics(image) for image in images]),
        "shallow": first,
        "penultimate": second,
        "penultimate.direction": second,
        "penultimate.neighbours": second,
        "entropy.value": -(p * np.log(p)).sum(axis=1, keepdims=True),
    }


@cache
def reference() -> NoveltyReference:
    images, labels = known()
    train = features(images["train"])
    del train["entropy.value"]
    return NoveltyReference.fit(train, features(images["held"]), train_labels=labels)


def foreign(kind: str) -> np.ndarray:
    images, _ = known()
    test, generator = images["test"], np.random.default_rng(1)
    return {
        "near": images["near"],
        "inverted": 1.0 - test,
        "noise": np.clip(test + generator.normal(0, 0.4, test.shape), 0, 1),
        "turned": np.rot90(test, axes=(1, 2)),
        "random": generator.random(test.shape),
    }[kind]


def p_values(images: np.ndarray, name: str | None = None) -> np.ndarray:
    found = features(images)
    rows = [{key: rows[[i]] for key, rows in found.items()} for i in range(len(images))]
    judged = [reference().p_values(row) for row in rows]
    return np.array([one.combined if name is None else dict(one.p_values)[name] for one in judged])


def told_apart(kind: str, name: str | None = None) -> float:
    test, other = p_values(known()[0]["test"], name), p_values(foreign(kind), name)
    return auroc(np.repeat([False, True], [len(test), len(other)]), -np.concatenate([test, other]))


def test_familiar_digits_are_called_novel_about_as_often_as_the_level_says() -> None:
    """Two groups of finite size: 300 held out, 400 judged; the false-failure rate is below 1 in 1000."""
    called = int((p_values(known()[0]["test"]) <= LEVEL).sum())
    assert called <= binom.ppf(0.9995, 400, binom.ppf(0.9995, 300, LEVEL) / 300)


@pytest.mark.parametrize(("kind", "least"), [("inverted", 0.95), ("noise", 0.95), ("random", 0.95), ("turned", 0.9)])
def test_together_the_detectors_see_what_is_far(kind: str, least: float) -> None:
    assert told_apart(kind) >= least


def test_the_histogram_sees_intensity_and_is_blind_to_turning() -> None:
    assert told_apart("inverted", "histogram") > 0.95
    assert told_apart("noise", "histogram") > 0.95
    assert told_apart("turned", "histogram") == pytest.approx(0.5, abs=0.01)


def test_the_networks_depths_see_the_turning() -> None:
    assert told_apart("turned", "shallow") > 0.9


def test_unknown_digits_are_nearer_and_seen_less() -> None:
    assert 0.6 < told_apart("near") < told_apart("random")
