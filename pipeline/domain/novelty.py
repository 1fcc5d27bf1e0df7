"""Novelty: whether the images look like those the release was fitted on, as calibrated p-values without any novel data.

Each detector is a shrinkage Mahalanobis distance on one kind of features (an intensity histogram, a depth of the network).
A study's distance, the median over its parts, is ranked among held-out familiar ones: p = (1 + those at least as far) /
(n + 1), which is valid for any distribution. Such a p-value cannot fall below 1 / (n + 1), so that with few held-out cases
no distance however large would count; beyond the farthest held-out distance the p-value therefore goes on falling along an
exponential tail with the mean excess of the farthest tenth. The detectors are combined by the smallest p-value times
their number (valid under any dependence).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import LedoitWolf

from pipeline.domain.case import Reason
from pipeline.domain.evidence import NoveltySummary
from pipeline.errors import DeferCase, HaltPipeline

Floats = NDArray[np.float64]

HISTOGRAM_BINS = 32
HISTOGRAM_PERCENTILES = (1.0, 99.0)
_TAIL_SHARE = 0.1  # of held-out distances that shape the tail
_FEWEST = 3  # training and held-out rows that a detector needs


@dataclass(frozen=True, eq=False)
class Detector:
    """One Mahalanobis distance: `mean` (F,), `precision` (F, F) and the rising `held_out` distances (n,)."""

    mean: Floats
    precision: Floats
    held_out: Floats

    def distances(self, features: ArrayLike) -> Floats:
        """Distance (P,) of every row of features (P, F); raises DeferCase when they do not fit the detector."""
        rows = np.asarray(features, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] != len(self.mean) or not np.isfinite(rows).all():
            raise DeferCase(Reason.UNCERTAINTY_INVALID, "novelty features are missing or not finite")
        return _mahalanobis(rows, self.mean, self.precision)

    def p_value(self, distance: float) -> float:
        """Share of familiar studies at least as far away as `distance`."""
        n = len(self.held_out)
        if distance <= self.held_out[-1]:
            return float(1 + n - np.searchsorted(self.held_out, distance, side="left")) / (n + 1)
        excess = distance - float(self.held_out[-1])
        scale = self._tail_scale()
        return math.exp(-excess / scale) / (n + 1) if scale > 0 else 0.0

    def _tail_scale(self) -> float:
        tail = max(_FEWEST - 1, math.ceil(_TAIL_SHARE * len(self.held_out)))
        return float(self.held_out[-tail:].mean() - self.held_out[-tail - 1])


@dataclass(frozen=True, eq=False)
class NoveltyReference:
    """The detectors of a release by name; plain arrays all through."""

    detectors: Mapping[str, Detector]

    @classmethod
    def fit(
        cls,
        train: Mapping[str, ArrayLike],
        held_out: Mapping[str, ArrayLike],
        *,
        held_out_cases: Sequence[str] | None = None,
    ) -> NoveltyReference:
        """Detectors from features (N, F) of training parts, calibrated on held-out ones of other patients.

        With `held_out_cases`, naming the case of every held-out row, medians over each case's parts are held instead of
        single parts. Raises HaltPipeline when the features cannot carry a detector.
        """
        if not train or set(train) != set(held_out):
            raise HaltPipeline("novelty: training and held-out features must have the same, at least one, detectors")
        fitted = {name: _fit(name, train[name], held_out[name], held_out_cases) for name in sorted(train)}
        return cls(fitted)

    def p_values(self, features: Mapping[str, ArrayLike], level: float | None = None) -> NoveltySummary:
        """p-values of one study from its parts' features (P, F) per detector.

        With `level`, `fired` names the detectors that alone call the study novel at it. Raises DeferCase when a detector
        has no usable features.
        """
        if set(features) != set(self.detectors):
            raise DeferCase(Reason.UNCERTAINTY_INVALID, "novelty features are not those of the release's detectors")
        found = [
            (name, detector.p_value(float(np.median(detector.distances(features[name])))))
            for name, detector in self.detectors.items()
        ]
        combined = min(1.0, len(found) * min(p for _, p in found))
        fired = tuple(name for name, p in found if level is not None and not len(found) * p > level)
        return NoveltySummary(p_values=tuple(found), combined=combined, fired=fired)

    def to_arrays(self) -> dict[str, Floats]:
        """Float64 arrays named DETECTOR.mean, .precision and .held_out; the inverse of `from_arrays`."""
        return {
            f"{name}.{part}": np.ascontiguousarray(getattr(detector, part))
            for name, detector in self.detectors.items()
            for part in ("mean", "precision", "held_out")
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats]) -> NoveltyReference:
        """The reference kept in `arrays`; raises HaltPipeline when they do not form one."""
        names = sorted({key.rpartition(".")[0] for key in arrays})
        wanted = {f"{name}.{part}" for name in names for part in ("mean", "precision", "held_out")}
        if not names or wanted != set(arrays):
            raise HaltPipeline("novelty reference: arrays are missing or unknown; train the release again")
        return cls({name: _restored(name, arrays) for name in names})


def intensity_histogram(voxels: ArrayLike) -> Floats:
    """Square roots of the shares (32,) of voxels between their own 1st and 99th percentile; the rest in the end bins.

    Free of the unit and offset of intensities, which mean nothing in MR; an image without contrast falls into one bin.
    """
    values = np.asarray(voxels, dtype=np.float64).ravel()
    low, high = np.percentile(values, HISTOGRAM_PERCENTILES)
    span = high - low
    scaled = (values - low) / span if span > 0 else np.zeros_like(values)
    places = np.clip((scaled * HISTOGRAM_BINS).astype(np.int64), 0, HISTOGRAM_BINS - 1)
    return np.asarray(np.sqrt(np.bincount(places, minlength=HISTOGRAM_BINS) / len(values)))


def _fit(name: str, train: ArrayLike, held_out: ArrayLike, cases: Sequence[str] | None) -> Detector:
    rows, held = np.asarray(train, dtype=np.float64), np.asarray(held_out, dtype=np.float64)
    usable = rows.ndim == held.ndim == 2 and rows.shape[1:] == held.shape[1:] and min(len(rows), len(held)) >= _FEWEST
    if not usable or not (np.isfinite(rows).all() and np.isfinite(held).all()):
        raise HaltPipeline(f"novelty: detector {name} needs finite (N, F) features of at least {_FEWEST} cases each")
    if not rows.std(axis=0).any():
        raise HaltPipeline(f"novelty: the features of detector {name} do not vary; check the images")
    fitted = LedoitWolf().fit(rows)
    mean = np.asarray(fitted.location_, dtype=np.float64)
    precision = np.asarray(fitted.precision_, dtype=np.float64)
    distances = _mahalanobis(held, mean, precision)
    if cases is not None:
        distances = _medians(distances, cases)
    if len(distances) < _FEWEST:
        raise HaltPipeline(f"novelty: detector {name} needs at least {_FEWEST} held-out cases")
    return Detector(mean, precision, np.sort(distances))


def _medians(distances: Floats, cases: Sequence[str]) -> Floats:
    _, group = np.unique(np.asarray(cases), return_inverse=True)
    return np.array([np.median(distances[group == g]) for g in range(group.max() + 1)])


def _mahalanobis(rows: Floats, mean: Floats, precision: Floats) -> Floats:
    centred = rows - mean
    return np.asarray(np.sqrt(np.maximum(((centred @ precision) * centred).sum(axis=1), 0.0)))


def _restored(name: str, arrays: Mapping[str, Floats]) -> Detector:
    mean, precision, held_out = (
        np.asarray(arrays[f"{name}.{part}"], dtype=np.float64) for part in ("mean", "precision", "held_out")
    )
    shaped = mean.ndim == 1 and precision.shape == (len(mean), len(mean)) and held_out.ndim == 1
    finite = all(np.isfinite(a).all() for a in (mean, precision, held_out))
    if not (shaped and finite and len(held_out) >= _FEWEST and (np.diff(held_out) >= 0).all()):
        raise HaltPipeline(f"novelty reference: detector {name} is malformed; train the release again")
    return Detector(mean, precision, held_out)
