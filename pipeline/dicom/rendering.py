"""What the reading room shows: the very voxels that the model was given, as 16-bit display values.

The viewer turns display values back into intensities with slope and intercept and windows those, so that what is seen
is what was scored; nothing is inverted, flipped or resampled on the way (MONOCHROME1 is mirrored when the volume is
read).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.domain.volume import Volume

WINDOW_PERCENTILES: Final = (1.0, 99.5)  #: of the intensities; what lies outside is black or white at first
_HIGHEST: Final = 65535
_SAMPLED_VOXELS: Final = 2**20  #: enough for the default window of a large volume


@dataclass(frozen=True, eq=False)
class DisplayValues:
    """`values` uint16 (D, H, W); intensity = slope * value + intercept; the default window is in intensities."""

    values: NDArray[np.uint16]
    slope: float
    intercept: float
    window_centre: float
    window_width: float


def display_values(volume: Volume) -> DisplayValues:
    """The display values of a volume, with a default window that spans the middle of its intensities.

    Whole-number intensities that span less than 65536 are kept exactly; others are rounded to 65536 steps.
    """
    voxels = volume.voxels
    lowest, highest = float(voxels.min()), float(voxels.max())
    whole = highest - lowest <= _HIGHEST and bool((voxels == np.rint(voxels)).all())
    slope = 1.0 if whole or highest == lowest else (highest - lowest) / _HIGHEST
    scaled = np.rint((voxels.astype(np.float64) - lowest) / slope)
    values = np.clip(scaled, 0, _HIGHEST).astype(np.uint16)
    centre, width = _window(voxels)
    return DisplayValues(values, slope, lowest, centre, width)


def _window(voxels: NDArray[np.float32]) -> tuple[float, float]:
    flat = voxels.reshape(-1)
    low, high = np.percentile(flat[:: max(1, flat.size // _SAMPLED_VOXELS)], WINDOW_PERCENTILES)
    width = float(high - low) or float(np.ptp(flat)) or 1.0
    return float(low) + width / 2, width
