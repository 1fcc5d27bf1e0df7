"""From a data set to stored pixel values; JPEG Lossless and 12-bit JPEG come from imagecodecs as a pydicom plugin.

imagecodecs is BSD-licensed and replaces python-gdcm (unpatched advisories) and pylibjpeg-libjpeg (GPL).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid

from pipeline.dicom import attributes
from pipeline.dicom.parsing import COMPRESSED
from pipeline.dicom.pixel_description import PixelDescription

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder, DecodeRunner

#: pydicom asks a plugin module for this mapping and for `is_available`.
DECODER_DEPENDENCIES: Final = {
    uid.JPEGExtended12Bit: ("imagecodecs",),
    uid.JPEGLossless: ("imagecodecs",),
    uid.JPEGLosslessSV1: ("imagecodecs",),
}
PLUGIN: Final = "imagecodecs"


def is_available(transfer_syntax_uid: str) -> bool:
    """Whether this plugin decodes the transfer syntax (asked by pydicom)."""
    return transfer_syntax_uid in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """One decoded JPEG frame as little-endian bytes, colour by pixel (called by pydicom)."""
    array: NDArray[Any] = import_module("imagecodecs").jpeg8_decode(source)
    runner.set_option("bits_allocated", array.dtype.itemsize * 8)
    runner.set_option("planar_configuration", 0)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


@cache
def decoder_of(transfer_syntax_uid: str) -> Decoder:
    """The decoder that pydicom has for a compressed transfer syntax, with our plugin registered."""
    pixels = import_module("pydicom.pixels")
    decoder: Decoder = pixels.get_decoder(transfer_syntax_uid)
    if is_available(transfer_syntax_uid) and PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))
    return decoder


def stored_values(dataset: Dataset, transfer_syntax_uid: str, description: PixelDescription) -> NDArray[Any]:
    """Stored values (F, H, W) or (F, H, W, S) before any lookup table; palette indices stay indices.

    Raises whatever the decoders raise: callers turn that into a refusal.
    """
    if transfer_syntax_uid not in COMPRESSED and description.is_plain(transfer_syntax_uid):
        return _native(dataset, transfer_syntax_uid, description)
    array, _ = decoder_of(transfer_syntax_uid).as_array(
        _pixel_bytes(dataset, description), raw=True, **_options(dataset, description)
    )
    shape = (description.frames, description.rows, description.columns)
    return array.reshape(shape if description.samples == 1 else (*shape, description.samples))


def _pixel_bytes(dataset: Dataset, description: PixelDescription) -> bytes:
    found = getattr(dataset.get_item(description.keyword), "value", None)
    if not isinstance(found, bytes):
        raise TypeError
    return found


def _options(dataset: Dataset, description: PixelDescription) -> dict[str, Any]:
    options = {
        "rows": description.rows,
        "columns": description.columns,
        "number_of_frames": description.frames,
        "samples_per_pixel": description.samples,
        "bits_allocated": description.bits_allocated,
        "bits_stored": description.bits_stored,
        "pixel_representation": int(description.signed),
        "photometric_interpretation": description.photometric,
        "planar_configuration": attributes.integer(dataset, "PlanarConfiguration") or 0,
        "pixel_keyword": description.keyword,
        "pixel_vr": getattr(dataset.get_item(description.keyword), "VR", None) or "OW",
    }
    offsets = tuple(attributes.value(dataset, f"ExtendedOffsetTable{end}") for end in ("", "Lengths"))
    return options | ({"extended_offsets": offsets} if all(offsets) else {})


def _native(dataset: Dataset, transfer_syntax_uid: str, description: PixelDescription) -> NDArray[Any]:
    order = ">" if transfer_syntax_uid == uid.ExplicitVRBigEndian else "<"
    content = _pixel_bytes(dataset, description)
    shape = (description.frames, description.rows, description.columns)
    array = np.frombuffer(content, description.dtype(order), count=prod(shape)).reshape(shape)
    return without_unused_bits(array, description)


def without_unused_bits(array: NDArray[Any], description: PixelDescription) -> NDArray[Any]:
    """Stored values freed of overlay or other bits beside them, with their sign (PS3.5 section 8.1.1)."""
    spare = description.bits_allocated - description.bits_stored
    if not spare or description.is_float:
        return array
    above = description.bits_allocated - 1 - description.high_bit
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    shifted: NDArray[Any] = np.right_shift(np.left_shift(native, above), spare)
    return shifted
