"""What an image looks like without any network: its histogram, and a handful of statistics of its pixels.

Intensities of MR have neither unit nor offset, so that everything here is unchanged by a gain or an offset of the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import laplace

Floats = NDArray[np.float64]

HISTOGRAM_BINS = 32
HISTOGRAM_PERCENTILES = (1.0, 99.0)
PIXEL_STATISTICS = (
    "at_minimum",
    "at_maximum",
    "median_place",
    "lower_quarter_place",
    "upper_quarter_place",
    "entropy",
    "sharpness",
    "noise",
    "border",
    "foreground",
    "left_right",
    "up_down",
)
_BORDER_SHARE = 0.08  # of the shortest side


def intensity_histogram(voxels: ArrayLike) -> Floats:
    """Square roots of the shares (32,) of voxels between their own 1st and 99th percentile; the rest in the end bins.

    An image without contrast falls into one bin.
    """
    return np.asarray(np.sqrt(_shares(np.asarray(voxels, dtype=np.float64).ravel())))


def pixel_statistics(voxels: ArrayLike) -> Floats:
    """`PIXEL_STATISTICS` (12,) of an image or volume (..., H, W), each between about 0 and 1.

    Shares at the extremes, quartiles on the image's own range, entropy of the histogram, edges and noise against the
    spread, brightness of the border, share brighter than the mean, and how unlike its mirror images it is.
    """
    image = np.asarray(voxels, dtype=np.float64)
    low, high = float(image.min()), float(image.max())
    unit = (image - low) / (high - low) if high > low else np.zeros_like(image)
    spread = float(unit.std()) or 1.0
    edges = laplace(unit, mode="nearest")
    shares = _shares(unit.ravel())
    return np.array(
        [
            float((unit <= 0.0).mean()),
            float((unit >= 1.0).mean()),
            *(float(q) for q in np.percentile(unit, [50, 25, 75])),
            float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum() / np.log(HISTOGRAM_BINS)),
            float(edges.std() / spread / 4.0),
            float(np.median(np.abs(edges - np.median(edges))) / spread),
            float(_border(unit).mean()),
            float((unit > unit.mean()).mean()),
            float(np.abs(unit - unit[..., ::-1]).mean() / spread),
            float(np.abs(unit - unit[..., ::-1, :]).mean() / spread),
        ]
    )


def _shares(values: Floats) -> Floats:
    low, high = np.percentile(values, HISTOGRAM_PERCENTILES)
    span = high - low
    scaled = (values - low) / span if span > 0 else np.zeros_like(values)
    places = np.clip((scaled * HISTOGRAM_BINS).astype(np.int64), 0, HISTOGRAM_BINS - 1)
    return np.asarray(np.bincount(places, minlength=HISTOGRAM_BINS) / len(values))


def _border(unit: Floats) -> Floats:
    """The pixels near the four edges of every plane."""
    width = max(1, round(_BORDER_SHARE * min(unit.shape[-2:])))
    edge = np.ones(unit.shape[-2:], dtype=np.bool_)
    edge[width:-width, width:-width] = False
    return np.asarray(unit[..., edge])
