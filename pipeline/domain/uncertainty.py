"""What an ensemble of stochastic passes knows and does not know, in float64 log space and nats.

Predictive entropy = expected entropy + dropout part + member part, exactly. Mutual information is summed as
pbar (d e^d - expm1 d) with d = log p_i - log pbar, never as a difference of entropies: each summand is non-negative and
small values keep their digits. Few passes bias the parts; the corrected ones (delta method; members fixed, passes random)
may be compared between cases with different numbers of passes, the plug-in ones may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from pipeline.domain.case import Reason
from pipeline.errors import DeferCase

Floats = NDArray[np.float64]
How = Literal["mean", "highest"]

NORMALISATION_TOLERANCE = 1e-6  # of a row's probabilities


@dataclass(frozen=True, eq=False)
class PosteriorSamples:
    """Log probabilities (M members, T passes, N cases or parts, C classes), nats; held as read-only float64.

    Raises ValueError when an axis is empty or missing, or a finite row does not sum to one.
    """

    log_probabilities: Floats
    finite: NDArray[np.bool_] = field(init=False)  #: (N,) whether every number of the case is finite

    def __post_init__(self) -> None:
        given = np.asarray(self.log_probabilities)
        if given.ndim != 4 or 0 in given.shape:
            raise ValueError(f"posterior samples have axes (M, T, N, C), none empty; got shape {given.shape}")
        if not np.issubdtype(given.dtype, np.floating):
            raise ValueError(f"posterior samples are floating point log probabilities, got {given.dtype}")
        values = np.array(given, dtype=np.float64, order="C")
        finite = np.isfinite(values).all(axis=(0, 1, 3))
        sums = np.exp(values[:, :, finite]).sum(axis=-1)
        if not (np.abs(sums - 1.0) <= NORMALISATION_TOLERANCE).all():
            raise ValueError("posterior samples are log probabilities: exponentials over classes must sum to one")
        values.setflags(write=False)
        finite.setflags(write=False)
        object.__setattr__(self, "log_probabilities", values)
        object.__setattr__(self, "finite", finite)

    @property
    def members(self) -> int:
        """Number of trained networks sampled."""
        return int(self.log_probabilities.shape[0])

    @property
    def passes(self) -> int:
        """Number of stochastic passes of each member."""
        return int(self.log_probabilities.shape[1])

    @property
    def cases(self) -> int:
        """Number of cases, or of parts before `aggregate_parts`."""
        return int(self.log_probabilities.shape[2])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.log_probabilities.shape[3])

    def digest(self, n: int) -> str:
        """SHA-256 of case `n`'s shape and little-endian float64 log probabilities, hexadecimal."""
        values = np.ascontiguousarray(self.log_probabilities[:, :, n], dtype="<f8")
        header = f"{values.shape[0]},{values.shape[1]},{values.shape[2]};"
        return hashlib.sha256(header.encode() + values.tobytes()).hexdigest()

    def select(self, cases: NDArray[np.bool_] | NDArray[np.int_]) -> PosteriorSamples:
        """The samples of some cases, by mask or by index."""
        return PosteriorSamples(self.log_probabilities[:, :, cases])


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposition:
    """Means, entropies and their parts for N cases; entropies in nats, variances per class.

    Plug-in parts add up exactly: predictive_entropy = expected_entropy + mi_dropout + mi_member. The corrected ones are
    unbiased to first order in 1/T, may be slightly negative and must not be clipped before averaging.
    """

    log_mean: Floats  #: (N, C) log of the mean probability over members and passes
    log_member_mean: Floats  #: (M, N, C) log of the mean probability over each member's passes
    predictive_entropy: Floats  #: (N,)
    expected_entropy: Floats  #: (N,) aleatoric
    mi_dropout: Floats  #: (N,) I(y; w | member), plug-in
    mi_member: Floats  #: (N,) I(y; member), plug-in
    mi_dropout_corrected: Floats  #: (N,)
    mi_member_corrected: Floats  #: (N,)
    mi_member_unbiased: Floats  #: (N,) corrected, members meant as draws from a posterior; NaN with one; never routes
    mutual_information: Floats  #: (N,) corrected I(y; w): the number the limit is held against
    variation_ratio: Floats  #: (N,) share of passes that do not vote for the most voted class; for display
    epkl: Floats  #: (N,) mean Kullback-Leibler divergence over all ordered pairs of passes, a pass with itself included
    variance_aleatoric: Floats  #: (N, C) mean p (1 - p)
    variance_epistemic: Floats  #: (N, C) variance of p over members and passes; with the aleatoric part pbar (1 - pbar)
    variance_dropout: Floats  #: (N, C) unbiased component within members
    variance_member: Floats  #: (N, C) unbiased component between members; may be negative
    dropout_available: bool  #: False with one pass, where mi_dropout is zero by definition and says nothing
    member_available: bool  #: False with one member, where mi_member is zero by definition and says nothing

    @property
    def mean(self) -> Floats:
        """Mean probabilities (N, C) over members and passes, before calibration."""
        return np.exp(self.log_mean)


