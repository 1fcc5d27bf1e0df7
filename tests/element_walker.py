"""Where the elements of a DICOM file lie, byte by byte, so that tests can tell lies about them.

No DICOM library is asked: one that writes would mend what a test breaks. Little endian only, explicit, implicit and
deflated (PS3.5 section 7.1); whatever is not understood ends the walk.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

PREAMBLE = 128
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA, TRANSFER_SYNTAX = 0x7FE00010, 0x00020010
IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


@dataclass(frozen=True, kw_only=True)
class Element:
    """One element or item: offsets into its part of the file, bytes; `vr` is empty where the encoding has none.

    `end` lies behind the delimiter of an undefined length; `depth` counts the sequences and items around it.
    """

    tag: int
    vr: bytes
    start: int
    length_at: int
    length_size: int
    value_at: int
    end: int
    depth: int = 0
    in_meta: bool = False

    @property
    def stated_at(self) -> range:
        """Where the length is written."""
        return range(self.length_at, self.length_at + self.length_size)


@dataclass(frozen=True, kw_only=True)
class OpenedFile:
    """A file taken apart: preamble, prefix and meta information in `head`, the inflated data set in `body`."""

    head: bytes
    body: bytes
    syntax: str
    elements: Sequence[Element] = field(repr=False)  #: those of the meta information first

    @property
    def implicit(self) -> bool:
        """Whether the data set has no value representations."""
        return self.syntax == IMPLICIT

    def part(self, element: Element) -> bytes:
        """Where the offsets of the element count."""
        return self.head if element.in_meta else self.body

    def value(self, element: Element) -> bytes:
        """The bytes of its value."""
        return self.part(element)[element.value_at : element.end]

    def whole(self, element: Element) -> bytes:
        """Its bytes with tag and length."""
        return self.part(element)[element.start : element.end]

    def find(self, tag: int) -> Element | None:
        """The first element of that tag, at any depth."""
        return next((element for element in self.elements if element.tag == tag), None)

    def replaced(self, element: Element, at: int, to: int, content: bytes) -> bytes:
        """The file with other bytes from `at` to `to` of the part that holds the element."""
        part = self.part(element)
        changed = part[:at] + content + part[to:]
        return self.with_head(changed) if element.in_meta else self.with_body(changed)

    def with_value(self, element: Element, value: bytes, *, vr: bytes | None = None) -> bytes:
        """The file with another value, whose length is told truly, and perhaps another value representation."""
        implicit = self.implicit and not element.in_meta
        new = encoded(element.tag, element.vr if vr is None else vr, value, implicit=implicit)
        return self.replaced(element, element.start, element.end, new)

    def with_body(self, body: bytes) -> bytes:
        """The file with another data set, deflated again where it was."""
        return self.head + (deflated(body) if self.syntax == DEFLATED else body)

    def with_head(self, head: bytes) -> bytes:
        """The file with another beginning."""
        return head + (deflated(self.body) if self.syntax == DEFLATED else self.body)


def opened(data: bytes) -> OpenedFile:
    """The file taken apart; one without meta information is all head."""
    if data[PREAMBLE : PREAMBLE + 4] != b"DICM":
        return OpenedFile(head=data, body=b"", syntax="", elements=())
    meta: list[Element] = []
    ends_at = _walk(meta, data, PREAMBLE + 4, len(data), implicit=False, meta=True)
    named = next((one for one in meta if one.tag == TRANSFER_SYNTAX), None)
    syntax = "" if named is None else data[named.value_at : named.end].rstrip(b"\0 ").decode("ascii", "replace")
    body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[ends_at:]) if syntax == DEFLATED else data[ends_at:]
    found: list[Element] = []
    _walk(found, body, 0, len(body), implicit=syntax == IMPLICIT)
    return OpenedFile(head=data[:ends_at], body=body, syntax=syntax, elements=(*meta, *found))


def deflated(body: bytes) -> bytes:
    """A data set as PS3.5 annex A.5 deflates it."""
    machine = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return machine.compress(body) + machine.flush()


def encoded(tag: int, vr: bytes, value: bytes, *, implicit: bool, length: int | None = None) -> bytes:
    """One element; `length` is what it claims where that is not the truth."""
    stated = len(value) if length is None else length
    if tag >> 16 == 0xFFFE or implicit:
        return _tag_bytes(tag) + struct.pack("<L", stated & UNDEFINED) + value
    if vr in LONG_FORM:
        return _tag_bytes(tag) + vr + b"\0\0" + struct.pack("<L", stated & UNDEFINED) + value
    return _tag_bytes(tag) + vr + struct.pack("<H", stated & 0xFFFF) + value


def _tag_bytes(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _walk(
    found: list[Element],
    data: bytes,
    at: int,
    stop: int,
    *,
    implicit: bool,
    depth: int = 0,
    meta: bool = False,
    fragments: bool = False,
) -> int:
    """Add what lies between `at` and `stop` to `found`, outer before inner; returns where reading ended."""
    while at + 8 <= stop:
        group, number = struct.unpack_from("<HH", data, at)
        tag = group << 16 | number
        if tag in {ITEM_END, SEQUENCE_END}:
            return at + 8
        if meta and group != 0x0002:
            return at
        vr, length_at, size = _form(data, at, implicit=implicit or group == 0xFFFE)
        value_at = length_at + size
        if value_at > stop:
            return stop
        length = int.from_bytes(data[length_at:value_at], "little")
        place, within = len(found), {"implicit": implicit, "depth": depth + 1, "fragments": tag == PIXEL_DATA}
        if size == 4 and length == UNDEFINED:
            end = _walk(found, data, value_at, stop, **within)
        else:
            end = min(value_at + length, stop)
            if not fragments and _is_nested(data, tag, vr, value_at, implicit=implicit):
                _walk(found, data, value_at, end, **within)
        lies = {"start": at, "length_at": length_at, "length_size": size, "value_at": value_at, "end": end}
        found.insert(place, Element(tag=tag, vr=vr, depth=depth, in_meta=meta, **lies))
        at = end
    return at


def _form(data: bytes, at: int, *, implicit: bool) -> tuple[bytes, int, int]:
    """Value representation, offset and size of the length."""
    if implicit:
        return b"", at + 4, 4
    vr = data[at + 4 : at + 6]
    return (vr, at + 8, 4) if vr in LONG_FORM else (vr, at + 6, 2)


def _is_nested(data: bytes, tag: int, vr: bytes, value_at: int, *, implicit: bool) -> bool:
    if tag == ITEM or vr == b"SQ":
        return True
    return implicit and tag != PIXEL_DATA and data[value_at : value_at + 4] == _tag_bytes(ITEM)
