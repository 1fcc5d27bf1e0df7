"""Novelty detectors: each turns the features of a part into how far it lies from those the release was fitted on.

Mahalanobis: the distance to the nearest class mean under one covariance with Ledoit-Wolf shrinkage (Lee et al. 2018,
arXiv:1807.03888). Direction: the same for features of unit length (Mueller and Hein 2025, Mahalanobis++). They err
differently, so that both are kept. Neighbours: the distance to the k-th nearest fitted part of unit length (Sun et al.
2022, arXiv:2204.06507). Value: the feature itself, where larger is stranger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import LedoitWolf

from pipeline.domain.case import Reason
from pipeline.errors import DeferCase, HaltPipeline

Floats = NDArray[np.float64]

FEWEST = 3  # fitted and held-out rows that a detector needs
NEIGHBOUR = 10
MOST_NEIGHBOURS = 2000  # fitted rows that are kept; more are thinned evenly
_TAIL_SHARE = 0.1  # of held-out distances that shape the tail
_SMALLEST_LENGTH = 1e-12


class Kind(StrEnum):
    """How a detector measures distance."""

    MAHALANOBIS = "mahalanobis"  #: To the nearest class mean, under one covariance.
    DIRECTION = "direction"  #: The same, of features of unit length.
    NEIGHBOURS = "neighbours"  #: To the tenth nearest fitted part of unit length.
    VALUE = "value"  #: The one feature itself.


@dataclass(frozen=True, eq=False)
class Detector:
    """One distance with the rising `held_out` distances (n,) it is ranked among.

    `centres` are class means (K, F) or fitted rows (R, F); `precision` (F, F) is empty where no covariance is used.
    """

    centres: Floats
    precision: Floats
    held_out: Floats
    kind: Kind = field(default=Kind.MAHALANOBIS)

    def distances(self, features: ArrayLike) -> Floats:
        """Distance (P,) of every row of features (P, F); raises DeferCase when they do not fit the detector."""
        rows = np.asarray(features, dtype=np.float64)
        if (
            rows.ndim != 2
            or rows.shape[0] == 0
            or rows.shape[1] != self.centres.shape[1]
            or not np.isfinite(rows).all()
        ):
            raise DeferCase(Reason.UNCERTAINTY_INVALID, "novelty features are missing or not finite")
        return _distances(self.kind, rows, self.centres, self.precision)

    def p_value(self, distance: float) -> float:
        """Share of familiar studies at least as far away as `distance`."""
        return ranked_p_value(self.held_out, distance)


def ranked_p_value(held_out: Floats, value: float) -> float:
    """(1 + those of `held_out` (n,), rising, at least as large) / (n + 1), falling on exponentially beyond the largest.

    A rank alone cannot fall below 1 / (n + 1), so that with few held-out cases no distance however large would count; the
    tail has the mean excess of the farthest tenth.
    """
    n = len(held_out)
    if value <= held_out[-1]:
        return float(1 + n - np.searchsorted(held_out, value, side="left")) / (n + 1)
    tail = max(FEWEST - 1, math.ceil(_TAIL_SHARE * n))
    scale = float(held_out[-tail:].mean() - held_out[-tail - 1])
    return math.exp(-(value - float(held_out[-1])) / scale) / (n + 1) if scale > 0 else 0.0


def fit_detector(name: str, kind: Kind, train: ArrayLike, labels: ArrayLike | None) -> Detector:
    """A detector without held-out distances from training rows (N, F), and their classes (N,) where known.

    Raises HaltPipeline when the features cannot carry one.
    """
    rows = np.asarray(train, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < FEWEST or not np.isfinite(rows).all():
        raise HaltPipeline(f"novelty: detector {name} needs finite (N, F) features of at least {FEWEST} cases each")
    if not rows.std(axis=0).any():
        raise HaltPipeline(f"novelty: the features of detector {name} do not vary; check the images")
    nothing = np.empty((0, 0))
    if kind is Kind.VALUE:
        return Detector(rows[:1, :1], nothing, np.empty(0), kind)
    if kind is Kind.NEIGHBOURS:
        return Detector(_thinned(_unit(rows)), nothing, np.empty(0), kind)
    used = _unit(rows) if kind is Kind.DIRECTION else rows
    groups = np.zeros(len(rows), dtype=np.int_) if labels is None else np.unique(labels, return_inverse=True)[1]
    means = np.stack([used[groups == g].mean(axis=0) for g in range(int(groups.max()) + 1)])
    fitted = LedoitWolf(assume_centered=True).fit(used - means[groups])
    return Detector(means, np.asarray(fitted.precision_, dtype=np.float64), np.empty(0), kind)


def restored(name: str, arrays: Mapping[str, Floats]) -> Detector:
    """The detector `name` kept in `arrays` as NAME.centres, .precision and .held_out; raises HaltPipeline when malformed."""
    kind = kind_of(name)
    centres, precision, held_out = (
        np.asarray(arrays[f"{name}.{part}"], dtype=np.float64) for part in ("centres", "precision", "held_out")
    )
    width = centres.shape[1] if centres.ndim == 2 else -1
    covariance = kind in {Kind.MAHALANOBIS, Kind.DIRECTION}
    shaped = len(centres) >= 1 and precision.shape == ((width, width) if covariance else (0, 0)) and held_out.ndim == 1
    finite = all(np.isfinite(a).all() for a in (centres, precision, held_out))
    if not (shaped and finite and len(held_out) >= FEWEST and (np.diff(held_out) >= 0).all()):
        raise HaltPipeline(f"novelty reference: detector {name} is malformed; train the release again")
    return Detector(centres, precision, held_out, kind)


def kind_of(name: str) -> Kind:
    """The kind that the last word of a detector's name says, Mahalanobis where it says none."""
    last = name.rpartition(".")[2]
    return Kind(last) if last in set(Kind) else Kind.MAHALANOBIS


def _distances(kind: Kind, rows: Floats, centres: Floats, precision: Floats) -> Floats:
    if kind is Kind.VALUE:
        return np.asarray(rows[:, 0])
    if kind is Kind.NEIGHBOURS:
        return _to_neighbour(_unit(rows), centres)
    used = _unit(rows) if kind is Kind.DIRECTION else rows
    squared = [(((used - mean) @ precision) * (used - mean)).sum(axis=1) for mean in centres]
    return np.asarray(np.sqrt(np.maximum(np.min(squared, axis=0), 0.0)))


def _to_neighbour(rows: Floats, centres: Floats) -> Floats:
    squared = np.maximum(2.0 - 2.0 * rows @ centres.T, 0.0)  # both of unit length
    place = min(NEIGHBOUR, len(centres)) - 1
    return np.asarray(np.sqrt(np.partition(squared, place, axis=1)[:, place]))


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST_LENGTH))


def _thinned(rows: Floats) -> Floats:
    step = max(1, math.ceil(len(rows) / MOST_NEIGHBOURS))
    return np.ascontiguousarray(rows[::step])
