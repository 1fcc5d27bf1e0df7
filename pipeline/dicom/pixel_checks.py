"""Whether the pixels of one instance are there, whole, decodable and not blank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from pipeline.dicom.decoders import stored_values
from pipeline.dicom.parsing import COMPRESSED, UNDEFINED_LENGTH, ParsedInstance
from pipeline.dicom.pixel_description import PixelDescription, describe_pixels
from pipeline.errors import RejectInstance


def check_pixels(instance: ParsedInstance) -> PixelDescription:
    """The description of pixels that were all decoded once. Raises RejectInstance."""
    description, values = decode(instance)
    if is_blank(values):
        raise RejectInstance("blank_image", "every pixel has the same value")
    return description


def decode(instance: ParsedInstance, threads: int = 1) -> tuple[PixelDescription, NDArray[Any]]:
    """The description and the stored values (F, H, W[, S]). Raises RejectInstance."""
    description = describe_pixels(instance.dataset)
    if instance.transfer_syntax_uid not in COMPRESSED:
        _check_native(instance, description)
    if instance.transfer_syntax_uid == uid.JPEGBaseline8Bit and description.bits_allocated != 8:
        # PS3.5 section 8.2.1; the decoder would read other codestreams too and stretch what it finds to 16 bits
        raise RejectInstance("bad_pixel_description", "baseline JPEG has eight bits")
    try:
        values = stored_values(instance.dataset, instance.transfer_syntax_uid, description, threads)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  decoders raise a dozen types, StopIteration among them
        raise RejectInstance("undecodable", f"the pixel data cannot be decoded ({type(error).__name__})") from None
    if values.shape[0] != description.frames:
        raise RejectInstance("truncated", "fewer frames decoded than described")
    return description, values


def _check_native(instance: ParsedInstance, description: PixelDescription) -> None:
    element = instance.dataset.get_item(description.keyword)
    found = element.value if element is not None else None
    if not isinstance(found, bytes | bytearray | memoryview):
        raise RejectInstance("bad_pixel_description", "the pixel data is not one run of bytes")
    if getattr(element, "length", None) == UNDEFINED_LENGTH:  # their headers would be read as pixels
        raise RejectInstance("bad_pixel_description", "uncompressed pixel data lies in fragments")
    check_length(len(found), description)


def check_length(found: int, description: PixelDescription) -> None:
    """Raises RejectInstance unless native pixels of `found` bytes are all that is described, and no further frame."""
    needed = description.frame_bytes * description.frames
    if found < needed:
        raise RejectInstance("truncated", "the pixel data is shorter than described")
    if found - needed >= max(description.frame_bytes, 2):
        raise RejectInstance("bad_pixel_description", "the pixel data holds more frames than described")


def is_blank(values: NDArray[Any]) -> bool:
    """Whether every value equals the first one; not-a-number counts as blank when alone."""
    flat = values.reshape(-1)
    if flat[0] != flat[-1]:
        return False
    if values.dtype.kind == "f" and not np.isfinite(flat).any():
        return True
    return bool((flat == flat[0]).all())
