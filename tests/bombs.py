"""Small files that unpack to more than a machine has, or nest, claim and lie without measure; made on the fly."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from tests.dicom_files import a_head, a_slice, to_bytes
from tests.element_walker import PIXEL_DATA, encoded, opened
from tests.mutants import nested_sequences

MIB = 2**20
PICTURE = a_head(1)[0]
PIXELS = np.arange(16, dtype=np.uint16).reshape(4, 4)
EIGHT_BITS = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}


def deflated_zeros() -> bytes:
    """One run of 600 MiB of pixels in 0.6 MB: the same deflated block again and again."""
    file = opened(to_bytes(a_slice(PIXELS)))
    pixels = encoded(PIXEL_DATA, b"OW", b"", implicit=False, length=600 * MIB)
    return _deflated(file.body[: file.find(PIXEL_DATA).start] + pixels, bytes(MIB), 600)


def deflated_elements() -> bytes:
    """Ten million empty elements in 0.5 MB, each of which a parser makes an object of."""
    file = opened(to_bytes(a_slice(PIXELS)))
    at = next(one.start for one in file.elements if not one.in_meta and one.tag > 0x00091000)
    empty = b"".join(encoded(0x00091000 | place, b"LO", b"", implicit=False) for place in range(0x10, 0x100))
    return _deflated(file.body[:at], empty * 500, 10_000_000 // (0xF0 * 500))


def _deflated(begin: bytes, block: bytes, times: int) -> bytes:
    """A deflated file whose data set begins so and goes on with so many blocks."""
    head = opened(to_bytes(a_slice(PIXELS), DeflatedExplicitVRLittleEndian)).head
    machine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = machine.compress(begin) + machine.flush(zlib.Z_FULL_FLUSH)
    again = machine.compress(block) + machine.flush(zlib.Z_FULL_FLUSH)
    return head + first + again * times + machine.flush()


def many_frames_of_runs() -> bytes:
    """56 frames of 4096 x 4096 bytes, 940 MB, in 14.7 MB of run lengths."""
    return _encapsulated([_runs(131072)] * 56, Rows=4096, Columns=4096, NumberOfFrames=56, **EIGHT_BITS)


def one_frame_of_too_many_runs() -> bytes:
    """One frame that claims 4096 bytes and unpacks to 512 MiB."""
    return _encapsulated([_runs(4 * MIB)], Rows=64, Columns=64, **EIGHT_BITS)


def _runs(count: int) -> bytes:
    """One RLE segment (PS3.5 annex G) of so many runs of 128 equal bytes."""
    return struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x07" * count


def _encapsulated(frames: list[bytes], syntax: str = RLELossless, **changes: Any) -> bytes:
    dataset = a_slice(PIXELS, **changes)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return to_bytes(dataset, syntax)


def nested(depth: int, tag: int) -> bytes:
    """So many sequences in each other, before or behind what names the study."""
    file = opened(to_bytes(a_slice(PICTURE)))
    at = next(one.start for one in file.elements if not one.in_meta and one.tag >= tag)
    return file.with_body(file.body[:at] + nested_sequences(tag, depth, implicit=False) + file.body[at:])


def endless(tag: int) -> bytes:
    """An element that claims four gigabytes, in a data set without value representations."""
    file = opened(to_bytes(a_slice(PICTURE), ImplicitVRLittleEndian))
    lying = file.find(tag)
    return file.replaced(lying, lying.length_at, lying.value_at, struct.pack("<L", 0xFFFFFFF0))


def vast_matrix() -> bytes:
    """65535 x 65535 pixels, a thousand times, of which 32 bytes are there."""
    return to_bytes(a_slice(PIXELS, Rows=65535, Columns=65535, NumberOfFrames=1000))


def vast_frame_count() -> bytes:
    """Five hundred million frames of one byte."""
    return _encapsulated([_runs(1)], Rows=1, Columns=1, NumberOfFrames=500_000_000, **EIGHT_BITS)


def many_numbers() -> bytes:
    """A position of two hundred thousand numbers: no bomb, unless something makes an object of each."""
    file = opened(to_bytes(a_slice(PICTURE), ImplicitVRLittleEndian))
    return file.with_value(file.find(0x00200032), b"\\".join([b"1.5"] * 2 * 10**5))


def other_codestream(rows: int, columns: int) -> bytes:
    """A JPEG 2000 codestream whose own header (ISO 15444-1 A.5.1) says another size than the tags."""
    dataset = a_slice(PICTURE)
    to_bytes(dataset)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    data = to_bytes(dataset, JPEG2000Lossless)
    at = data.index(b"\xff\x4f\xff\x51") + 8  # behind SOC, SIZ, its length and capabilities
    sizes = struct.pack(">8L", columns, rows, 0, 0, columns, rows, 0, 0)  # of the image and its one tile, and offsets
    return data[:at] + sizes + data[at + len(sizes) :]


def zipped() -> bytes:
    """An archive of 200 MiB of zeros."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("IM0001.dcm", "w") as member:
        for _ in range(200):
            member.write(bytes(MIB))
    return target.getvalue()


def gzipped() -> bytes:
    """A sound image in a wrapping that nobody asked for."""
    return gzip.compress(to_bytes(a_slice(PICTURE)))


def text() -> bytes:
    """Ten megabytes of prose."""
    return b"It was the best of times, it was the worst of times.\n" * 198_000


def brackets() -> bytes:
    """DICOM JSON (PS3.18 annex F), or its beginning, a million levels deep."""
    return b'{"00081140":{"vr":"SQ","Value":[' * 10**5


#: How each is made, and the reason it is refused for.
BOMBS: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "deflated_zeros": (deflated_zeros, "too_large"),
    "many_frames_of_runs": (many_frames_of_runs, "too_large"),
    "one_frame_of_too_many_runs": (one_frame_of_too_many_runs, "blank_image"),  # what is beyond is not unpacked
    "thousand_sequences_first": (lambda: nested(10**3, 0x00081140), "undecodable"),
    "thousand_sequences_last": (lambda: nested(10**3, 0x00280000), "undecodable"),
    "hundred_thousand_sequences_first": (lambda: nested(10**5, 0x00081140), "undecodable"),
    "hundred_thousand_sequences_last": (lambda: nested(10**5, 0x00280000), "undecodable"),
    "endless_uid": (lambda: endless(0x00080018), "truncated"),
    "endless_position": (lambda: endless(0x00200032), "truncated"),
    "endless_pixels": (lambda: endless(PIXEL_DATA), "truncated"),
    "vast_matrix": (vast_matrix, "too_large"),
    "vast_frame_count": (vast_frame_count, "undecodable"),
    "vast_codestream": (lambda: other_codestream(60000, 60000), "undecodable"),
    "smaller_codestream": (lambda: other_codestream(20, 40), "undecodable"),
    "larger_codestream": (lambda: other_codestream(80, 40), "undecodable"),
    "zipped": (zipped, "not_dicom"),
    "gzipped": (gzipped, "not_dicom"),
    "text": (text, "not_dicom"),
    "brackets": (brackets, "not_dicom"),
}
