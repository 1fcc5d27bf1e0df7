"""DICOM files broken with knowledge of their structure: one seed, one operator, one mutant, always the same.

The bytes are changed where `element_walker` says that elements lie, never written by a DICOM library, so that what is
told about lengths, order and encoding may be untrue. An operator that has nothing to work on passes on to the next.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.element_walker import (
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    PREAMBLE,
    SEQUENCE_END,
    TRANSFER_SYNTAX,
    UNDEFINED,
    Element,
    OpenedFile,
    encoded,
    opened,
)

#: Image Pixel attributes that are unsigned shorts (PS3.3 C.7.6.3), and others of that kind.
INTEGERS = (0x00280002, 0x00280004, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103)
BOUNDARY_INTEGERS = (0, 1, 2, 7, 9, 15, 17, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
NUMBER_OF_FRAMES, SPECIFIC_CHARACTER_SET = 0x00280008, 0x00080005
#: Rescale slope and intercept, spacings, thickness, position, orientation.
DECIMALS = (0x00281053, 0x00281052, 0x00280030, 0x00180088, 0x00180050, 0x00200032, 0x00200037)
ODD_DECIMALS = (
    b"nan", b"NaN", b"inf", b"-inf", b"1e309", b"-0", b"0", b"", b"1e-320", b"1,5", b"\xd9\xa3", b"9" * 4000,
)  # fmt: skip
UIDS = (0x0020000D, 0x0020000E, 0x00080018, 0x00080016)
ODD_UIDS = (
    b"../../etc/x", b"/etc/passwd", b"", b"1.2.3\x00.4", b"\0" * 8, b"1." * 60, b"1.2." + b"9" * 3000, b"1..2", b".1",
    b"1.2.840\\1.2.841", b"1.2 .3", b"'; DROP TABLE study;--", b"%2e%2e%2f", b"\xff\xfe\xfd\xfc",
)  # fmt: skip
FRAME_COUNTS = (
    b"0", b"-1", b"2", b"1.5", b"65535", b"2147483648", b"4294967296", b"1e9", b"99999999999999999999", b"x",
)  # fmt: skip
SYNTAXES = (
    IMPLICIT, EXPLICIT, DEFLATED, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.8.1", "1.2.3.4.5.6", "", "../../x",
)  # fmt: skip
PROGRAMS = (
    b"MZ\x90\x00", b"\x7fELF\x02\x01", b"#!/bin/sh\n", b"\xfe\xed\xfa\xcf", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe",
)  # fmt: skip
DUAL_USE = (b"%PDF-1.7\n", b"PK\x03\x04", b"II*\x00\x08\x00\x00\x00", b"<html>", b"\x1f\x8b\x08")
CHARACTER_SETS = (
    b"ISO_IR 999", b"ISO 2022 IR 87", b"\\ISO 2022 IR 87\\ISO 2022 IR 149", b"ISO_IR 13", b"GB18030", b"utf-7", b"\xff",
    b"rot13", b"\\" * 40, b"unicode_escape",
)  # fmt: skip
ODD_TEXTS = (
    b"\xff\xfe\x00\xd8", b"\x1b$B" + b"\x7f" * 31, b"\x1b(I\xb1^\xb2=\x1b$)C\xff", b"<script>\x00'\"&",
    b"\xc0\xaf" * 9,
)  # fmt: skip
REPRESENTATIONS = (b"US", b"UL", b"DS", b"IS", b"LO", b"UI", b"SQ", b"OW", b"UN", b"FD", b"AT", b"PN", b"ZZ", b"\0\0")


@dataclass(frozen=True)
class Specimen:
    """What an operator works on: a file, taken apart too, another one to take parts from, and its dice."""

    data: bytes
    donor: bytes
    dice: random.Random
    file: OpenedFile = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", opened(self.data))

    def any_of(self, tags: Sequence[int]) -> Element | None:
        """One element among those tags, at whatever depth."""
        return self.one([element for element in self.file.elements if element.tag in tags])

    def of_kind(self, vr: bytes, tags: Sequence[int]) -> Element | None:
        """One element of those tags, or now and then any of that value representation."""
        others = [element for element in self.file.elements if element.vr == vr]
        return self.one(others) if others and self.dice.random() < 0.3 else self.any_of(tags)

    def one(self, elements: Sequence[Element]) -> Element | None:
        """One of them, or None when there are none."""
        return self.dice.choice(elements) if elements else None

    def inserted(self, new: bytes, tag: int) -> bytes:
        """The file with another element where its tag belongs."""
        top = [element for element in self.file.elements if not element.in_meta and element.depth == 0]
        at = next((element.start for element in top if element.tag >= tag), len(self.file.body))
        return self.file.with_body(self.file.body[:at] + new + self.file.body[at:])

    def encoded(self, tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
        """An element of the data set."""
        return encoded(tag, vr, value, implicit=self.file.implicit, length=length)


Operator = Callable[[Specimen], bytes | None]


def mutate(data: bytes, seed: int, *, donor: bytes = b"") -> tuple[str, bytes]:
    """The name of an operator and the mutant it made of the bytes; the same bytes, seed and donor give the same."""
    dice = random.Random(seed)
    specimen = Specimen(data, donor or data, dice)
    for name in dice.sample(list(OPERATORS), len(OPERATORS)):
        mutant = OPERATORS[name](specimen)
        if mutant is not None and mutant != data:
            return name, mutant
    raise ValueError("no operator changes these bytes")


def with_uids(data: bytes, study: int, instance: int = 0) -> bytes:
    """The file as an instance of a study and series of its own; not one byte longer or shorter."""
    file = opened(data)
    body = bytearray(file.body)
    names = {0x0020000D: f"1.1.{study}.", 0x0020000E: f"1.2.{study}.", 0x00080018: f"1.3.{study}.{instance}."}
    for element in file.elements:
        if element.depth == 0 and element.tag in names:
            name, length = names[element.tag], element.end - element.value_at
            if len(name) >= length:
                raise ValueError("the UIDs of these bytes are too short to hold others")
            body[element.value_at : element.end] = name.ljust(length, "7").encode()
    return file.with_body(bytes(body))


def _deleted(given: Specimen) -> bytes | None:
    found = given.one(given.file.elements)
    return found and given.file.replaced(found, found.start, found.end, b"")


def _retagged(given: Specimen) -> bytes | None:
    found = given.one(given.file.elements)
    known = [element.tag for element in given.file.elements]
    tag = given.dice.choice([given.dice.choice(known), given.dice.getrandbits(32), 0, UNDEFINED, 0xFFFEE00D])
    new = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    return given.file.replaced(found, found.start, found.start + 4, new)


def _other_representation(given: Specimen) -> bytes | None:
    """Another VR in the same place; an implicit data set gets one element written as an explicit one."""
    found = given.one(given.file.elements)
    vr = given.dice.choice(REPRESENTATIONS)
    if found.vr:
        return given.file.replaced(found, found.start + 4, found.start + 6, vr)
    new = encoded(found.tag, vr, given.file.value(found), implicit=False)
    return given.file.replaced(found, found.start, found.end, new)


def _boundary_integer(given: Specimen) -> bytes | None:
    if given.dice.random() < 0.25:
        return _other_frame_count(given)
    found = given.of_kind(b"US", INTEGERS)
    if found is None or found.end - found.value_at < 2:
        return None
    (true,) = struct.unpack_from("<H", given.file.value(found))
    value = given.dice.choice([*BOUNDARY_INTEGERS, true + 1, true - 1, true * 2, true // 2]) & 0xFFFF
    if given.dice.random() < 0.1:
        return given.file.with_value(found, struct.pack("<L", value << 16 | value), vr=b"UL")
    return given.file.replaced(found, found.value_at, found.value_at + 2, struct.pack("<H", value))


def _other_frame_count(given: Specimen) -> bytes:
    count = given.dice.choice(FRAME_COUNTS)
    count += b" " * (len(count) % 2)
    found = given.file.find(NUMBER_OF_FRAMES)
    if found is None:
        return given.inserted(given.encoded(NUMBER_OF_FRAMES, b"IS", count), NUMBER_OF_FRAMES)
    return given.file.with_value(found, count)


def _odd_decimal(given: Specimen) -> bytes | None:
    found = given.of_kind(b"DS", DECIMALS)
    if found is None:
        return None
    parts = given.file.value(found).split(b"\\")
    parts[given.dice.randrange(len(parts))] = given.dice.choice(ODD_DECIMALS)
    return given.file.with_value(found, b"\\".join(parts))


def _odd_uid(given: Specimen) -> bytes | None:
    found = given.of_kind(b"UI", UIDS)
    return found and given.file.with_value(found, given.dice.choice(ODD_UIDS))


def _false_length(given: Specimen) -> bytes | None:
    """Another length at the place of a true one."""
    found = given.one(given.file.elements)
    true = int.from_bytes(given.file.part(found)[found.length_at : found.value_at], "little")
    lies = (true | 1, true + 1, true - 1, true + 2, true * 2, true // 2, 0, 0xFFFFFFF0, UNDEFINED, 0x7FFFFFFF)
    most = (1 << 8 * found.length_size) - 1
    new = (given.dice.choice(lies) & most).to_bytes(found.length_size, "little")
    return given.file.replaced(found, found.stated_at.start, found.stated_at.stop, new)


def _other_syntax(given: Specimen) -> bytes | None:
    found = given.file.find(TRANSFER_SYNTAX)
    if found is None:
        return None
    name = given.dice.choice(SYNTAXES).encode()
    return given.file.with_value(found, name + b"\0" * (len(name) % 2))


def _spliced(given: Specimen) -> bytes | None:
    """The beginning of one file and the end of another, both at an element's edge or anywhere."""
    if given.dice.random() < 0.3:
        return (
            given.data[: given.dice.randrange(len(given.data))] + given.donor[given.dice.randrange(len(given.donor)) :]
        )
    other = opened(given.donor)
    ours = given.one([element for element in given.file.elements if not element.in_meta])
    theirs = given.one([element for element in other.elements if not element.in_meta])
    if ours is None or theirs is None:
        return None
    return given.file.with_body(given.file.body[: ours.start] + other.body[theirs.start :])


