"""When to try again: later and later, never all at once, and after three days by a person."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from typing import Final

FIRST: Final = timedelta(seconds=30)
LONGEST: Final = timedelta(hours=1)
HORIZON: Final = timedelta(hours=72)
"""What could not be done for this long is parked: kept, named and shown, and no longer tried by itself."""


def next_attempt(attempts: int, now: datetime, random: Random) -> datetime:
    """Full jitter over a wait that doubles with every attempt made, up to an hour."""
    longest = min(LONGEST, FIRST * float(2 ** min(attempts, 16)))
    return now + FIRST / 2 + (longest - FIRST / 2) * random.random()


def is_over(since: datetime, now: datetime) -> bool:
    """Whether the time of trying by itself has passed."""
    return now - since >= HORIZON