def aggregate_parts(
    samples: PosteriorSamples,
    series: Sequence[int] | None = None,
    *,
    how_slices: How = "mean",
    how_series: How = "mean",
    finding_indices: Sequence[int] = (),
) -> PosteriorSamples:
    """One case (M, T, 1, C) from its parts (M, T, P, C), within each member and pass: slices to series, series to study.

    `series` lists how many parts each series has, in their order; without it all are one series. "highest" takes the part
    with the highest probability of any finding. Raises DeferCase(UNCERTAINTY_INVALID) when a part is not finite, for a
    failed part makes the case incomplete and never a smaller mean; ValueError when `series` does not name every part.
    """
    counts = [samples.cases] if series is None else list(series)
    if min(counts, default=0) < 1 or sum(counts) != samples.cases:
        raise ValueError(f"{samples.cases} parts do not make up series of {counts} parts")
    _refuse_non_finite(samples, "part")
    values = _normalised(samples.log_probabilities)
    pieces = np.split(values, np.cumsum(counts)[:-1], axis=2)
    each = [_one_of(piece, how_slices, finding_indices) for piece in pieces]
    whole = each[0] if len(each) == 1 else _one_of(np.concatenate(each, axis=2), how_series, finding_indices)
    return PosteriorSamples(whole)


def _one_of(log_p: Floats, how: How, finding_indices: Sequence[int]) -> Floats:
    """(M, T, P, C) to (M, T, 1, C)."""
    if how == "mean":
        return np.asarray(logsumexp(log_p, axis=2, keepdims=True) - np.log(log_p.shape[2]))
    if how != "highest" or not finding_indices:
        raise ValueError(f"parts are joined by mean, or by highest with the places of the findings; got {how!r}")
    suspicion = logsumexp(log_p[..., list(finding_indices)], axis=-1)
    chosen = suspicion.argmax(axis=2)[:, :, None, None]
    return np.asarray(np.take_along_axis(log_p, chosen, axis=2))


def decompose(samples: PosteriorSamples) -> Decomposition:
    """Entropies, mutual information and variances of every case.

    Raises DeferCase(UNCERTAINTY_INVALID) when a number is not finite; nothing is ever replaced.
    """
    _refuse_non_finite(samples, "case")
    members, passes = samples.members, samples.passes
    log_p = _normalised(samples.log_probabilities)
    log_member = logsumexp(log_p, axis=1) - np.log(passes)
    log_mean = logsumexp(log_member, axis=0) - np.log(members)
    dropout = _information(log_p, log_member[:, None]).mean(axis=(0, 1))
    member = _information(log_member, log_mean[None]).mean(axis=0)
    dropout_corrected = dropout * passes / (passes - 1) if passes > 1 else np.zeros_like(dropout)
    spill = dropout_corrected / (members * passes)  # of dropout noise, per member and pass
    member_corrected = member - (members - 1) * spill
    unbiased = members / (members - 1) if members > 1 else np.nan
    return Decomposition(
        log_mean=log_mean,
        log_member_mean=log_member,
        predictive_entropy=_entropy(log_mean),
        expected_entropy=_entropy(log_p).mean(axis=(0, 1)),
        mi_dropout=dropout,
        mi_member=member,
        mi_dropout_corrected=dropout_corrected,
        mi_member_corrected=member_corrected,
        mi_member_unbiased=member_corrected * unbiased,
        mutual_information=dropout + member + spill,
        variation_ratio=_variation_ratio(log_p),
        epkl=dropout + member + _reverse_information(log_p, log_mean),
        **_variances(np.exp(log_p)),
        dropout_available=passes > 1,
        member_available=members > 1,
    )


def _refuse_non_finite(samples: PosteriorSamples, what: str) -> None:
    bad = int((~samples.finite).sum())
    if bad:
        raise DeferCase(
            Reason.UNCERTAINTY_INVALID,
            f"{bad} of {samples.cases} {what}s hold log probabilities that are not finite; a clinician reads them",
        )


def _normalised(log_p: Floats) -> Floats:
    return np.asarray(log_p - logsumexp(log_p, axis=-1, keepdims=True), dtype=np.float64)


def _entropy(log_p: Floats) -> Floats:
    return np.asarray(-(np.exp(log_p) * log_p).sum(axis=-1))


def _information(log_p: Floats, log_centre: Floats) -> Floats:
    """Per sample the summands of KL(p || centre) whose mean over samples around their own mean is the information."""
    d = log_p - log_centre
    return np.asarray((np.exp(log_centre) * (np.exp(d) * d - np.expm1(d))).sum(axis=-1))


def _reverse_information(log_p: Floats, log_mean: Floats) -> Floats:
    return np.asarray((np.exp(log_mean) * (log_mean - log_p.mean(axis=(0, 1)))).sum(axis=-1))


def _variation_ratio(log_p: Floats) -> Floats:
    votes = log_p.argmax(axis=-1).reshape(-1, log_p.shape[2])
    counts = (votes[..., None] == np.arange(log_p.shape[3])).sum(axis=0)
    return np.asarray(1.0 - counts.max(axis=-1) / votes.shape[0])


def _variances(p: Floats) -> dict[str, Floats]:
    members, passes = p.shape[:2]
    within = p.var(axis=1, ddof=1).mean(axis=0) if passes > 1 else np.zeros(p.shape[2:])
    between = p.mean(axis=1).var(axis=0) - within / passes * (members - 1) / members
    return {
        "variance_aleatoric": (p * (1.0 - p)).mean(axis=(0, 1)),
        "variance_epistemic": p.var(axis=(0, 1)),
        "variance_dropout": within,
        "variance_member": between,
    }
