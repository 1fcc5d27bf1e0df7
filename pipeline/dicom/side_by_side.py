"""The same work on several things at once, in threads: for decoders and array arithmetic, which let go of the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final, TypeVar

MOST_THREADS: Final = 4  #: more gain little on one series, and every thread costs the child address space

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def free_cores() -> int:
    """Threads worth starting here, at most `MOST_THREADS`."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(MOST_THREADS, cores)


def side_by_side(work: Callable[[Thing], Result], things: Sequence[Thing], threads: int) -> list[Result]:
    """The results in the order of `things`; of several errors the first in that order is raised, as a loop would."""
    if threads <= 1 or len(things) <= 1:
        return [work(thing) for thing in things]
    with ThreadPoolExecutor(min(threads, len(things))) as pool:
        return list(pool.map(work, things))


def shares(count: int, threads: int) -> list[range]:
    """0 to `count` cut into at most `threads` runs of nearly equal length, none empty."""
    parts = max(1, min(count, threads))
    ends = [count * part // parts for part in range(parts + 1)]
    return [range(start, end) for start, end in pairwise(ends)]
