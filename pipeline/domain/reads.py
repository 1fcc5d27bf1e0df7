"""What a policy costs in reads: how many studies a day come to each specialty, on the mean and on a busy day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import binom

BUSY_DAY = 0.95
EVERYONE = "all"  #: the name of the line over all specialties


@dataclass(frozen=True, kw_only=True)
class SpecialtyLoad:
    """Reads a day of one specialty; `busy` is not exceeded on 95 of 100 days."""

    specialty: str
    share: float  #: of all studies
    mean: float
    busy: int


def reads_per_day(
    shares: Mapping[str, float], *, studies_per_day: int, specialties: Mapping[str, str], audit_share: float
) -> tuple[SpecialtyLoad, ...]:
    """Reads of PRIORITY and REVIEW studies and of audited ROUTINE ones, per specialty and for `EVERYONE`, most first.

    `shares` are shares of studies per route, `specialties` who reads each route; audits are read by the specialty of REVIEW,
    since they must look like it. Daily counts are binomial. Raises ValueError where shares are no shares or one is
    missing.
    """
    if not all(0.0 <= share <= 1.0 for share in shares.values()) or sum(shares.values()) > 1.0 + 1e-9:
        raise ValueError(f"shares of routes lie between 0 and 1 and sum to at most 1, got {dict(shares)}")
    if studies_per_day < 1 or not 0.0 <= audit_share <= 1.0:
        raise ValueError("needs at least one study a day and an audit share between 0 and 1")
    read = {"PRIORITY": shares["PRIORITY"], "REVIEW": shares["REVIEW"] + audit_share * shares["ROUTINE"]}
    by_specialty: dict[str, float] = {}
    for route, share in read.items():
        by_specialty[specialties[route]] = by_specialty.get(specialties[route], 0.0) + share
    loads = [_load(name, min(share, 1.0), studies_per_day) for name, share in by_specialty.items()]
    everyone = _load(EVERYONE, min(sum(by_specialty.values()), 1.0), studies_per_day)
    return (everyone, *sorted(loads, key=lambda load: -load.mean))


def at_prevalence(with_finding: Mapping[str, int], without: Mapping[str, int], prevalence: float) -> dict[str, float]:
    """Shares of studies per route where the finding is as frequent as `prevalence`, from counts of each kind.

    A kind without a case counts as REVIEW. Raises ValueError unless the prevalence is a share.
    """
    if not 0.0 <= prevalence <= 1.0:
        raise ValueError(f"a prevalence is a share, got {prevalence}")
    routes = sorted({*with_finding, *without, "REVIEW"})
    found = dict.fromkeys(routes, 0.0)
    for counts, weight in ((with_finding, prevalence), (without, 1.0 - prevalence)):
        total = sum(counts.values())
        for route in routes:
            share = counts.get(route, 0) / total if total else float(route == "REVIEW")
            found[route] += weight * share
    return found


def _load(specialty: str, share: float, studies: int) -> SpecialtyLoad:
    return SpecialtyLoad(
        specialty=specialty, share=share, mean=share * studies, busy=int(binom.ppf(BUSY_DAY, studies, share))
    )
