"""From bytes to a pydicom data set, with every limit applied before the parser sees the bytes."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any, Final

from pydicom import Dataset, uid
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from pipeline.dicom.sop_classes import RADIOLOGICAL, is_standard
from pipeline.errors import RejectInstance

MAX_INFLATED_BYTES: Final = 128 * 2**20  #: of a deflated data set
PREAMBLE_BYTES: Final = 128
_PIXEL_DATA: Final = 0x7FE00010
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, _PIXEL_DATA})  #: single, double precision, whole numbers
UNDEFINED_LENGTH: Final = 0xFFFFFFFF

#: Beginnings of files that an operating system would run; TIFF's dual-use preamble stays allowed (PS3.10 section 7.1).
EXECUTABLE_MAGIC: Final = (
    b"MZ",
    b"\x7fELF",
    b"#!",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\xbe\xba\xfe\xca",
)
NATIVE: Final = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
    }
)
COMPRESSED: Final = frozenset(
    {
        uid.RLELossless,
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEGLSNearLossless,
        uid.JPEG2000Lossless,
        uid.JPEG2000,
        uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL,
        uid.HTJ2K,
    }
)
IN_PLACE: Final = NATIVE - {uid.DeflatedExplicitVRLittleEndian}  #: pixels lie in the file as they are
_LONG_FORM: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)


@dataclass(frozen=True, eq=False)
class ParsedInstance:
    """One data set with the transfer syntax it came in.

    `problem` is a refusal found while the header could still be read, so that the study it names is known. `pixels_at`
    are the bytes of the file that hold native pixels, where those were not read: then the pixel element is empty.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    problem: RejectInstance | None
    pixels_at: range | None = None


@dataclass(frozen=True)
class FileMeta:
    """What the file meta information (PS3.10 section 7.1) says, and where the data set begins."""

    transfer_syntax_uid: str
    sop_class_uid: str
    ends_at: int


def is_executable(data: bytes) -> bool:
    """Whether an operating system could take the file for a program."""
    return data.startswith(EXECUTABLE_MAGIC)


def parse(data: bytes) -> ParsedInstance:
    """The data set in the bytes of one file. Raises RejectInstance where not even a header can be read."""
    meta = read_file_meta(data)
    if not _is_other_object(meta.sop_class_uid):
        return _parsed(meta, data)
    refusal = RejectInstance("not_an_image", "the SOP class is not a radiological image")
    try:
        return replace(_parsed(meta, data), problem=refusal)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  whatever else is wrong with it, it is no image; its study is named where it can be
        raise refusal from None


def _parsed(meta: FileMeta, data: bytes) -> ParsedInstance:
    syntax, start, problem = meta.transfer_syntax_uid, meta.ends_at, None
    if not syntax:
        raise RejectInstance("unsupported_transfer_syntax", "the file meta information names no transfer syntax")
    if syntax not in NATIVE | COMPRESSED:
        problem = RejectInstance("unsupported_transfer_syntax", "the transfer syntax is not read here")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        (data, problem), start = inflate(data[start:], MAX_INFLATED_BYTES), 0
    dataset, cut = _read(data, start, syntax)
    return ParsedInstance(dataset, syntax, problem or cut)


def parse_head(head: bytes, size: int) -> ParsedInstance | None:
    """The data set of a file of `size` bytes from its first bytes, with the pixels left in the file.

    None where the first bytes do not suffice, the pixels are not native, or anything is odd: then `parse` of the whole
    file says what it is.
    """
    try:
        meta = read_file_meta(head)
        if meta.transfer_syntax_uid not in IN_PLACE or _is_other_object(meta.sop_class_uid):
            return None
        stop = _AtPixels(head, meta.ends_at, meta.transfer_syntax_uid)
        dataset = stop.read()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  the whole file is asked instead
        return None
    if stop.found is None or stop.pixels_at.stop > size:
        return None
    dataset[stop.found.tag] = stop.found
    return ParsedInstance(dataset, meta.transfer_syntax_uid, None, stop.pixels_at)


def read_head(head: bytes) -> Dataset:
    """As much of a data set as the first bytes of its file hold, before any pixels."""
    meta = read_file_meta(head)
    syntax, start = meta.transfer_syntax_uid, meta.ends_at
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        (head, _), start = inflate(head[start:], len(head)), 0
    reader = _AtPixels(head, start, syntax)
    try:
        return reader.read()
    except (EOFError, struct.error, RecursionError):
        return reader.read_before_failure()


