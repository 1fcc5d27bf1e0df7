"""The gate: what a release must show before anyone may make it champion. Every check is made and told, also after a failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

from models.release import Release
from models.release_files import CERTIFICATES
from pipeline.errors import HaltPipeline

REQUIRED_METRICS = ("tune_accuracy", "tune_nll")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question to a release, its answer and the sentence that says why."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """Every check in the order made; `passed` only when all are."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the release may be promoted."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        """The reasons of the checks that failed."""
        return tuple(check.reason for check in self.checks if not check.passed)


def gate(release: Release, metrics: Mapping[str, float] | None = None, *, today: date) -> GateResult:
    """Whether `release` may be promoted on `today`; `metrics` (by default its own) must be finite numbers.

    A release without a certified side passes with a sentence saying so: it routes nothing but REVIEW, which is safe.
    """
    measured = release.meta.get("metrics", {}) if metrics is None else metrics
    return GateResult(
        checks=(
            _check("digest", lambda: _verify(release)),
            *(_check(f"certificate_{side}", _valid(release, side, today)) for side in sorted(CERTIFICATES)),
            _check("metrics", lambda: _finite(measured)),
        )
    )


def _check(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name=name, passed=True, reason=ask())
    except HaltPipeline as problem:
        return Check(name=name, passed=False, reason=str(problem))


def _verify(release: Release) -> str:
    Release.load(release.folder, release.digest)
    return f"every file has the digest that release {release.digest[:12]} names"


def _valid(release: Release, side: str, today: date) -> Callable[[], str]:
    def ask() -> str:
        certificate = release.certificates.get(side)
        if certificate is None:
            raise HaltPipeline(f"the {side} certificate is missing; certify the release again")
        if not certificate.made_on <= today <= certificate.expires_on:
            raise HaltPipeline(
                f"the {side} certificate is valid from {certificate.made_on} to {certificate.expires_on} and not on "
                f"{today}; certify the release again"
            )
        return certificate.sentence()

    return ask


def _finite(metrics: Mapping[str, float]) -> str:
    absent = [name for name in REQUIRED_METRICS if name not in metrics]
    if absent:
        raise HaltPipeline(f"metrics: {absent[0]} is missing; evaluate the release before promoting it")
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise HaltPipeline(f"metrics: {broken[0]} is not a finite number; evaluate the release on another split")
    return f"{len(metrics)} metrics are finite"
