"""Findings about the pixels of a volume that make it unfit for the model; a reader sees the images all the same.

Every measure is simple, needs no reference and errs towards a reader: a finding sends the case to REVIEW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.side_by_side import side_by_side
from pipeline.domain.case import Reason

SATURATED_SHARE: Final = 0.05  #: of the foreground at the very highest value
LEAST_CORRELATION: Final = 0.35  #: between neighbouring pixels; white noise has 0, anatomy 0.8 and more
MOST_GHOSTING: Final = 0.075  #: ghost-to-signal ratio; 0.07 was the most in 26 sound series
LEAST_SIDE: Final = 32  #: pixels; smaller images are not judged for noise and ghosts

Voxels = NDArray[np.float32]


def quality_findings(
    voxels: Voxels, *, magnetic: bool, extremes: NDArray[np.float32] | None = None, threads: int = 1
) -> tuple[str, ...]:
    """("LOW_QUALITY",) where the volume (D, H, W) is clearly unusable, else ().

    Saturation and ghosts are judged in `magnetic` resonance only: projections and CT reach their ends by design.
    `extremes` (D, 2) are the lowest and highest value of each slice where they are known already.
    """
    ends = slice_extremes(voxels) if extremes is None else extremes
    return (Reason.LOW_QUALITY.value,) if _is_unfit(voxels, ends, magnetic, threads) else ()


def slice_extremes(voxels: Voxels) -> NDArray[np.float32]:
    """Lowest and highest value of each slice, (D, 2)."""
    return np.array([(page.min(), page.max()) for page in voxels], dtype=np.float32)


def _is_unfit(voxels: Voxels, extremes: NDArray[np.float32], magnetic: bool, threads: int) -> bool:
    if (extremes[:, 0] == extremes[:, 1]).any():  # a slice that holds one value only
        return True
    middle = _middle(voxels)
    large = min(voxels.shape[1:]) >= LEAST_SIDE
    checks: list[Callable[[], bool]] = []
    if magnetic:
        checks.append(lambda: saturated_share(voxels, extremes) > SATURATED_SHARE)
    if magnetic and large:
        checks.append(lambda: ghosting(middle) > MOST_GHOSTING)
    if large:
        checks.append(lambda: neighbour_correlation(middle) < LEAST_CORRELATION)
    return any(side_by_side(lambda check: check(), checks, threads))


def _middle(voxels: Voxels) -> Voxels:
    """The middle half of the slices, nine at most: the ends of a stack are often air or neck."""
    depth = len(voxels)
    picked = np.unique(np.linspace(depth // 4, max(depth - 1 - depth // 4, depth // 4), 9).astype(int))
    middle: Voxels = voxels[picked]
    return middle


def saturated_share(voxels: Voxels, extremes: NDArray[np.float32] | None = None) -> float:
    """Share of the foreground voxels (above a tenth of the range) that hold the highest value."""
    ends = slice_extremes(voxels) if extremes is None else extremes
    lowest, highest = float(ends[:, 0].min()), float(ends[:, 1].max())
    above = lowest + 0.1 * (highest - lowest)
    foreground = sum(int(np.count_nonzero(page > above)) for page in voxels)
    at_top = sum(
        int(np.count_nonzero(page == highest)) for page, most in zip(voxels, ends[:, 1], strict=True) if most == highest
    )
    return at_top / max(foreground, 1)


def neighbour_correlation(voxels: Voxels) -> float:
    """Correlation of each pixel with its next neighbours in row and column; the smaller of the two."""
    pairs = ((voxels[:, 1:, :], voxels[:, :-1, :]), (voxels[:, :, 1:], voxels[:, :, :-1]))
    variance = float(voxels.var(dtype=np.float64)) or 1.0
    return min(1.0 - float(np.mean(np.square(one - other), dtype=np.float64)) / (2 * variance) for one, other in pairs)


def ghosting(voxels: Voxels) -> float:
    """Ghost-to-signal ratio after the ACR's MR accreditation test: air beside against air above, over the signal.

    Air is the lower quartile of strips along the four edges, a sixteenth of the image wide and away from the corners,
    of the emptier side each, so that a neck at one edge does not count; the median over the slices is taken.
    """
    _, height, width = voxels.shape
    strip_h, strip_w = height // 16, width // 16
    rows, columns = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
    above = np.minimum(_air(voxels[:, :strip_h, columns]), _air(voxels[:, -strip_h:, columns]))
    beside = np.minimum(_air(voxels[:, rows, :strip_w]), _air(voxels[:, rows, -strip_w:]))
    low, high = np.percentile(voxels.reshape(len(voxels), -1), (1, 90), axis=1)
    return float(np.median(np.abs(above - beside) / np.maximum(high - low, 1e-6)))


def _air(strip: Voxels) -> NDArray[np.floating]:
    quartile: NDArray[np.floating] = np.percentile(strip.reshape(len(strip), -1), 25, axis=1)
    return quartile
