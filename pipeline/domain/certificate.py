"""The certificate: with confidence 1 - delta at most a share alpha of the cases at risk is routed the wrong way.

At risk are the studies with the finding on the routine side, and those without it on the priority side. What is certified
is the routing function as deployed: a case that a gate sends to a clinician (novel, too much disagreement) enters with
score +inf on the routine side and -inf on the priority side, and stays in the denominator. `delta` is the share of this
side; a policy of two certified sides shares its delta in halves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from pipeline.domain.certification_cases import (
    Floats,
    Side,
    Truths,
    check_limits,
    check_patients,
    gated_scores,
    one_case_per_patient,
    rising_scores,
)
from pipeline.domain.ladder import (
    Rung,
    climb,
    clopper_pearson_upper,
    exact_p_values,
    ladder_from,
    misses_at,
    predicted_start,
    smallest_certifiable,
)
from pipeline.domain.order_statistic import most_misses, order_statistic_rung
from pipeline.domain.wording import certificate_sentence
from pipeline.errors import HaltPipeline

__all__ = ["Certificate", "Side", "certify", "clopper_pearson_upper", "gated_scores", "one_case_per_patient"]

Method = Literal["ladder", "order_statistic"]

_P_TOLERANCE = 1e-9  # between p-values computed by different library versions


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The counts that prove one side of the policy, or that show why it is not proven.

    `positives` are the cases at risk in the certify split and `misses` those of them on the chosen rung, or on the
    lowest rung tried when nothing is certified. `smallest_alpha` is the smallest limit these patients can certify.
    """

    side: Side
    alpha: float
    delta: float
    positives: int
    misses: int
    certified: bool
    threshold: float | None
    rungs: tuple[Rung, ...]  #: in the order of testing upwards
    start: int  #: index of the first rung tested, chosen on the tune split
    smallest_alpha: float | None
    patients: int  #: in the certify split, one case each
    dependencies: Mapping[str, str] = field(default_factory=dict)  #: digests of what the certificate was made for
    made_on: date
    expires_on: date  #: last day of validity
    method: Method = "ladder"

    def certifies(self, threshold: float | None) -> bool:
        """Whether another threshold of this side is proven by the same counts: one on the safe side of the certified one.

        The rate of cases at risk beyond a threshold only falls towards that side. None, which routes nothing, always is.
        """
        if threshold is None:
            return True
        if not self.certified or self.threshold is None or not np.isfinite(threshold):
            return False
        return threshold <= self.threshold if self.side == "routine" else threshold >= self.threshold

    def threshold_at(self, alpha: float) -> float | None:
        """The threshold that the same counts, climbed from the same rung, give for another limit; None where none does.

        For planning: a limit chosen after looking at what it gives is not certified by it.
        """
        check_limits(alpha, self.delta, self.made_on, self.expires_on)
        p_values = exact_p_values([r.k for r in self.rungs], [r.n for r in self.rungs], alpha)
        last = climb(p_values, self.start, self.delta)
        return None if last is None else self.rungs[last].threshold

    def sentence(self) -> str:
        """The certificate in one plain sentence."""
        return certificate_sentence(
            side=self.side,
            alpha=self.alpha,
            delta=self.delta,
            at_risk=self.positives,
            misses=self.misses,
            certified=self.certified,
            smallest_alpha=self.smallest_alpha,
            expires_on=self.expires_on,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content; the inverse of `from_dict`."""
        content = asdict(self)
        content["rungs"] = [asdict(rung) for rung in self.rungs]
        content["dependencies"] = dict(self.dependencies)
        content["made_on"], content["expires_on"] = self.made_on.isoformat(), self.expires_on.isoformat()
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Certificate:
        """The certificate in `content`, its proof recomputed; raises HaltPipeline where the counts do not support it."""
        try:
            values = dict(content)
            values["rungs"] = tuple(Rung(**rung) for rung in values["rungs"])
            values["method"] = str(values["method"])
            values["dependencies"] = dict(values["dependencies"])
            values["made_on"] = date.fromisoformat(values["made_on"])
            values["expires_on"] = date.fromisoformat(values["expires_on"])
            found = cls(**values)
            problem = _contradiction(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HaltPipeline(f"certificate: unreadable ({type(error).__name__}); train the release again") from error
        if problem is not None:
            raise HaltPipeline(f"certificate: {problem}; it was changed after it was made, train the release again")
        return found


def certify(
    tune_scores: ArrayLike,
    tune_positive: ArrayLike,
    scores: ArrayLike,
    positive: ArrayLike,
    patients: Sequence[str],
    *,
    tune_patients: Sequence[str],
    alpha: float,
    delta: float,
    side: Side,
    made_on: date,
    expires_on: date,
    dependencies: Mapping[str, str],
    method: Method = "ladder",
) -> Certificate:
    """Certify one side of the policy on patients that nothing before was fitted on, one case each.

    The ladder's rungs are quantiles of the tune scores; the order statistic asks the certify scores alone.
    Scores are calibrated probabilities of any finding (N,), gated cases +inf (routine) or -inf (priority); `positive`
    tells which cases show the finding, on both sides. Raises HaltPipeline when a patient is repeated in certify or stands
    in both splits, a limit is not in (0, 1), lengths differ or a score is undefined.
    """
    check_limits(alpha, delta, made_on, expires_on)
    check_patients(patients, tune_patients)
    tune_rising, tune_at_risk = rising_scores("tune", tune_scores, tune_positive, len(tune_patients), side)
    rising, at_risk = rising_scores("certify", scores, positive, len(patients), side)
    n = int(at_risk.sum())
    if method == "order_statistic":
        found = order_statistic_rung(rising, at_risk, alpha, delta)
        climbed, start = ([] if found is None else [found]), 0
    else:
        climbed, start = _ladder((tune_rising, tune_at_risk), (rising, at_risk), alpha)
    last = climb([rung.p for rung in climbed], start, delta)
    sign = 1.0 if side == "routine" else -1.0
    rungs = tuple(replace(rung, threshold=sign * rung.threshold) for rung in climbed)
    shown = start if last is None else last
    return Certificate(
        side=side,
        alpha=alpha,
        delta=delta,
        positives=n,
        misses=rungs[shown].k if rungs else 0,
        certified=last is not None,
        threshold=None if last is None else rungs[last].threshold,
        rungs=rungs,
        start=start,
        smallest_alpha=_smallest_alpha(rungs, start, n, delta, method),
        patients=len(patients),
        dependencies=dict(dependencies),
        made_on=made_on,
        expires_on=expires_on,
        method=method,
    )


def _smallest_alpha(rungs: Sequence[Rung], start: int, n: int, delta: float, method: Method) -> float | None:
    if rungs:
        return smallest_certifiable(rungs[start].k, n, delta)
    return smallest_certifiable(0, n, delta) if method == "order_statistic" else None


def _ladder(tune: tuple[Floats, Truths], certify_on: tuple[Floats, Truths], alpha: float) -> tuple[list[Rung], int]:
    """The rungs in the order of testing, with the certify counts, and the rung to start from."""
    thresholds, n = ladder_from(tune[0]), int(certify_on[1].sum())
    counts = misses_at(thresholds, *certify_on)
    p_values = exact_p_values(counts, [n] * len(counts), alpha)
    start = predicted_start(misses_at(thresholds, *tune), int(tune[1].sum()), n, alpha)
    return [
        Rung(threshold=float(t), k=k, n=n, p=p) for t, k, p in zip(thresholds, counts, p_values, strict=True)
    ], start


def _contradiction(found: Certificate) -> str | None:
    """What in a stored certificate does not follow from its own counts, or None."""
    if found.side not in ("routine", "priority"):
        return "its side is unknown"
    check_limits(found.alpha, found.delta, found.made_on, found.expires_on)
    problem = _impossible_rungs(found) or _wrong_method(found)
    if problem is not None:
        return problem
    last = climb(_recomputed(found), found.start, found.delta)
    threshold = None if last is None else found.rungs[last].threshold
    follows = found.certified is (last is not None) and found.threshold == threshold
    return None if follows else "its threshold does not follow from its rungs"


def _impossible_rungs(found: Certificate) -> str | None:
    if any(type(r.k) is not int or type(r.n) is not int or not 0 <= r.k <= r.n for r in found.rungs):
        return "a count is impossible"
    if any(r.n != found.positives for r in found.rungs) or found.positives > found.patients:
        return "its numbers of patients differ"
    rising = [r.threshold if found.side == "routine" else -r.threshold for r in found.rungs]
    if not np.isfinite(rising).all() or sorted(set(rising)) != rising:
        return "its thresholds are not in order"
    if any(not abs(p - r.p) <= _P_TOLERANCE for p, r in zip(_recomputed(found), found.rungs, strict=True)):
        return "a p-value does not follow from its counts"
    return None


def _wrong_method(found: Certificate) -> str | None:
    if found.method == "ladder":
        return None
    if found.method != "order_statistic" or len(found.rungs) > 1 or found.start != 0:
        return "its method is unknown"
    allowed = most_misses(found.positives, found.alpha, found.delta)
    beyond = bool(found.rungs) and (allowed is None or found.rungs[0].k > allowed)
    return "its threshold lies beyond the order statistic" if beyond else None


def _recomputed(found: Certificate) -> list[float]:
    return exact_p_values([r.k for r in found.rungs], [r.n for r in found.rungs], found.alpha)


def certificate_text(certificate: Certificate) -> str:
    """The certificate as canonical JSON text, for hashing and storing."""
    return json.dumps(certificate.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
