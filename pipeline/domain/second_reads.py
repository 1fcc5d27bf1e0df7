"""Which reads are made twice, and when two say the same.

The draw is keyed like that of audit reads, for another purpose, so that neither tells anything about the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.domain.audit_sampling import drawn_for_audit

FIRST, SECOND, ADJUDICATION = 1, 2, 3
"""Rounds of a case: two blind reads, and the read that decides between them."""

_PURPOSE = "second read"


def drawn_for_second_read(key: bytes, case_id: str, share: float) -> bool:
    """Whether a `share` in [0, 1] of cases holds this one; without a key only 0 and 1 can be told.

    Raises ValueError for an empty id, or a share outside [0, 1].
    """
    if not key and share in {0.0, 1.0}:
        return share == 1.0
    return drawn_for_audit(key, f"{_PURPOSE}\x1f{case_id}" if case_id else "", share)


def asks_for_second(
    *, finding: str, certainty: int, findings: Sequence[str], least_certainty: int, drawn: bool
) -> bool:
    """Whether a first read is followed by another one: by the draw, by what it found, or because it was not sure."""
    return drawn or finding in findings or certainty < least_certainty


def are_concordant(first: str, second: str) -> bool:
    """Whether two reads found the same; that a case cannot be read is a finding of its own."""
    return first == second
