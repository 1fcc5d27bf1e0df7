"""From a data set to stored pixel values; JPEG Lossless and 12-bit JPEG come from imagecodecs as a pydicom plugin.

imagecodecs is BSD-licensed and replaces python-gdcm (unpatched advisories) and pylibjpeg-libjpeg (GPL).
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate, generate_frames

from pipeline.dicom import attributes
from pipeline.dicom.parsing import COMPRESSED
from pipeline.dicom.pixel_description import PixelDescription
from pipeline.dicom.side_by_side import side_by_side

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder, DecodeRunner

PLUGIN: Final = "imagecodecs"
#: Codecs of imagecodecs that let other threads run while they decode; pydicom's own plugins do not, and judge all doubt.
_UNLOCKED: Final = {
    uid.JPEG2000Lossless: "jpeg2k_decode",
    uid.JPEG2000: "jpeg2k_decode",
    uid.JPEGLSLossless: "jpegls_decode",
    uid.JPEGLSNearLossless: "jpegls_decode",
}
_CODECS: Final = _UNLOCKED | dict.fromkeys(
    (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), "jpeg8_decode"
)
#: pydicom asks a plugin module for this mapping and for `is_available`.
DECODER_DEPENDENCIES: Final = dict.fromkeys(_CODECS, (PLUGIN,))
#: The plugin that is asked first; whatever it refuses is put to all others as well.
_FIRST: Final = dict.fromkeys(_UNLOCKED, PLUGIN) | {uid.RLELossless: "pylibjpeg"}


def is_available(transfer_syntax_uid: str) -> bool:
    """Whether this plugin decodes the transfer syntax (asked by pydicom)."""
    return transfer_syntax_uid in DECODER_DEPENDENCIES


def lets_others_run(transfer_syntax_uid: str) -> bool:
    """Whether threads that decode this transfer syntax gain anything: run-length decoding never lets go of Python."""
    return transfer_syntax_uid in _CODECS


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """One decoded frame as little-endian bytes, colour by pixel (called by pydicom)."""
    array: NDArray[Any] = getattr(import_module("imagecodecs"), _CODECS[runner.transfer_syntax])(source)
    if runner.transfer_syntax in _UNLOCKED and array.shape != (runner.rows, runner.columns):
        raise ValueError
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


def stored_values(
    dataset: Dataset, transfer_syntax_uid: str, description: PixelDescription, threads: int = 1
) -> NDArray[Any]:
    """Stored values (F, H, W) or (F, H, W, S) before any lookup table; palette indices stay indices.

    Compressed frames are decoded by so many `threads`. Raises whatever the decoders raise: callers turn that into a
    refusal.
    """
    pixels = _pixel_bytes(dataset, description)
    if transfer_syntax_uid not in COMPRESSED and description.is_plain(transfer_syntax_uid):
        return native_values(pixels, transfer_syntax_uid, description)
    array = _decoded(bytes(pixels), dataset, transfer_syntax_uid, description, threads)
    shape = (description.frames, description.rows, description.columns)
    return array.reshape(shape if description.samples == 1 else (*shape, description.samples))


def native_values(content: bytes | memoryview, transfer_syntax_uid: str, description: PixelDescription) -> NDArray[Any]:
    """Stored values (F, H, W) that lie in `content` as they are, without a copy where no bits are spare."""
    order = ">" if transfer_syntax_uid == uid.ExplicitVRBigEndian else "<"
    shape = (description.frames, description.rows, description.columns)
    array = np.frombuffer(content, description.dtype(order), count=prod(shape)).reshape(shape)
    return without_unused_bits(array, description)


def _decoded(
    pixels: bytes, dataset: Dataset, transfer_syntax_uid: str, description: PixelDescription, threads: int
) -> NDArray[Any]:
    decoder, options = decoder_of(transfer_syntax_uid), _options(dataset, description)
    if threads > 1 and description.frames > 1 and lets_others_run(transfer_syntax_uid):
        frames = _frames(pixels, options)
        if len(frames) == description.frames:
            return _side_by_side(decoder, frames, options, threads)
    return _array(decoder, pixels, options)


def _array(decoder: Decoder, pixels: bytes, options: dict[str, Any]) -> NDArray[Any]:
    """Grey images are put to the fastest plugin first, everything else and all that it refuses to pydicom's choice."""
    first = _FIRST.get(decoder.UID)
    if first in decoder.available_plugins and options["samples_per_pixel"] == 1:
        with suppress(Exception):
            return _asked(decoder, pixels, options | {"decoding_plugin": first})
    return _asked(decoder, pixels, options)


def _asked(decoder: Decoder, pixels: bytes, options: dict[str, Any]) -> NDArray[Any]:
    """What the decoder makes of it; the panic of one written in Rust is no Exception and would end the process."""
    try:
        array, _ = decoder.as_array(pixels, raw=True, **options)
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as panic:  # noqa: BLE001  a panic of Rust's
        raise ValueError(type(panic).__name__) from None
    return array


def _frames(pixels: bytes, options: dict[str, Any]) -> list[bytes]:
    offsets = options.get("extended_offsets")
    found = generate_frames(pixels, number_of_frames=options["number_of_frames"], extended_offsets=offsets)
    return list(islice(found, options["number_of_frames"] + 1))


def _side_by_side(decoder: Decoder, frames: list[bytes], options: dict[str, Any], threads: int) -> NDArray[Any]:
    alone = {key: found for key, found in options.items() if key != "extended_offsets"} | {"number_of_frames": 1}

    def one(frame: bytes) -> NDArray[Any]:
        return _array(decoder, encapsulate([frame], has_bot=False), alone)

    return np.stack(side_by_side(one, frames, threads))


def _pixel_bytes(dataset: Dataset, description: PixelDescription) -> bytes | memoryview:
    found = getattr(dataset.get_item(description.keyword), "value", None)
    if not isinstance(found, bytes | memoryview):
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


def without_unused_bits(array: NDArray[Any], description: PixelDescription) -> NDArray[Any]:
    """Stored values freed of overlay or other bits beside them, with their sign (PS3.5 section 8.1.1)."""
    spare = description.bits_allocated - description.bits_stored
    if not spare or description.is_float:
        return array
    above = description.bits_allocated - 1 - description.high_bit
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    shifted: NDArray[Any] = np.right_shift(np.left_shift(native, above), spare)
    return shifted