def _truncated(given: Specimen) -> bytes | None:
    return given.data[: given.dice.randrange(len(given.data))]


def _noisy(given: Specimen) -> bytes | None:
    """Random bytes, one or a run of them; half of the time where headers are."""
    data = bytearray(given.data)
    start = PREAMBLE + given.dice.randrange(min(len(data) - PREAMBLE, given.dice.choice([2000, len(data)])))
    for at in range(start, min(len(data), start + given.dice.choice([1, 2, 4, 16, 200]))):
        data[at] = given.dice.randrange(256)
    return bytes(data)


def _flipped(given: Specimen) -> bytes | None:
    data = bytearray(given.data)
    reach = given.dice.choice([2000, len(data)])
    for _ in range(given.dice.choice([1, 1, 2, 8])):
        at = given.dice.randrange(PREAMBLE, min(len(data), PREAMBLE + reach))
        data[at] ^= 1 << given.dice.randrange(8)
    return bytes(data)


def _polyglot(given: Specimen) -> bytes | None:
    start = given.dice.choice(PROGRAMS + DUAL_USE)
    return start + given.data[len(start) :]


def _deeply_nested(given: Specimen) -> bytes | None:
    """Sequences in sequences; some end properly, some not at all."""
    depth = given.dice.choice([10, 100, 1000, 1000])
    tag = given.dice.choice([0x00081140, 0x00091010, 0x00400275, 0x52009229])
    new = nested_sequences(tag, depth, implicit=given.file.implicit, ended=given.dice.random() < 0.7)
    return given.inserted(new, tag)


