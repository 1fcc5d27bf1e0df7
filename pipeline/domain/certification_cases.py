"""The cases a certificate is made from: gated as they would be routed, one per patient, apart from those used before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.domain.guards import is_certain, is_familiar, is_finite
from pipeline.errors import HaltPipeline

Side = Literal["routine", "priority"]
Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


def gated_scores(
    scores: ArrayLike,
    mutual_information: ArrayLike,
    novelty_p: ArrayLike,
    *,
    mutual_information_limit: float,
    novelty_level: float,
    side: Side,
) -> Floats:
    """Route scores (N,) with every case that `decide` would not let pass sent to the far end of its side.

    The gates are the very functions that the guards ask, and anything undefined is gated.
    """
    out = np.array(scores, dtype=np.float64)
    spread = np.asarray(mutual_information, dtype=np.float64)
    novelty = np.asarray(novelty_p, dtype=np.float64)
    for i, (mi, p) in enumerate(zip(spread, novelty, strict=True)):
        passes = is_certain(mi, mutual_information_limit) and is_familiar(p, novelty_level)
        if not (passes and np.isfinite(out[i]) and np.isfinite(mi)):
            out[i] = np.inf if side == "routine" else -np.inf
    return out


def one_case_per_patient(patients: Sequence[str], seed: int) -> NDArray[np.int_]:
    """Indices (rising) of one case of every patient, drawn without looking at scores or labels."""
    order = np.random.default_rng(seed).permutation(len(patients))
    chosen: dict[str, int] = {}
    for index in order:
        chosen.setdefault(patients[int(index)], int(index))
    return np.array(sorted(chosen.values()), dtype=np.int_)


def check_limits(alpha: float, delta: float, made_on: date, expires_on: date) -> None:
    """Raises HaltPipeline unless both limits lie in (0, 1) and the certificate outlives its making."""
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not (is_finite(value) and 0.0 < value < 1.0):
            raise HaltPipeline(f"certificate: {name} = {value} must lie between 0 and 1; correct the protocol's limits")
    if expires_on < made_on:
        raise HaltPipeline("certificate: it would expire before it is made; correct certificate_days")


def check_patients(patients: Sequence[str], tune_patients: Sequence[str]) -> None:
    """Raises HaltPipeline when a certify patient is repeated or also stands in tune."""
    repeated = len(patients) - len(set(patients))
    if repeated:
        raise HaltPipeline(
            f"certify split: {repeated} cases are further ones of a patient already there; keep one case per patient"
        )
    shared = len(set(patients) & set(tune_patients))
    if shared:
        raise HaltPipeline(
            f"{shared} patients stand in both the tune and the certify split; give every patient one split"
        )


def rising_scores(split: str, scores: ArrayLike, positive: ArrayLike, cases: int, side: Side) -> tuple[Floats, Truths]:
    """Scores turned so that the certified side is low, and which cases are at risk there; raises HaltPipeline."""
    if side not in ("routine", "priority"):
        raise HaltPipeline(f"certificate: side '{side}' is unknown; use routine or priority")
    values, truths = np.asarray(scores, dtype=np.float64), np.asarray(positive)
    if values.shape != (cases,) or truths.shape != (cases,):
        raise HaltPipeline(f"{split} split: scores, labels and patients differ in number; give one of each per case")
    if truths.dtype != np.bool_ and not np.isin(truths, (0, 1)).all():
        raise HaltPipeline(f"{split} split: a label is neither present nor absent; leave unknown labels out")
    found = truths.astype(np.bool_)
    rising, at_risk = (values, found) if side == "routine" else (-values, ~found)
    if np.isnan(rising).any() or np.isneginf(rising).any():
        raise HaltPipeline(f"{split} split: a score is undefined; send cases without a score to the gated end")
    return rising, at_risk
