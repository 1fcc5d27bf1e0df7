"""Novelty: whether the images look like those the release was fitted on, as calibrated p-values without any novel data.

Several detectors look at several kinds of features. A study's distance, the median over its parts, is ranked among held-out
familiar ones, which gives a p-value whatever the distribution. The detectors are combined by the smallest p-value, ranked
in its turn among the smallest p-values of the held-out studies, each judged against the others (Westfall and Young
1993): detectors that agree then cost nothing, and one more detector costs only what it adds by chance. Nothing but
training and held-out familiar images is ever used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.case import Reason
from pipeline.domain.detectors import FEWEST, Detector, Kind, fit_detector, kind_of, ranked_p_value, restored
from pipeline.domain.evidence import NoveltySummary
from pipeline.domain.image_statistics import intensity_histogram, pixel_statistics
from pipeline.errors import DeferCase, HaltPipeline

__all__ = ["Detector", "Kind", "NoveltyReference", "intensity_histogram", "pixel_statistics"]

Floats = NDArray[np.float64]

_TOGETHER = "together"  # where the held-out strangeness is kept
_PARTS = ("centres", "precision", "held_out")


@dataclass(frozen=True, eq=False)
class NoveltyReference:
    """The detectors of a release by name, and the rising strangeness (n,) of the held-out studies under all of them.

    A detector's name is its features', followed by a dot and its kind where it is not a plain Mahalanobis distance.
    """

    detectors: Mapping[str, Detector]
    together: Floats

    @classmethod
    def fit(
        cls,
        train: Mapping[str, ArrayLike],
        held_out: Mapping[str, ArrayLike],
        *,
        held_out_cases: Sequence[str] | None = None,
        train_labels: ArrayLike | None = None,
    ) -> NoveltyReference:
        """Detectors from features (N, F) of training parts, calibrated on held-out ones of other patients.

        With `held_out_cases`, naming the case of every held-out row, medians over each case's parts are held instead of
        single parts; detectors of the kind value need no training rows; with `train_labels` (N,) distances are to the nearest class mean. Raises HaltPipeline when the
        features cannot carry a detector.
        """
        unfitted = {name for name in held_out if kind_of(name) is Kind.VALUE}
        if not held_out or set(train) | unfitted != set(held_out):
            raise HaltPipeline("novelty: training and held-out features must have the same, at least one, detectors")
        fitted = {name: _fitted(name, train, held_out, train_labels) for name in sorted(held_out)}
        distances = {name: _held(name, one, held_out[name], held_out_cases) for name, one in fitted.items()}
        if len({len(found) for found in distances.values()}) != 1:
            raise HaltPipeline(
                "novelty: detectors have different numbers of held-out cases; describe every part with all"
            )
        ranked = {name: replace(one, held_out=np.sort(distances[name])) for name, one in fitted.items()}
        return cls(ranked, np.sort(_strangeness_of_held_out(distances)))

    def p_values(self, features: Mapping[str, ArrayLike], level: float | None = None) -> NoveltySummary:
        """p-values of one study from its parts' features (P, F) per detector.

        With `level`, `fired` names the detectors that call the study novel at it. Raises DeferCase when a detector has no
        usable features.
        """
        if set(features) != set(self.detectors):
            raise DeferCase(Reason.UNCERTAINTY_INVALID, "novelty features are not those of the release's detectors")
        found = [
            (name, detector.p_value(float(np.median(detector.distances(features[name])))))
            for name, detector in self.detectors.items()
        ]
        combined = ranked_p_value(self.together, _strangeness(min(p for _, p in found)))
        return NoveltySummary(p_values=tuple(found), combined=combined, fired=_fired(found, combined, level))

    def to_arrays(self) -> dict[str, Floats]:
        """Float64 arrays named DETECTOR.centres, .precision and .held_out, and `together`; the inverse of `from_arrays`."""
        arrays = {
            f"{name}.{part}": np.ascontiguousarray(getattr(detector, part))
            for name, detector in self.detectors.items()
            for part in _PARTS
        }
        return arrays | {_TOGETHER: np.ascontiguousarray(self.together)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats]) -> NoveltyReference:
        """The reference kept in `arrays`; raises HaltPipeline when they do not form one."""
        names = sorted({key.rpartition(".")[0] for key in arrays if key != _TOGETHER})
        wanted = {f"{name}.{part}" for name in names for part in _PARTS} | {_TOGETHER}
        if not names or wanted != set(arrays):
            raise HaltPipeline("novelty reference: arrays are missing or unknown; train the release again")
        together = np.asarray(arrays[_TOGETHER], dtype=np.float64)
        detectors = {name: restored(name, arrays) for name in names}
        lengths = {len(one.held_out) for one in detectors.values()} | {len(together)}
        if together.ndim != 1 or len(lengths) != 1 or not np.isfinite(together).all() or (np.diff(together) < 0).any():
            raise HaltPipeline("novelty reference: its held-out cases are malformed; train the release again")
        return cls(detectors, together)


def _fitted(
    name: str, train: Mapping[str, ArrayLike], held_out: Mapping[str, ArrayLike], labels: ArrayLike | None
) -> Detector:
    kind = kind_of(name)
    return fit_detector(name, kind, held_out[name] if kind is Kind.VALUE else train[name], labels)


def _strangeness(p: float) -> float:
    """-log p, large but finite where p is zero."""
    return -math.log(max(p, 1e-300))


def _strangeness_of_held_out(distances: Mapping[str, Floats]) -> Floats:
    """For every held-out case the strangeness of its smallest p-value among the others."""
    n = len(next(iter(distances.values())))
    found = np.full(n, -np.inf)
    for values in distances.values():
        order = np.argsort(values, kind="stable")
        rising = values[order]
        for place, case in enumerate(order):
            p = ranked_p_value(np.delete(rising, place), float(values[case]))
            found[case] = max(found[case], _strangeness(p))
    return found


def _fired(found: Sequence[tuple[str, float]], combined: float, level: float | None) -> tuple[str, ...]:
    """The detectors that alone call the study novel where it is, the strangest one where none does alone."""
    if level is None or combined > level:
        return ()
    alone = tuple(name for name, p in found if not len(found) * p > level)
    return alone or (min(found, key=lambda pair: pair[1])[0],)


def _held(name: str, detector: Detector, held_out: ArrayLike, cases: Sequence[str] | None) -> Floats:
    try:
        distances = detector.distances(held_out)
    except DeferCase as error:
        raise HaltPipeline(
            f"novelty: detector {name} needs finite (N, F) features of at least {FEWEST} cases each"
        ) from error
    if cases is not None:
        distances = _medians(distances, cases)
    if len(distances) <= FEWEST:
        raise HaltPipeline(f"novelty: detector {name} needs more than {FEWEST} held-out cases")
    return distances


def _medians(distances: Floats, cases: Sequence[str]) -> Floats:
    _, group = np.unique(np.asarray(cases), return_inverse=True)
    return np.array([np.median(distances[group == g]) for g in range(group.max() + 1)])
