"""The numbers that describe one system's answers; every number that has no cases to be computed from is None."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.systems import Answers
from pipeline.domain import calibration, selective
from pipeline.domain.referral import ReferralPoint, falls, referral_intervals

DRAWS = 1000
_CURVE_POINTS = 200  #: at most this many points of a risk-coverage curve are kept in a report

Index = NDArray[np.intp]


def measure(answers: Answers, *, seed: int) -> dict[str, Any]:
    """Every number of one system, under stable keys; NLL and entropies in nats, Brier from 0 to 2, ECE equal-mass."""
    null = calibration.ece_null(answers.p, seed=seed)
    numbers = {
        "n": len(answers.labels),
        "accuracy": 1.0 - answers.failures.mean(),
        "balanced_accuracy": balanced_accuracy(answers),
        "auc": selective.auroc(answers.positive, answers.score),
        "auc_macro": auc_macro(answers),
        "nll": calibration.nll(answers.log_p, answers.labels),
        "nll_floored": calibration.count_floored(answers.log_p, answers.labels),
        "brier": calibration.brier(answers.p, answers.labels),
        "ece": {"value": calibration.ece(answers.p, answers.labels), "null_95": float(np.quantile(null, 0.95))},
        "aurc": selective.aurc(answers.failures, answers.confidence),
        "augrc": selective.augrc(answers.failures, answers.confidence),
        "e_aurc": selective.e_aurc(answers.failures, answers.confidence),
        "auroc_failure": selective.failure_auroc(answers.failures, answers.confidence),
        "fpr95": selective.fpr95(answers.failures, answers.confidence),
        "aupr_error": selective.aupr_error(answers.failures, answers.confidence),
        "temperature": answers.temperature,
        "recall": recalls(answers),
        "referral": referral(answers),
    }
    return dict(defined(numbers))


def balanced_accuracy(answers: Answers, chosen: Index | None = None) -> float:
    """Mean over the classes present of the share called rightly."""
    labels, failures = _chosen(answers, chosen)
    return float(np.mean([1.0 - failures[labels == c].mean() for c in np.unique(labels)]))


def recalls(answers: Answers) -> dict[str, float]:
    """The share called rightly of each class that is present."""
    names = answers.protocol.class_names
    return {names[c]: 1.0 - float(answers.failures[answers.labels == c].mean()) for c in np.unique(answers.labels)}


def auc_macro(answers: Answers) -> float:
    """Mean over classes of the AUC of each against the rest; NaN when a class is absent."""
    aucs = [selective.auroc(answers.labels == c, answers.p[:, c]) for c in range(answers.p.shape[1])]
    return float(np.mean(aucs))


def referral(answers: Answers, patients: Sequence[str] | None = None, *, seed: int = 0) -> list[dict[str, Any]]:
    """The referral curve: the cases kept as the least confident are deferred, 0 to 90 %.

    With `patients`, every number has its interval under low_ and high_.
    """
    rows = [_point(point) for point in _curve(answers)]
    if patients is None:
        return rows
    found = _intervals_of_curve(answers, tuple(patients), seed)
    return [row | dict(defined(_ends(one))) for row, one in zip(rows, found, strict=True)]


def referral_falls(answers: Answers, patients: Sequence[str], *, seed: int = 0) -> list[float]:
    """Shares of deferral at which the accuracy of the kept surely falls: there the order misleads."""
    return list(falls(_curve(answers), _intervals_of_curve(answers, tuple(patients), seed)))


def _curve(answers: Answers) -> tuple[ReferralPoint, ...]:
    return selective.referral_curve(
        answers.score, answers.positive, answers.confidence, correct=answers.failures == 0.0
    )


@lru_cache(maxsize=1)
def _intervals_of_curve(
    answers: Answers, patients: tuple[str, ...], seed: int
) -> tuple[dict[str, tuple[float, float]], ...]:
    return referral_intervals(
        answers.score, answers.positive, answers.confidence, patients, correct=answers.failures == 0.0, seed=seed
    )


def _ends(intervals: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    return {f"{end}_{name}": ends[at] for name, ends in intervals.items() for at, end in enumerate(("low", "high"))}


def augrc_ratio(
    first: Answers, second: Answers, patients: Sequence[str], *, seed: int, draws: int = DRAWS
) -> dict[str, Any]:
    """AUGRC of `first` over that of `second`, with its interval over patients; undefined where `second` never fails."""
    ours, theirs = _statistics(first)["augrc"], _statistics(second)["augrc"]

    def ratio(i: Index) -> float:
        below = theirs(i)
        return ours(i) / below if below > 0.0 else float("nan")

    return _interval(selective.cluster_bootstrap(ratio, patients, seed=seed, draws=draws))


def without_order(answers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same answers where nothing orders them: deferred by lot, none deferred, all deferred."""
    lot = by_lot(answers)
    none = lot | {"referral": lot["referral"][:1], "auroc_failure": None}
    nothing = dict.fromkeys(lot) | {"n": answers["n"], "referral": []}
    return {"random": lot, "defer_none": none, "defer_all": nothing}