def _read(data: bytes, start: int, syntax: str) -> tuple[Dataset, RejectInstance | None]:
    stop, problem = _AtPixels(data, start, syntax), None
    try:
        dataset = stop.read()
        if stop.found is not None:
            content: Any = memoryview(data)[stop.pixels_at.start : stop.pixels_at.stop]
            dataset[stop.found.tag] = stop.found._replace(value=content)
        cut = _is_cut_short(dataset, stop.position, len(data))
    except (EOFError, struct.error):
        dataset, cut = stop.read_before_failure(), True
    except RecursionError:
        dataset, cut = stop.read_before_failure(), False
        problem = RejectInstance("undecodable", "the data set nests too many sequences")
    if not dataset and problem is None:  # the parser gives up all it has read where the file ends inside fragments
        dataset, cut = stop.read_before_failure(), True
    if not dataset:
        raise problem or RejectInstance("truncated", "the file holds no data set")
    if cut:
        problem = RejectInstance("truncated", "the data set ends inside an element")
    return dataset, problem


class _AtPixels:
    """The parser, stopped at native pixels, which are never copied, or behind encapsulated ones.

    What trails the pixels is padding, megabytes of it in real files.
    """

    def __init__(self, data: bytes, start: int, syntax: str) -> None:
        self._stream, self._start = io.BytesIO(data), start
        self._implicit, self._little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
        self._passed = False
        self._begun = start  #: where the value of the element read last begins
        self.found: RawDataElement | None = None  #: native pixels, without their value
        self.pixels_at = range(0)

    def read(self) -> Dataset:
        """The data set up to native pixels or through encapsulated ones."""
        self._stream.seek(self._start)
        return read_dataset(self._stream, self._implicit, self._little, stop_when=self._stops)

    def read_before_failure(self) -> Dataset:
        """The data set up to the element in which reading failed, so that the study it names is known."""
        self._stream.seek(self._start)
        return read_dataset(
            self._stream, self._implicit, self._little, stop_when=lambda *_: self._stream.tell() >= self._begun
        )

    @property
    def position(self) -> int:
        """Where reading ended, bytes."""
        return self._stream.tell()

    def _stops(self, tag: int, vr: str | None, length: int) -> bool:
        """Asked by the parser with the stream at the beginning of the element's value."""
        self._begun = self._stream.tell()
        if self._passed or tag not in _PIXELS:
            return self._passed
        self._passed = True
        if not 0 < length < UNDEFINED_LENGTH:
            return False
        at = self._stream.tell()
        self.pixels_at = range(at, at + length)
        self.found = RawDataElement(BaseTag(tag), vr, length, b"", at, self._implicit, self._little)
        return True


def _is_cut_short(dataset: Dataset, position: int, size: int) -> bool:
    if not dataset:
        return False
    last = dataset.get_item(max(dataset.keys()))
    length, found = getattr(last, "length", None), getattr(last, "value", None)
    declares_more = (
        isinstance(found, bytes | memoryview) and isinstance(length, int) and len(found) < length != UNDEFINED_LENGTH
    )
    return declares_more or (position < size - 8 and _PIXELS.isdisjoint(dataset.keys()))


def _is_other_object(sop_class: str) -> bool:
    return is_standard(sop_class) and sop_class not in RADIOLOGICAL


def inflate(data: bytes, limit: int) -> tuple[bytes, RejectInstance | None]:
    """At most `limit` inflated bytes of a deflated data set (PS3.5 A.5), and what is wrong with it if anything.

    Raises RejectInstance when nothing can be inflated.
    """
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = machine.decompress(data, limit)
    except zlib.error:
        raise RejectInstance("undecodable", "the deflated data set is damaged") from None
    if machine.unconsumed_tail:
        return body, RejectInstance("too_large", f"the deflated data set unpacks to more than {limit // 2**20} MiB")
    if not machine.eof:
        return body, RejectInstance("truncated", "the deflated data set ends before its end mark")
    return body, None


def read_file_meta(data: bytes) -> FileMeta:
    """The file meta information of the bytes of one file. Raises RejectInstance."""
    if not data:
        raise RejectInstance("empty_file", "the file holds no bytes")
    if data[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] != b"DICM":
        raise _without_prefix(data)
    found, position = _meta_elements(data)
    if not found:
        raise RejectInstance("no_file_meta", "the file meta information is empty")
    return FileMeta(found.get(0x0010, ""), found.get(0x0002, ""), position)


def _without_prefix(data: bytes) -> RejectInstance:
    if data[:2] in {b"\x02\x00", b"\x08\x00", b"\x00\x08"}:
        return RejectInstance("no_file_meta", "a bare data set without DICM prefix and file meta information")
    return RejectInstance("not_dicom", "the DICM prefix is absent")


def _meta_elements(data: bytes) -> tuple[dict[int, str], int]:
    """Group 0002 is always explicit VR little endian (PS3.10 section 7.1)."""
    position, found = PREAMBLE_BYTES + 4, dict[int, str]()
    while position + 8 <= len(data):
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        if group != 0x0002:
            break
        start = position + 8
        if vr in _LONG_FORM:
            if start + 4 > len(data):
                break
            (length,) = struct.unpack_from("<L", data, start)
            start += 4
        found[element] = data[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")[:64]
        position = start + length
    return found, min(position, len(data))