def nested_sequences(tag: int, depth: int, *, implicit: bool, ended: bool = True) -> bytes:
    """A sequence of one item that holds such a sequence, `depth` times, all of undefined length."""
    begin = encoded(tag, b"SQ", b"", implicit=implicit, length=UNDEFINED)
    begin += encoded(ITEM, b"", b"", implicit=True, length=UNDEFINED)
    end = encoded(ITEM_END, b"", b"", implicit=True) + _END
    return begin * depth + (end * depth if ended else b"")


def _odd_characters(given: Specimen) -> bytes | None:
    """A character set that does not exist or does not fit, and text that no character set reads."""
    if given.dice.random() < 0.5:
        found = given.one([one for one in given.file.elements if one.vr in {b"LO", b"SH", b"PN", b"CS", b"ST", b"LT"}])
        return found and given.file.with_value(found, given.dice.choice(ODD_TEXTS))
    name = given.dice.choice(CHARACTER_SETS)
    found = given.file.find(SPECIFIC_CHARACTER_SET)
    if found is None:
        return given.inserted(given.encoded(SPECIFIC_CHARACTER_SET, b"CS", name), SPECIFIC_CHARACTER_SET)
    return given.file.with_value(found, name)


def _private(given: Specimen) -> bytes | None:
    """Private elements with a program, with noise, without their creator, or in groups that nobody may use."""
    tag = given.dice.choice([0x00091010, 0x00291020, 0x00030010, 0x00FF0001, 0x7FE10010, 0xFFFF0001])
    payload = given.dice.choice([PROGRAMS[1] * 50, given.dice.randbytes(5000), b"<script>alert(1)</script>", b"\0" * 9])
    vr = given.dice.choice([b"OB", b"UN", b"LO", b"SQ", b"DS"])
    creator = given.encoded((tag & 0xFFFF0000) | 0x10, b"LO", b"../../etc") if given.dice.random() < 0.5 else b""
    return given.inserted(creator + given.encoded(tag, vr, payload), tag)


def _repeated(given: Specimen) -> bytes | None:
    """An element twice, the second time perhaps with another value."""
    found = given.one([element for element in given.file.elements if element.tag >> 16 != 0xFFFE])
    value = bytearray(given.file.value(found)[:65536])
    if value and given.dice.random() < 0.6:
        value[given.dice.randrange(len(value))] ^= given.dice.randrange(1, 256)
    implicit = given.file.implicit and not found.in_meta
    new = encoded(found.tag, found.vr, bytes(value), implicit=implicit)
    at = given.dice.choice([found.start, found.end])
    return given.file.replaced(found, at, at, new)


