"""Three-valued logic: a missing tag is unknown, and unknown is neither true nor false (Kleene 1952)."""

from __future__ import annotations

from collections.abc import Iterable

Truth = bool | None


def all_of(truths: Iterable[Truth]) -> Truth:
    """False if any is false, else None if any is unknown, else True."""
    found = set(truths)
    return False if False in found else None if None in found else True


def agreed(truths: Iterable[Truth]) -> Truth:
    """The truth that all share; None where they differ or there are none."""
    found = set(truths)
    return found.pop() if len(found) == 1 else None
