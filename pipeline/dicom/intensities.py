"""From stored values to intensities: inversion of MONOCHROME1, then the modality transformation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from pipeline.dicom import attributes
from pipeline.dicom.pixel_description import PixelDescription
from pipeline.dicom.plane import FramePlane
from pipeline.domain.case import Reason
from pipeline.errors import DeferCase

Extremes = tuple[float, float]  #: the lowest and the highest value of one slice


def intensities(
    stored: NDArray[Any],
    plane: FramePlane,
    description: PixelDescription,
    dataset: Dataset,
    *,
    out: NDArray[np.float32],
) -> Extremes:
    """Write the intensities of one frame (H, W) to `out` and return the lowest and highest: PS3.3 C.11.1.

    MONOCHROME1 (low is white) is mirrored within the range that BitsStored gives, before the transformation. Raises
    DeferCase.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if attributes.items(dataset, "ModalityLUTSequence"):
            out[...] = _looked_up(stored, dataset)
            slope, intercept = 1.0, 0.0
        else:
            slope, intercept = _rescale(plane)
            _rescaled(stored, slope, intercept, out)
        if description.photometric == "MONOCHROME1":
            _mirror(out, description, slope, intercept)
    lowest, highest = float(out.min()), float(out.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise DeferCase(Reason.UNREADABLE, "a pixel is not a finite number")
    return lowest, highest


def _rescaled(stored: NDArray[Any], slope: float, intercept: float, out: NDArray[np.float32]) -> None:
    """The product is rounded once, from double precision; with a slope of one there is nothing to round twice."""
    if slope == 1.0:
        np.copyto(out, stored, casting="unsafe")
    else:
        np.multiply(stored, slope, out=out, casting="unsafe", dtype=np.float64)
    if intercept:
        out += np.float32(intercept)


def _looked_up(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    table: NDArray[Any] = apply_modality_lut(stored, dataset)
    return table


def _rescale(plane: FramePlane) -> tuple[float, float]:
    if plane.slope is None or plane.intercept is None or plane.slope == 0:
        raise DeferCase(Reason.UNREADABLE, "the rescale slope or intercept is unusable")
    return plane.slope, plane.intercept


def _mirror(out: NDArray[np.float32], description: PixelDescription, slope: float, intercept: float) -> None:
    """`low + high - v` for every value v, where low and high are the ends of the stored range, rescaled."""
    if description.is_float:
        raise DeferCase(Reason.UNREADABLE, "floating point pixels cannot be MONOCHROME1")
    ends = -1 if description.signed else 2**description.bits_stored - 1
    np.subtract(np.float32(ends * slope + 2 * intercept), out, out=out)
