"""From planes to one regular stack: order along the slice normal, even spacing, one affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.plane import FramePlane
from pipeline.domain.case import Reason
from pipeline.errors import DeferCase

ORIENTATION_TOLERANCE: Final = 1e-3  #: largest difference between direction cosines of two slices
UNIT_TOLERANCE: Final = 1e-2  #: of the length of a direction, and of the cosine between the two
PIXEL_SPACING_TOLERANCE: Final = 1e-3  #: relative
POSITION_TOLERANCE_MM: Final = 0.01  #: slices nearer than this have the same position
SPACING_TOLERANCE: Final = 0.02  #: largest departure of one slice distance from the median, relative
DRIFT_TOLERANCE: Final = 0.02  #: largest sideways step per slice, relative to the slice distance (about 1 degree)


@dataclass(frozen=True, eq=False)
class Stack:
    """The order of the frames from the first to the last slice, and the affine (4, 4) of the volume they form.

    Column d of the affine is the step to the next slice, h to the next row, w to the next column; LPS mm.
    """

    order: tuple[int, ...]
    affine: NDArray[np.float64]


def stack(planes: Sequence[FramePlane]) -> Stack:
    """The regular stack that the planes form. Raises DeferCase(IRREGULAR_GEOMETRY)."""
    orientation, spacing = _shared_orientation(planes), _shared_pixel_spacing(planes)
    positions = _positions(planes)
    normal = np.cross(orientation[:3], orientation[3:])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    step = _step(positions[order], normal, planes)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = orientation[3:] * spacing[0]
    affine[:3, 2] = orientation[:3] * spacing[1]
    affine[:3, 3] = positions[order[0]]
    return Stack(tuple(order.tolist()), affine)


def lone_plane(plane: FramePlane) -> Stack:
    """The stack of one projection or capture, which may lack a place: then it lies at the origin, axis by axis.

    Without a pixel spacing the pixels count as 1 mm: such images are for protocols that ask for no spacing.
    """
    if plane.orientation is not None and plane.position is not None and plane.pixel_spacing is not None:
        return stack([plane])
    rows, columns = plane.pixel_spacing or (1.0, 1.0)
    if rows <= 0 or columns <= 0:
        raise _irregular("a pixel spacing is not positive")
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = plane.thickness or 1.0, rows, columns, 1.0
    return Stack((0,), affine)


def _shared_orientation(planes: Sequence[FramePlane]) -> NDArray[np.float64]:
    if any(plane.orientation is None for plane in planes):
        raise _irregular("a slice has no orientation")
    orientations = np.array([plane.orientation for plane in planes], dtype=np.float64)
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise _irregular("slices differ in orientation")
    first, second = orientations[0, :3], orientations[0, 3:]
    lengths = np.linalg.norm([first, second], axis=1)
    if np.abs(lengths - 1).max() > UNIT_TOLERANCE or abs(float(first @ second)) > UNIT_TOLERANCE:
        raise _irregular("the orientation is not two perpendicular directions")
    return np.concatenate([first / lengths[0], second / lengths[1]])


def _shared_pixel_spacing(planes: Sequence[FramePlane]) -> NDArray[np.float64]:
    if any(plane.pixel_spacing is None for plane in planes):
        raise _irregular("a slice has no pixel spacing")
    spacings = np.array([plane.pixel_spacing for plane in planes], dtype=np.float64)
    if spacings.min() <= 0:
        raise _irregular("a pixel spacing is not positive")
    if (np.abs(spacings - spacings[0]) > PIXEL_SPACING_TOLERANCE * spacings[0]).any():
        raise _irregular("slices differ in pixel spacing")
    shared: NDArray[np.float64] = spacings[0]
    return shared


def _positions(planes: Sequence[FramePlane]) -> NDArray[np.float64]:
    if any(plane.position is None for plane in planes):
        raise _irregular("a slice has no position")
    return np.array([plane.position for plane in planes], dtype=np.float64)


def _step(
    positions: NDArray[np.float64], normal: NDArray[np.float64], planes: Sequence[FramePlane]
) -> NDArray[np.float64]:
    """The vector from one slice to the next of the ordered positions, mm."""
    if len(positions) == 1:
        return normal * (planes[0].thickness or 1.0)
    distances = np.diff(positions @ normal)
    if distances.min() <= POSITION_TOLERANCE_MM:
        raise _irregular("two slices have the same position")
    median = float(np.median(distances))
    if np.abs(distances - median).max() > max(SPACING_TOLERANCE * median, POSITION_TOLERANCE_MM):
        raise _irregular("the distances between slices differ: a slice is missing or out of place")
    steps = np.diff(positions, axis=0)
    sideways = steps - np.outer(distances, normal)
    if np.linalg.norm(sideways, axis=1).max() > max(DRIFT_TOLERANCE * median, POSITION_TOLERANCE_MM):
        raise _irregular("the slices shift sideways: a tilted gantry or a broken stack")
    mean: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    return mean


def _irregular(detail: str) -> DeferCase:
    return DeferCase(Reason.IRREGULAR_GEOMETRY, detail)