def _disordered(given: Specimen) -> bytes | None:
    """Two elements of the data set in each other's place."""
    top = [element for element in given.file.elements if not element.in_meta and element.depth == 0]
    if len(top) < 2:
        return None
    one, two = sorted(given.dice.sample(top, 2), key=lambda element: element.start)
    body, file = given.file.body, given.file
    between = body[one.end : two.start]
    return file.with_body(body[: one.start] + file.whole(two) + between + file.whole(one) + body[two.end :])


def _fragmented(given: Specimen) -> bytes | None:
    """Damage to fragments, their lengths and their offset tables; native pixels are taken for fragments."""
    pixels = given.file.find(PIXEL_DATA)
    if pixels is None or pixels.in_meta:
        return None
    head = given.file.part(pixels)[pixels.start : pixels.length_at] + struct.pack("<L", UNDEFINED)
    ours = [one for one in given.file.elements if pixels.start < one.start < pixels.end and one.tag == ITEM]
    if not ours:
        native = encoded(ITEM, b"", b"", implicit=True) + encoded(ITEM, b"", given.file.value(pixels), implicit=True)
        return given.file.replaced(pixels, pixels.start, pixels.end, head + native + _END)
    parts = [given.file.value(one) for one in ours]
    damaged = given.dice.choice(_FRAGMENT_DAMAGES)(parts, given.dice)
    return given.file.replaced(pixels, pixels.start, pixels.end, head + damaged)


_END = encoded(SEQUENCE_END, b"", b"", implicit=True)


def _items(parts: Sequence[bytes]) -> bytes:
    return b"".join(encoded(ITEM, b"", part, implicit=True) for part in parts)


def _without_one(parts: list[bytes], dice: random.Random) -> bytes:
    lost = dice.randrange(len(parts))
    return _items(parts[:lost] + parts[lost + 1 :]) + _END


def _one_again(parts: list[bytes], dice: random.Random) -> bytes:
    return _items([*parts, dice.choice(parts)]) + _END


def _one_split(parts: list[bytes], dice: random.Random) -> bytes:
    place = dice.randrange(len(parts))
    at = dice.randrange(len(parts[place]) + 1)
    return _items([*parts[:place], parts[place][:at], parts[place][at:], *parts[place + 1 :]]) + _END


def _one_of_false_length(parts: list[bytes], dice: random.Random) -> bytes:
    place = dice.randrange(len(parts))
    length = dice.choice([0, 1, len(parts[place]) + 1, len(parts[place]) + 8, 0xFFFFFFF0, UNDEFINED])
    lie = encoded(ITEM, b"", parts[place], implicit=True, length=length)
    return _items(parts[:place]) + lie + _items(parts[place + 1 :]) + _END


def _other_table(parts: list[bytes], dice: random.Random) -> bytes:
    table = [dice.choice([0, 1, 7, len(parts[-1]), 0xFFFFFFF0]) for _ in range(dice.choice([1, len(parts), 200]))]
    return _items([struct.pack(f"<{len(table)}L", *table), *parts[1:]]) + _END


def _noise_at_the_start(parts: list[bytes], dice: random.Random) -> bytes:
    """In the segment table of RLE, or in the markers of a JPEG codestream."""
    spoilt = bytearray(parts[-1])
    for _ in range(dice.choice([1, 4, 16])):
        spoilt[dice.randrange(min(64, len(spoilt)))] = dice.randrange(256)
    return _items([*parts[:-1], bytes(spoilt)]) + _END


def _one_cut(parts: list[bytes], dice: random.Random) -> bytes:
    return _items([*parts[:-1], parts[-1][: dice.randrange(len(parts[-1]))]]) + _END


_FRAGMENT_DAMAGES = (
    _without_one, _one_again, _one_split, _one_of_false_length, _other_table, _noise_at_the_start, _one_cut,
    lambda parts, _: _items(parts), lambda parts, _: _items(parts[::-1]) + _END, lambda _, __: _END,
)  # fmt: skip

OPERATORS: Mapping[str, Operator] = {
    "deleted": _deleted, "retagged": _retagged, "other_representation": _other_representation,
    "boundary_integer": _boundary_integer, "odd_decimal": _odd_decimal, "odd_uid": _odd_uid,
    "false_length": _false_length, "other_syntax": _other_syntax, "spliced": _spliced, "truncated": _truncated,
    "noisy": _noisy, "flipped": _flipped, "polyglot": _polyglot, "deeply_nested": _deeply_nested,
    "odd_characters": _odd_characters, "private": _private, "repeated": _repeated, "disordered": _disordered,
    "fragmented": _fragmented,
}  # fmt: skip
