"""The systems an evaluation compares: the release, and what simpler ones of the same networks would have said.

`single` is one deterministic network, `dropout` one network with MC dropout, `ensemble` the deterministic members; each
has its own temperature from the tune split where that is given, so that none is beaten for want of calibration.
`route` answers as the release does; what a gate stops is deferred first, the rest by confidence about the finding. `random`
defers by lot, `defer_none` keeps every answer and `defer_all` none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from models.predictions import PredictedImage, log_means
from models.preparation import PreparedImage
from models.sampling import Ensemble
from pipeline.domain.calibration import apply_temperature, finding_probability, fit_temperature
from pipeline.domain.guards import is_certain, is_familiar
from pipeline.domain.uncertainty import aggregate_parts
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol

Floats = NDArray[np.float64]
Labels = NDArray[np.int_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """What one system says of N images: log probabilities (N, C), with the labels (N,)."""

    log_p: Floats
    labels: Labels
    protocol: TriageProtocol
    temperature: float
    order: Floats | None = None  #: (N,) what orders deferral instead of the most probable class

    @property
    def p(self) -> Floats:
        """Probabilities (N, C)."""
        return np.asarray(np.exp(self.log_p))

    @property
    def score(self) -> Floats:
        """Probability of any finding (N,)."""
        return np.asarray(finding_probability(self.log_p, self.protocol.finding_indices))

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Whether each image (N,) shows the finding."""
        return np.isin(self.labels, self.protocol.finding_indices)

    @property
    def failures(self) -> Floats:
        """1 where the most probable class is not the label (N,)."""
        return np.asarray(self.log_p.argmax(axis=1) != self.labels, dtype=np.float64)

    @property
    def confidence(self) -> Floats:
        """What orders deferral (N,): the probability of the most probable class, unless another order is given."""
        return np.asarray(self.p.max(axis=1)) if self.order is None else self.order


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledLooks:
    """Log probabilities (N, C) of N images under each simpler system, before any temperature, and the labels (N,)."""

    single: Floats
    dropout: Floats
    ensemble: Floats
    labels: Labels


def answers_of(predicted: Sequence[PredictedImage], temperature: float, protocol: TriageProtocol) -> Answers:
    """What the release itself says, calibrated as its protocol asks."""
    return Answers(
        log_p=log_means(predicted),
        labels=_labels([one.image for one in predicted]),
        protocol=protocol,
        temperature=temperature,
    )


def routed(
    answers: Answers, predicted: Sequence[PredictedImage], *, information_limit: float, novelty_level: float
) -> Answers:
    """The release's answers, deferred in another order: first what a gate stops, then the least sure about the finding."""
    stopped = [
        not (
            is_familiar(one.novelty.combined, novelty_level)
            and is_certain(one.uncertainty.mutual_information, information_limit)
        )
        for one in predicted
    ]
    sure = np.maximum(answers.score, 1.0 - answers.score)
    return replace(answers, order=np.where(stopped, sure - 1.0, sure))


def pooled_looks(
    ensemble: Ensemble, images: Sequence[PreparedImage], dropout: Sequence[Floats] | None = None
) -> PooledLooks:
    """Each simpler system on every image; `dropout` gives the first member's samples (1, T, 1, C) where already made."""
    certain = np.stack([_mean_over_parts(ensemble.without_dropout(image.parts)) for image in images], axis=1)
    drawn = dropout if dropout is not None else [_sampled(ensemble, image) for image in images]
    return PooledLooks(
        single=certain[0],
        dropout=np.concatenate([_pooled(samples) for samples in drawn]),
        ensemble=logsumexp(certain, axis=0) - np.log(len(certain)),
        labels=_labels(images),
    )


def simpler_systems(judged: PooledLooks, tuned: PooledLooks | None, protocol: TriageProtocol) -> dict[str, Answers]:
    """The answers of `single`, `dropout` and `ensemble`, calibrated on `tuned` where it is given."""
    pick: dict[str, Callable[[PooledLooks], Floats]] = {
        "single": lambda looks: looks.single,
        "dropout": lambda looks: looks.dropout,
        "ensemble": lambda looks: looks.ensemble,
    }
    answers = {}
    for name, of in pick.items():
        temperature = 1.0 if tuned is None else _temperature(of(tuned), tuned)
        answers[name] = Answers(
            log_p=apply_temperature(of(judged), temperature),
            labels=judged.labels,
            protocol=protocol,
            temperature=temperature,
        )
    return answers


def _temperature(log_p: Floats, tuned: PooledLooks) -> float:
    """The fitted temperature, or 1 for a baseline too bad to have one: it is judged as it is and stops no report."""
    try:
        return fit_temperature(log_p, tuned.labels)
    except HaltPipeline:
        return 1.0


def _sampled(ensemble: Ensemble, image: PreparedImage) -> Floats:
    return aggregate_parts(ensemble.sample(image.parts, image.key)).log_probabilities[:1]


def _pooled(log_p: Floats) -> Floats:
    """(M, T, N, C) to (N, C)."""
    return np.asarray(logsumexp(log_p, axis=(0, 1)) - np.log(log_p.shape[0] * log_p.shape[1]))


def _mean_over_parts(log_p: Floats) -> Floats:
    """(M, P, C) to (M, C)."""
    return np.asarray(logsumexp(log_p, axis=1) - np.log(log_p.shape[1]))


def _labels(images: Sequence[PreparedImage]) -> Labels:
    return np.array([image.target for image in images], dtype=np.int_)
