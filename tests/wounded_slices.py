"""One slice of a series hurt where it matters: every wound by name, none of which leaves the image as it was.

Unlike the mutants these are not drawn: each required attribute is deleted, renamed, falsified and given lying lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.element_walker import (
    EXPLICIT,
    IMPLICIT,
    ITEM,
    PIXEL_DATA,
    SEQUENCE_END,
    TRANSFER_SYNTAX,
    UNDEFINED,
    Element,
    OpenedFile,
    encoded,
    opened,
)

NAMES = {
    0x00080016: "SOPClassUID", 0x00080018: "SOPInstanceUID", 0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID", 0x00080008: "ImageType", 0x00080060: "Modality", 0x00180015: "BodyPartExamined",
    0x00101010: "PatientAge", 0x00200032: "ImagePositionPatient", 0x00200037: "ImageOrientationPatient",
    0x00280030: "PixelSpacing", 0x00280002: "SamplesPerPixel", 0x00280004: "PhotometricInterpretation",
    0x00280010: "Rows", 0x00280011: "Columns", 0x00280100: "BitsAllocated", 0x00280101: "BitsStored",
    0x00280103: "PixelRepresentation", PIXEL_DATA: "PixelData",
}  # fmt: skip
RESCALE = {0x00281052: "RescaleIntercept", 0x00281053: "RescaleSlope"}
HIGH_BIT = 0x00280102
INTEGERS = {
    0x00280010: "Rows", 0x00280011: "Columns", 0x00280100: "BitsAllocated", 0x00280101: "BitsStored",
    HIGH_BIT: "HighBit", 0x00280002: "SamplesPerPixel", 0x00280103: "PixelRepresentation",
}  # fmt: skip
DECIMALS = {
    0x00200032: "ImagePositionPatient", 0x00200037: "ImageOrientationPatient", 0x00280030: "PixelSpacing",
} | RESCALE  # fmt: skip

#: Wounds that leave an image which decodes, to other values than before.
QUIET = (
    "BitsStored 15", "PixelRepresentation 1", "PixelRepresentation 65535", "RescaleSlope deleted", "RescaleSlope ''",
    "RescaleIntercept renamed", "pixels in fragments", "Columns 103", "Rows 103", "PixelSpacing deleted",
)  # fmt: skip


def wounds(data: bytes) -> dict[str, bytes]:
    """Every wounded form of one slice, by what was done to it."""
    file = opened(data)
    kinds = (_lost(file), _falsified(file), _lying(file), _wrapped(file), _cut(file, data))
    found = {name: wounded for kind in kinds for name, wounded in kind}
    return {name: wounded for name, wounded in found.items() if wounded != data}


def _required(file: OpenedFile) -> Iterator[tuple[str, Element]]:
    for tag, name in (NAMES | RESCALE).items():
        element = file.find(tag)
        if element is not None:
            yield name, element


def _lost(file: OpenedFile) -> Iterator[tuple[str, bytes]]:
    """Gone, or under a name that nobody knows."""
    for name, element in _required(file):
        yield f"{name} deleted", file.replaced(element, element.start, element.end, b"")
        new = struct.pack("<HH", element.tag >> 16, element.tag & 0xFFFF | 0x7000)
        yield f"{name} renamed", file.replaced(element, element.start, element.start + 4, new)


def _falsified(file: OpenedFile) -> Iterator[tuple[str, bytes]]:
    """Numbers at their boundaries, and decimals that are none."""
    for tag, name in INTEGERS.items():
        element = file.find(tag)
        if element is None:
            continue
        (true,) = struct.unpack("<H", file.value(element))
        for value in sorted({0, 1, 0xFFFF, true + 1, max(true - 1, 0), 2 * true} - {true}):
            yield f"{name} {value}", file.with_value(element, struct.pack("<H", value))
    for tag, name in DECIMALS.items():
        element = file.find(tag)
        if element is None:
            continue
        parts = file.value(element).split(b"\\")
        for odd in (b"nan", b"inf", b"1e309", b""):
            yield f"{name} {odd.decode()!r}", file.with_value(element, b"\\".join([*parts[:-1], odd]))


def _lying(file: OpenedFile) -> Iterator[tuple[str, bytes]]:
    """Lengths that are odd, one more, or far beyond the end of the file."""
    for name, element in _required(file):
        most = (1 << 8 * element.length_size) - 1
        lies = {"one byte more": element.end - element.value_at + 1, "far too long": 0xFFFFFFF0, "undefined": UNDEFINED}
        for how, lie in lies.items():
            new = (lie & most).to_bytes(element.length_size, "little")
            yield f"length of {name} {how}", file.replaced(element, element.length_at, element.value_at, new)


def _wrapped(file: OpenedFile) -> Iterator[tuple[str, bytes]]:
    """Native pixels in fragments as if they were compressed, and pixels of any kind under the name of a JPEG."""
    pixels, syntax = file.find(PIXEL_DATA), file.find(TRANSFER_SYNTAX)
    assert pixels is not None
    assert syntax is not None
    yield "declared as JPEG", file.with_value(syntax, b"1.2.840.10008.1.2.4.50")
    if file.syntax in {EXPLICIT, IMPLICIT}:
        begin = file.body[pixels.start : pixels.length_at] + struct.pack("<L", UNDEFINED)
        items = encoded(ITEM, b"", b"", implicit=True) + encoded(ITEM, b"", file.value(pixels), implicit=True)
        end = encoded(SEQUENCE_END, b"", b"", implicit=True)
        yield "pixels in fragments", file.with_body(file.body[: pixels.start] + begin + items + end)


def _cut(file: OpenedFile, data: bytes) -> Iterator[tuple[str, bytes]]:
    """The file ends in its preamble, in its meta information, in the header, and in or just before the pixels."""
    pixels = file.find(PIXEL_DATA)
    if pixels is None:
        raise ValueError("a slice without pixels")
    head, start = len(file.head), len(file.head) + pixels.start
    last = head + pixels.end - 1 - (8 if file.part(pixels)[pixels.length_at : pixels.value_at] == b"\xff" * 4 else 0)
    places = {
        "at once": 0, "in the preamble": 64, "in the prefix": 131, "in the meta information": head // 2,
        "before the data set": head, "in the header": (head + start) // 2, "before the pixels": start,
        "in the tag of the pixels": start + 3, "in the pixels": (start + last) // 2, "at their last byte": last,
    }  # fmt: skip
    for where, at in places.items():
        yield f"cut {where}", data[:at]
