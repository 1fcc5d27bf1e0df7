"""What stands in for an identifier: keyed UIDs, and dates moved by a number of days that is the patient's own.

Everything follows by HMAC-SHA256 from the key and the original alone: the same in every process, and without the key
neither to be foreseen nor to be reversed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Final

from pydicom.uid import UID

LONGEST_MOVE: Final = 3652  #: days that dates are moved back at most
_DATE: Final = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")
_TIME: Final = re.compile(r"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?")
_ZONE: Final = re.compile(r"[+-][0-9]{4}$")


@dataclass(frozen=True)
class Replacements:
    """The replacements for one patient, known by `pseudonym`, under `key`."""

    key: bytes = field(repr=False)
    pseudonym: str

    def uid(self, original: str) -> str:
        """`2.25.` and the decimal of a UUID (PS3.5 section B.2); UIDs registered in PS3.6 stay, and so does ""."""
        if not original or UID(original).type:
            return original
        return f"2.25.{uuid.UUID(bytes=self._keyed('uid', original)[:16], version=4).int}"

    @cached_property
    def days(self) -> int:
        """How many days the patient's dates are moved back: 1 to `LONGEST_MOVE`."""
        return 1 + int.from_bytes(self._keyed("days", self.pseudonym)[:8], "big") % LONGEST_MOVE

    def date(self, original: str) -> str:
        """A DA value (PS3.5 section 6.2) moved back; "" where it is no day of the calendar."""
        match = _DATE.fullmatch(original)
        try:
            moved = date(*(int(part) for part in match.groups())).toordinal() - self.days if match else 0
            return f"{date.fromordinal(moved):%Y%m%d}".zfill(8)
        except ValueError:
            return ""

    def datetime(self, original: str) -> str:
        """A DT value moved back, without its offset from UTC, which tells a place; "" where it holds no whole day."""
        local = _ZONE.sub("", original)
        moved, time = self.date(local[:8]), local[8:]
        return moved + time if moved and (not time or _TIME.fullmatch(time)) else ""

    @staticmethod
    def time(original: str) -> str:
        """A TM value as it is, since only days are moved; "" where it is no time."""
        return original if _TIME.fullmatch(original) else ""

    def _keyed(self, kind: str, original: str) -> bytes:
        return hmac.digest(self.key, f"{kind}|{original}".encode("utf-8", "surrogatepass"), hashlib.sha256)
