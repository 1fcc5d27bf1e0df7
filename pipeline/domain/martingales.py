"""Watching a policy in use: bets against "all is as certified", whose capital only grows when it is not.

Audit reads give labels: the e-process bets that the miss rate exceeds what was certified, and its capital reaches 1 / delta
with probability at most delta however long it is watched (Ville's inequality). Without labels, conformal p-values of a
score are uniform as long as new cases are exchangeable with the earlier ones; the simple jumper (Vovk et al. 2021,
arXiv:2102.10439) bets that they are not. The ranks must be taken among the reference and all earlier cases of the stream:
against a fixed reference the p-values share its chance errors, and false alarms come many times as often as promised.
An alarm is latched, for a martingale falls again once the new state has become the ordinary one.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import HaltPipeline

MULTIPLES = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0)  # of the certified rate, that are bet on
JUMP = 0.01
EXPERTS = (-1.0, 0.0, 1.0)
_HIGHEST_RATE = 0.99
_LARGEST_LOG = 700.0  # beyond which a float overflows


@dataclass(frozen=True, kw_only=True)
class MissWatch:
    """The e-process over blind audit reads of ROUTINE cases, against a miss rate of at most `rate`.

    `logs` are the log capitals of the bets on each multiple of the rate. Raises ValueError where a limit is none.
    """

    rate: float
    delta: float
    reads: int = 0
    misses: int = 0
    logs: tuple[float, ...] = (0.0,) * len(MULTIPLES)
    highest: float = 1.0  #: e-value ever reached
    alarmed_at: int | None = None  #: reads made when the alarm was raised

    def __post_init__(self) -> None:
        if not (0.0 < self.rate < _HIGHEST_RATE and 0.0 < self.delta < 1.0) or len(self.logs) != len(MULTIPLES):
            raise ValueError("a watch needs a certified rate and a delta between 0 and 1")

    @property
    def e_value(self) -> float:
        """The capital now, the mean over the bets."""
        return float(np.exp(np.minimum(self.logs, _LARGEST_LOG)).mean())

    def after(self, miss: bool) -> MissWatch:
        """The watch after one more audit read that found a miss, or none."""
        bets = [min(m * self.rate, _HIGHEST_RATE) for m in MULTIPLES]
        gains = [math.log(q / self.rate) if miss else math.log((1.0 - q) / (1.0 - self.rate)) for q in bets]
        moved = replace(
            self,
            reads=self.reads + 1,
            misses=self.misses + int(miss),
            logs=tuple(log + gain for log, gain in zip(self.logs, gains, strict=True)),
        )
        return _latched(moved, moved.e_value, moved.reads)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able state; the inverse of `from_dict`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"logs": list(self.logs)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> MissWatch:
        """The watch in `content`, which goes on as if it had never stopped; raises TypeError, KeyError or ValueError."""
        return cls(**{**content, "logs": tuple(content["logs"])})


def any_site(watches: Mapping[str, MissWatch]) -> tuple[bool, tuple[str, ...]]:
    """Whether some site exceeds its rate (mean e-value at 1 / delta), and the sites that do by themselves (at G / delta).

    Raises ValueError without a site.
    """
    if not watches:
        raise ValueError("needs at least one site")
    delta = min(watch.delta for watch in watches.values())
    named = tuple(name for name, watch in watches.items() if watch.highest >= len(watches) / delta)
    together = sum(watch.e_value for watch in watches.values()) / len(watches)
    return bool(named) or together >= 1.0 / delta, named


@dataclass(frozen=True, kw_only=True)
class ShiftWatch:
    """The conformal test martingale of a stream of scores, ranked among `seen` (rising): the reference and all since."""

    delta: float
    seed: int
    seen: tuple[float, ...]
    cases: int = 0
    capital: tuple[float, ...] = field(default=(1.0 / len(EXPERTS),) * len(EXPERTS))
    highest: float = 1.0
    alarmed_at: int | None = None

    @classmethod
    def start(cls, reference: ArrayLike, *, delta: float, seed: int) -> ShiftWatch:
        """A watch that has seen the `reference` scores (n,) only; raises ValueError where they are none or undefined."""
        scores = np.asarray(reference, dtype=np.float64)
        if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all() or not 0.0 < delta < 1.0:
            raise ValueError("a watch needs finite reference scores and a delta between 0 and 1")
        return cls(delta=delta, seed=seed, seen=tuple(np.sort(scores).tolist()))

    def after(self, score: float) -> ShiftWatch:
        """The watch after one more case; raises ValueError for a score that is not finite."""
        if not math.isfinite(score):
            raise ValueError("a score that is not finite cannot be ranked; defer its case")
        p = self._p_value(score)
        grown = list(self.seen)
        bisect.insort(grown, score)
        capital = jumped(self.capital, p)
        moved = replace(self, seen=tuple(grown), cases=self.cases + 1, capital=capital)
        return _latched(moved, sum(capital), moved.cases)

    def _p_value(self, score: float) -> float:
        """Share of the seen and this one that are larger, ties broken by a number of its own."""
        lot = float(np.random.default_rng([self.seed, self.cases]).random())
        above = len(self.seen) - bisect.bisect_right(self.seen, score)
        equal = len(self.seen) - above - bisect.bisect_left(self.seen, score)
        return (above + lot * (equal + 1)) / (len(self.seen) + 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able state; the inverse of `from_dict`."""
        lists = {"seen": list(self.seen), "capital": list(self.capital)}
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | lists

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ShiftWatch:
        """The watch in `content`, which goes on as if it had never stopped; raises TypeError, KeyError or ValueError."""
        return cls(**{**content, "seen": tuple(content["seen"]), "capital": tuple(content["capital"])})


def jumped(capital: Sequence[float], p: float) -> tuple[float, ...]:
    """The experts' capitals after one p-value: a hundredth is shared anew, then each is multiplied by 1 + e (p - 1/2)."""
    total = sum(capital)
    shared = [(1.0 - JUMP) * held + JUMP / len(EXPERTS) * total for held in capital]
    return tuple(held * (1.0 + e * (p - 0.5)) for held, e in zip(shared, EXPERTS, strict=True))


Watch = TypeVar("Watch", MissWatch, ShiftWatch)


def effective_size(weights: ArrayLike, *, needed: float) -> float:
    """(sum w)^2 / sum w^2 of importance weights (n,); raises HaltPipeline below `needed`, ValueError for no weights."""
    w: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or not np.isfinite(w).all() or (w < 0).any() or not w.any():
        raise ValueError("weights are finite, not negative and not all zero")
    size = float(w.sum() ** 2 / (w**2).sum())
    if size < needed:
        raise HaltPipeline(
            f"reweighted to the new population the cases count as {size:.0f} and {needed:.0f} are needed; certify on new cases"
        )
    return size


def _latched(watch: Watch, value: float, at: int) -> Watch:
    raised = watch.alarmed_at is None and value >= 1.0 / watch.delta
    return replace(watch, highest=max(watch.highest, value), alarmed_at=at if raised else watch.alarmed_at)
