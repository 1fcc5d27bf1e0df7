"""Reading single attributes: a bad value is an absent value, and text is short and free of control characters.

pydicom echoes values in its warnings and exceptions; nothing of them leaves this module.
"""

from __future__ import annotations

import logging
import math
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement

LONGEST_TEXT: Final = 256  #: characters of one value that are kept
LONGEST_VALUE: Final = 65534  #: bytes of text and numbers, what explicit headers can state (PS3.5 section 7.1.2)
_LONG_REPRESENTATIONS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_TEXT_REPRESENTATIONS: Final = frozenset({"AE", "AS", "CS", "DA", "LO", "PN", "SH", "TM", "UI"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence libraries that echo values in warnings and log lines, while in-process code reads a file."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def value(dataset: Dataset, keyword: str) -> Any:
    """The value of `keyword`, or None where it is absent, empty, endless or cannot be converted."""
    if _is_endless(dataset, keyword):
        return None
    try:
        found = dataset.get(keyword)
    except Exception:  # noqa: BLE001  a library boundary: mutated files raise a dozen types
        return None
    return None if found is None or found == "" else found


def _is_endless(dataset: Dataset, keyword: str) -> bool:
    """Whether text or numbers, which make an object of every part, are longer than any sound ones."""
    raw = getattr(dataset.get_item(_tag(keyword)), "value", None)
    return isinstance(raw, bytes) and len(raw) > LONGEST_VALUE and _is_bounded(keyword)


@cache
def _is_bounded(keyword: str) -> bool:
    return dictionary_VR(_tag(keyword)) not in _LONG_REPRESENTATIONS


def text(dataset: Dataset, keyword: str) -> str | None:
    """The value as text of at most `LONGEST_TEXT` characters without control characters, or None."""
    found: Any = _plain_text(dataset, keyword)
    if found is None:
        found = value(dataset, keyword)
    if isinstance(found, Sequence) and not isinstance(found, str | bytes):
        found = "\\".join(str(part) for part in found)
    if found is None or isinstance(found, bytes):
        return None
    return _CONTROL.sub(" ", str(found)).strip()[:LONGEST_TEXT].rstrip() or None


def _plain_text(dataset: Dataset, keyword: str) -> str | None:
    """ASCII text straight from the bytes of an element not yet converted: the common case, ten times faster."""
    element: Any = dataset.get_item(_tag(keyword))
    if not isinstance(element, RawDataElement) or element.VR not in _TEXT_REPRESENTATIONS:
        return None
    raw = element.value
    return (
        raw.decode("ascii").rstrip(" \0") if isinstance(raw, bytes) and raw.isascii() and b"\x1b" not in raw else None
    )


@cache
def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Every value of a multi-valued text attribute; empty when absent."""
    whole = text(dataset, keyword)
    return tuple(part.strip() for part in whole.split("\\")) if whole else ()


def uid(dataset: Dataset, keyword: str) -> str | None:
    """The value as text, whatever it holds (see `is_uid`), or None when absent."""
    return text(dataset, keyword)


def is_uid(candidate: str) -> bool:
    """Whether the text is a UID: digits and single dots, 64 characters at most (PS3.5 section 9.1)."""
    return len(candidate) <= 64 and _UID.fullmatch(candidate) is not None


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    found = _plain_numbers(dataset, keyword)
    if found is None:
        found = value(dataset, keyword)
    parts = found if isinstance(found, Sequence) and not isinstance(found, str | bytes) else (found,)
    try:
        converted = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        return None
    return converted if len(converted) == count and all(map(math.isfinite, converted)) else None


def _plain_numbers(dataset: Dataset, keyword: str) -> Sequence[str] | Sequence[int] | None:
    """The parts of an unconverted decimal or integer string, or of unsigned shorts, straight from the bytes."""
    element: Any = dataset.get_item(_tag(keyword))
    raw = element.value if isinstance(element, RawDataElement) else None
    if not isinstance(element, RawDataElement) or not isinstance(raw, bytes):
        return None
    if element.VR in {"DS", "IS"} and raw.isascii():
        return raw.decode("ascii").rstrip(" \0").split("\\")
    if element.VR == "US" and len(raw) % 2 == 0:
        order = "<" if element.is_little_endian else ">"
        return struct.unpack(f"{order}{len(raw) // 2}H", raw)
    return None


def number(dataset: Dataset, keyword: str) -> float | None:
    """One finite number, or None."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """One integer that fits 64 bits, or None."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found.is_integer() and abs(found) < 2**53 else None


def items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; empty when absent."""
    found = value(dataset, keyword)
    return found if isinstance(found, Sequence) and not isinstance(found, str | bytes) else ()
