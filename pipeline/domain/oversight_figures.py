"""The figures of the lead's page, worked out from plain rows: waits with their tail, shares with their interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class WaitSummary:
    """Waits of one kind of item in minutes; None where there is none."""

    n: int
    open: int
    mean: float | None
    p99: float | None
    longest: float | None
    over_limit: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """`part` of `n` with the 95 % Wilson interval; None where n is 0."""

    part: int
    n: int
    value: float | None
    low: float | None
    high: float | None


def summarise_waits(minutes: Sequence[float], *, still_open: int, over_limit: int) -> WaitSummary:
    """Mean, 99th percentile (nearest rank) and longest of the waits."""
    if not minutes:
        return WaitSummary(n=0, open=still_open, mean=None, p99=None, longest=None, over_limit=over_limit)
    ordered = sorted(minutes)
    return WaitSummary(
        n=len(ordered),
        open=still_open,
        mean=math.fsum(ordered) / len(ordered),
        p99=ordered[math.ceil(0.99 * len(ordered)) - 1],
        longest=ordered[-1],
        over_limit=over_limit,
    )


def share(part: int, n: int) -> Share:
    """A share with its Wilson interval; raises ValueError unless 0 <= part <= n."""
    if not 0 <= part <= n:
        raise ValueError(f"a part lies between 0 and the whole, got {part} of {n}")
    if n == 0:
        return Share(part=0, n=0, value=None, low=None, high=None)
    found, weight = part / n, _Z95**2 / n
    middle = (found + weight / 2) / (1 + weight)
    half = _Z95 / (1 + weight) * math.sqrt(found * (1 - found) / n + weight / (4 * n))
    return Share(part=part, n=n, value=found, low=max(0.0, middle - half), high=min(1.0, middle + half))