def by_lot(answers: dict[str, Any]) -> dict[str, Any]:
    """What the measures of a system become, in expectation, when deferral is by lot: nothing is gained by it."""
    error = 1.0 - answers["accuracy"]
    flat = [
        point | {"auc": answers["auc"], "accuracy": answers["accuracy"], "sensitivity": None, "specificity": None}
        for point in answers["referral"]
    ]
    return answers | {
        "aurc": error,
        "augrc": error / 2.0,
        "e_aurc": error - selective.oracle_aurc(error),
        "auroc_failure": 0.5,
        "fpr95": 0.95,
        "aupr_error": error,
        "referral": flat,
    }


def intervals(answers: Answers, patients: Sequence[str], *, seed: int, draws: int = DRAWS) -> dict[str, Any]:
    """95 % intervals of the main numbers, resampling whole patients."""
    return {
        name: _interval(selective.cluster_bootstrap(statistic, patients, seed=seed, draws=draws))
        for name, statistic in _statistics(answers).items()
    }


def differences(
    first: Answers, second: Answers, patients: Sequence[str], *, seed: int, draws: int = DRAWS
) -> dict[str, Any]:
    """95 % intervals of `first` less `second`, both on the same resampled patients."""
    ours, theirs = _statistics(first), _statistics(second)
    return {
        name: _interval(selective.paired_difference(ours[name], theirs[name], patients, seed=seed, draws=draws))
        for name in ours
    }


def curve(answers: Answers) -> dict[str, list[float]]:
    """The risk-coverage curve, thinned to what a picture can show."""
    found = selective.risk_coverage(answers.failures, answers.confidence)
    step = max(1, math.ceil(len(found.coverage) / _CURVE_POINTS))
    kept = np.unique(np.append(np.arange(0, len(found.coverage), step), len(found.coverage) - 1))
    return {"coverage": found.coverage[kept].tolist(), "risk": found.selective_risk[kept].tolist()}


def defined(value: Any) -> Any:
    """The same content with NumPy numbers as Python's and undefined ones as None, as JSON needs it."""
    if isinstance(value, dict):
        return {key: defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [defined(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _statistics(answers: Answers) -> dict[str, Callable[[Index], float]]:
    failures, confidence, labels = answers.failures, answers.confidence, answers.labels
    positive, score, log_p = answers.positive, answers.score, answers.log_p
    return {
        "accuracy": lambda i: 1.0 - float(failures[i].mean()),
        "balanced_accuracy": lambda i: balanced_accuracy(answers, i),
        "auc": lambda i: selective.auroc(positive[i], score[i]),
        "nll": lambda i: calibration.nll(log_p[i], labels[i]),
        "augrc": lambda i: selective.augrc(failures[i], confidence[i]),
        "aurc": lambda i: selective.aurc(failures[i], confidence[i]),
        "auroc_failure": lambda i: selective.failure_auroc(failures[i], confidence[i]),
    }


def _chosen(answers: Answers, chosen: Index | None) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    return (answers.labels, answers.failures) if chosen is None else (answers.labels[chosen], answers.failures[chosen])


def _point(point: ReferralPoint) -> dict[str, Any]:
    content = {name: getattr(point, name) for name in point.__dataclass_fields__}
    return dict(defined(content))


def _interval(found: selective.Interval) -> dict[str, Any]:
    return dict(defined({"estimate": found.estimate, "low": found.low, "high": found.high}))
