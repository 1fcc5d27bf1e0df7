"""What a release's policy costs in reads a day, from what it does with the judged cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from models.release import Release
from pipeline.domain.capacity import choose_rung
from pipeline.domain.case import Route
from pipeline.domain.reads import at_prevalence, reads_per_day


def day(
    release: Release, judged: Mapping[str, Any], studies_per_day: int | None, capacity: int | None = None
) -> dict[str, Any]:
    """`reads` per specialty for `studies_per_day`, empty where none is given; with `capacity`, whether that suffices.

    `judged` is the certificate's recheck. Shares of routes are those of the judged cases, weighted to the protocol's largest
    prevalence where it declares one: judged splits hold more findings than a hospital's day.
    """
    if studies_per_day is None:
        return {}
    limits, routes = release.protocol.limits, judged["routes"]
    finding = {route: counts["finding"] for route, counts in routes.items()}
    without = {route: counts["no_finding"] for route, counts in routes.items()}
    total = sum(finding.values()) + sum(without.values())
    prevalence = limits.largest_prevalence or (sum(finding.values()) / total if total else 0.0)
    shares = at_prevalence(finding, without, prevalence)
    specialties = {route.value: release.protocol.routes[route].specialty for route in Route}
    loads = reads_per_day(
        shares, studies_per_day=studies_per_day, specialties=specialties, audit_share=limits.audit_share
    )
    found: dict[str, Any] = {
        "studies_per_day": studies_per_day,
        "prevalence": prevalence,
        "prevalence_declared": limits.largest_prevalence is not None,
        "shares": shares,
        "loads": [asdict(load) for load in loads],
    }
    return {"reads": found | ({} if capacity is None else _capacity(release, judged, studies_per_day, capacity))}


def _capacity(release: Release, judged: Mapping[str, Any], studies: int, capacity: int) -> dict[str, Any]:
    """Whether the certified policy fits into `capacity` reads a day; the deferral rate is that of the judged cases."""
    certificate = release.certificates["routine"]
    held = [rung for rung in certificate.rungs if certificate.certified and certificate.certifies(rung.threshold)]
    chosen = [rung for rung in held if rung.threshold == certificate.threshold]
    deferred = sum(judged["routes"]["REVIEW"].values())
    found = choose_rung(chosen, [deferred] * len(chosen), judged["cases"], studies_per_day=studies, capacity=capacity)
    return {"capacity": capacity, "feasible": type(found).__name__ == "Fits", "capacity_sentence": found.sentence()}
