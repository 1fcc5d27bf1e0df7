"""Which confident cases are read blind: a keyed draw that nobody without the key can foresee and everyone with it repeats."""

from __future__ import annotations

import hashlib
import hmac
import math

_BYTES = 8


def drawn_for_audit(key: bytes, case_id: str, share: float) -> bool:
    """Whether the case is read blind, for a `share` in [0, 1] of cases, from HMAC-SHA256 of its id.

    Raises ValueError for an empty key or id, or a share outside [0, 1]: no draw is not the same as not drawn.
    """
    if not key or not case_id:
        raise ValueError("the audit draw needs a key and a case id")
    if not (math.isfinite(share) and 0.0 <= share <= 1.0):
        raise ValueError(f"the audit share lies in [0, 1], got {share}")
    drawn = int.from_bytes(hmac.new(key, case_id.encode(), hashlib.sha256).digest()[:_BYTES], "big")
    return drawn < share * float(1 << (8 * _BYTES))
