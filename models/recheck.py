"""The certificate held against cases it has never seen: what the policy does with a judged split, case by case."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.fitting import JudgedCases
from models.release import Release
from pipeline.domain.certificate import Certificate, Side, clopper_pearson_upper
from pipeline.domain.guards import certified_side
from pipeline.domain.prevalence import false_omission_bound

_CONFIDENCE = 0.95


def recheck(release: Release, judged: JudgedCases) -> dict[str, Any]:
    """The routine side's certificate with its sentence and the same counts on the judged cases; `priority` has the other's.

    `routes` counts what the gates and thresholds alone would route: scope, completeness and quality are not asked here.
    """
    return _side(release, judged, "routine") | {
        "priority": _side(release, judged, "priority"),
        "routes": _routes(release, judged),
        "false_omission": _false_omission(release),
        "cases": len(judged.cases),
        "patients": len(set(judged.patients)),
    }


def _side(release: Release, judged: JudgedCases, side: Side) -> dict[str, Any]:
    certificate = release.certificates[side]
    at_risk = judged.positive(release.protocol)
    at_risk = at_risk if side == "routine" else ~at_risk
    passed = _passed(certificate, _gated(release, judged, side))
    n, k = int(at_risk.sum()), int((passed & at_risk).sum())
    upper = clopper_pearson_upper(k, n, 1.0 - _CONFIDENCE) if n else None
    return {
        "alpha": certificate.alpha,
        "delta": certificate.delta,
        "positives": certificate.positives,
        "misses": certificate.misses,
        "certified": certificate.certified,
        "threshold": certificate.threshold,
        "smallest_alpha": certificate.smallest_alpha,
        "expires_on": certificate.expires_on.isoformat(),
        "sentence": certificate.sentence(),
        "method": certificate.method,
        "made_on": certificate.made_on.isoformat(),
        "certified_patients": certificate.patients,
        "judged": {"positives": n, "misses": k, "upper_95": upper, "passed": int(passed.sum())},
    }


def _false_omission(release: Release) -> dict[str, Any] | None:
    """The finding's share of ROUTINE at the protocol's largest prevalence, from the certify counts of both sides."""
    certificate, prevalence = release.certificates["routine"], release.protocol.limits.largest_prevalence
    kept = release.meta.get("routine_without_finding")
    if prevalence is None or not certificate.certified or kept is None:
        return None
    found = false_omission_bound(
        misses=certificate.misses,
        positives=certificate.positives,
        kept=int(kept),
        negatives=certificate.patients - certificate.positives,
        largest_prevalence=prevalence,
        delta=certificate.delta,
    )
    return asdict(found) | {"sentence": found.sentence()}


def _gated(release: Release, judged: JudgedCases, side: Side) -> NDArray[np.float64]:
    return judged.gated(side, release.policy.mutual_information_limit, release.policy.novelty_level)


def _passed(certificate: Certificate, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    if certificate.threshold is None:
        return np.zeros(len(scores), dtype=np.bool_)
    below = scores <= certificate.threshold
    return below if certificate.side == "routine" else scores >= certificate.threshold


def _routes(release: Release, judged: JudgedCases) -> dict[str, dict[str, int]]:
    """Route -> how many cases with the finding and without."""
    routes = {route: {"finding": 0, "no_finding": 0} for route in ("PRIORITY", "ROUTINE", "REVIEW")}
    truths = judged.positive(release.protocol)
    for score, truth in zip(_gated(release, judged, "routine"), truths, strict=True):
        side = certified_side(float(score), release.policy)  # a gated score is infinite, hence on neither side
        route = "REVIEW" if side is None else side.value
        routes[route]["finding" if truth else "no_finding"] += 1
    return routes
