"""What the header says about the pixels, checked for sense before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydicom import Dataset, uid

from pipeline.dicom import attributes
from pipeline.errors import RejectInstance

MAX_PIXEL_BYTES: Final = 512 * 2**20  #: of the decoded pixels of one instance
PIXEL_KEYWORDS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SAMPLES: Final = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
    "YBR_PARTIAL_420": 3,
    "YBR_PARTIAL_422": 3,
}


@dataclass(frozen=True, kw_only=True)
class PixelDescription:
    """The Image Pixel attributes (PS3.3 C.7.6.3) of one instance."""

    keyword: str  #: which of `PIXEL_KEYWORDS` holds the pixels
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str

    @property
    def is_float(self) -> bool:
        """Whether the pixels are IEEE floating point numbers."""
        return self.keyword != "PixelData"

    @property
    def encoding(self) -> tuple[int, int, int, bool, bool]:
        """How one sample lies in its bits."""
        return self.bits_allocated, self.bits_stored, self.high_bit, self.signed, self.is_float

    @property
    def frame_bytes(self) -> float:
        """Bytes of one native frame; half bytes occur with one allocated bit."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.bits_allocated / 8

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all frames once decoded."""
        return self.rows * self.columns * self.frames * self.samples * max(1, self.bits_allocated // 8)

    def dtype(self, order: str) -> np.dtype[Any]:
        """NumPy type of one native sample; `order` is "<" or ">"."""
        kind = "f" if self.is_float else "i" if self.signed else "u"
        return np.dtype(f"{order}{kind}{self.bits_allocated // 8}")

    def is_plain(self, transfer_syntax_uid: str) -> bool:
        """Whether native pixels are one array of whole samples (big-endian bytes in words are not)."""
        swapped_bytes = transfer_syntax_uid == uid.ExplicitVRBigEndian and self.bits_allocated == 8
        return self.samples == 1 and self.bits_allocated in (8, 16, 32, 64) and not swapped_bytes


def describe_pixels(dataset: Dataset) -> PixelDescription:
    """The checked description of the data set's pixels. Raises RejectInstance."""
    keyword = next((word for word in PIXEL_KEYWORDS if word in dataset), None)
    if keyword is None:
        raise RejectInstance("no_pixel_data", "an image without pixel data")
    description = _read(dataset, keyword)
    problem = _problem(description)
    if problem:
        raise RejectInstance("bad_pixel_description", problem)
    if description.decoded_bytes > MAX_PIXEL_BYTES:
        raise RejectInstance("too_large", f"the pixels would fill more than {MAX_PIXEL_BYTES // 2**20} MiB")
    return description


def _read(dataset: Dataset, keyword: str) -> PixelDescription:
    allocated = _needed(dataset, "BitsAllocated")
    floating = keyword != "PixelData"
    stored = allocated if floating else _needed(dataset, "BitsStored")
    high = attributes.integer(dataset, "HighBit")
    return PixelDescription(
        keyword=keyword,
        rows=_needed(dataset, "Rows"),
        columns=_needed(dataset, "Columns"),
        frames=number_of_frames(dataset),
        samples=_needed(dataset, "SamplesPerPixel"),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if high is None or floating else high,
        signed=not floating and _is_signed(dataset),
        photometric=(attributes.text(dataset, "PhotometricInterpretation") or "").upper(),
    )


def _is_signed(dataset: Dataset) -> bool:
    found = _needed(dataset, "PixelRepresentation")
    if found not in {0, 1}:
        raise RejectInstance("bad_pixel_description", "PixelRepresentation is neither 0 nor 1")
    return found == 1


def number_of_frames(dataset: Dataset) -> int:
    """NumberOfFrames; 1 when absent, 0 when present but no number, so that the description is refused."""
    if "NumberOfFrames" not in dataset or attributes.value(dataset, "NumberOfFrames") is None:
        element = dataset.get_item("NumberOfFrames") if "NumberOfFrames" in dataset else None
        return 0 if element is not None and element.value else 1
    return attributes.integer(dataset, "NumberOfFrames") or 0


def _needed(dataset: Dataset, keyword: str) -> int:
    if keyword not in dataset:
        raise RejectInstance(missing(keyword), f"{keyword} is missing")
    found = attributes.integer(dataset, keyword)
    if found is None:
        raise RejectInstance("bad_pixel_description", f"{keyword} is not one integer")
    return found


def missing(keyword: str) -> str:
    """The reason code for an absent attribute: SOPInstanceUID -> missing_sop_instance_uid."""
    words, word = [], ""
    for before, letter, after in zip(" " + keyword, keyword, keyword[1:] + " ", strict=False):
        starts = letter.isupper() and (before.islower() or (before.isupper() and after.islower()))
        if starts and word:
            words.append(word)
            word = ""
        word += letter.lower()
    return "_".join(["missing", *words, word])


def _problem(d: PixelDescription) -> str | None:
    samples = _SAMPLES.get(d.photometric)
    allocated = {"PixelData": (1, 8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}[d.keyword]
    checks = {
        "Rows or Columns is not in 1 to 65535": 1 <= d.rows <= 65535 and 1 <= d.columns <= 65535,
        "NumberOfFrames is not a positive number": d.frames >= 1,
        "BitsAllocated is not one that images use": d.bits_allocated in allocated,
        "BitsStored does not fit BitsAllocated": 1 <= d.bits_stored <= d.bits_allocated,
        "HighBit does not fit BitsAllocated": d.bits_stored - 1 <= d.high_bit < d.bits_allocated,
        "PhotometricInterpretation is unknown": samples is not None,
        "SamplesPerPixel does not fit PhotometricInterpretation": samples is None or d.samples == samples,
    }
    return next((text for text, holds in checks.items() if not holds), None)
