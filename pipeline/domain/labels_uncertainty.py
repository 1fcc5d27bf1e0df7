"""Uncertainty of heads that answer every label by itself (sigmoid), in float64 log space and nats.

Each label is a question with two answers: log p = -softplus(-z) and log (1 - p) = -softplus(z). Labels are never put
through one softmax, since several may be present together. Given the weights they are independent, so that the sum of the
labels' informations is an upper bound of the information of all labels together and not that information itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.case import Reason
from pipeline.domain.uncertainty import Decomposition, PosteriorSamples, decompose
from pipeline.errors import DeferCase

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelDecomposition:
    """Per case and label (N, L), and per case (N,); what routes is the worst label."""

    probability: Floats  #: (N, L) mean over members and passes
    predictive_entropy: Floats
    expected_entropy: Floats
    mi_dropout: Floats
    mi_member: Floats
    mi_dropout_corrected: Floats
    mi_member_corrected: Floats
    mutual_information: Floats  #: (N, L) corrected
    variance_dropout: Floats
    variance_member: Floats
    variance_aleatoric: Floats
    case_score: Floats  #: (N,) highest probability of a label
    case_information: Floats  #: (N,) highest corrected information of a label
    information_bound: Floats  #: (N,) sum over labels: an upper bound of that of all labels together
    dropout_available: bool
    member_available: bool


def decompose_labels(logits: ArrayLike) -> LabelDecomposition:
    """The decomposition of every label from logits (M, T, N, L).

    Raises ValueError where an axis is missing or empty, DeferCase(UNCERTAINTY_INVALID) when a logit is not finite.
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 4 or 0 in z.shape:
        raise ValueError(f"label logits have axes (M, T, N, L), none empty; got shape {z.shape}")
    if not np.isfinite(z).all():
        raise DeferCase(Reason.UNCERTAINTY_INVALID, "a label's output is not finite; a clinician reads the case")
    members, passes, cases, labels = z.shape
    both = np.stack([-np.logaddexp(0.0, z), -np.logaddexp(0.0, -z)], axis=-1)
    found = decompose(PosteriorSamples(both.reshape(members, passes, cases * labels, 2)))
    return _arranged(found, (cases, labels))


def known(labels: ArrayLike) -> NDArray[np.bool_]:
    """Which labels (N, L) are known: 0 or 1, not NaN. Raises ValueError for any other value."""
    values = np.asarray(labels, dtype=np.float64)
    if values.ndim != 2 or not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
        raise ValueError("labels are 0, 1 or unknown (NaN), with axes (N, L)")
    return ~np.isnan(values)


def label_nll(log_odds: ArrayLike, labels: ArrayLike) -> Floats:
    """Mean negative log likelihood per label (L,) in nats over the known ones; NaN for a label that none is known of."""
    z, y = np.asarray(log_odds, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    mask = known(y)
    if z.shape != y.shape:
        raise ValueError(f"log odds {z.shape} and labels {y.shape} differ in shape")
    losses = np.where(y == 1.0, np.logaddexp(0.0, -z), np.logaddexp(0.0, z))
    counts = mask.sum(axis=0)
    sums = np.where(mask, losses, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _arranged(found: Decomposition, shape: tuple[int, int]) -> LabelDecomposition:
    information = found.mutual_information.reshape(shape)
    probability = np.exp(found.log_mean[:, 1]).reshape(shape)
    return LabelDecomposition(
        probability=probability,
        predictive_entropy=found.predictive_entropy.reshape(shape),
        expected_entropy=found.expected_entropy.reshape(shape),
        mi_dropout=found.mi_dropout.reshape(shape),
        mi_member=found.mi_member.reshape(shape),
        mi_dropout_corrected=found.mi_dropout_corrected.reshape(shape),
        mi_member_corrected=found.mi_member_corrected.reshape(shape),
        mutual_information=information,
        variance_dropout=found.variance_dropout[:, 1].reshape(shape),
        variance_member=found.variance_member[:, 1].reshape(shape),
        variance_aleatoric=found.variance_aleatoric[:, 1].reshape(shape),
        case_score=probability.max(axis=1),
        case_information=information.max(axis=1),
        information_bound=information.sum(axis=1),
        dropout_available=found.dropout_available,
        member_available=found.member_available,
    )
