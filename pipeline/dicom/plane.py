"""Where each frame of an instance lies in the patient, and how its stored values become intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from pydicom import Dataset

from pipeline.dicom import attributes


@dataclass(frozen=True, kw_only=True)
class FramePlane:
    """Orientation, position (LPS mm), pixel spacing (row, column; mm) and rescale of one frame; None is absent.

    PS3.3 C.7.6.2 for single frames, C.7.6.16 for the functional groups of enhanced ones. Without rescale the slope is 1
    and the intercept 0; `rescale_stated` tells whether slope and intercept stand in the header.
    """

    orientation: tuple[float, ...] | None
    position: tuple[float, float, float] | None
    pixel_spacing: tuple[float, float] | None
    thickness: float | None
    slope: float | None
    intercept: float | None
    rescale_stated: tuple[bool, bool] = (False, False)


def first_plane(dataset: Dataset) -> FramePlane:
    """The plane of the first frame."""
    return planes(dataset, 1)[0]


def planes(dataset: Dataset, frames: int) -> list[FramePlane]:
    """One plane per frame, in stored order; missing functional groups give missing values."""
    shared = _first(attributes.items(dataset, "SharedFunctionalGroupsSequence"))
    per_frame = attributes.items(dataset, "PerFrameFunctionalGroupsSequence")
    if shared is None and not per_frame:
        return _classic(dataset, frames)
    own = [per_frame[index] if index < len(per_frame) else None for index in range(frames)]
    return [_enhanced([group for group in (frame, shared) if group is not None]) for frame in own]


def _enhanced(groups: Sequence[Dataset]) -> FramePlane:
    measures = _macro(groups, "PixelMeasuresSequence")
    rescale = _macro(groups, "PixelValueTransformationSequence")
    return FramePlane(
        orientation=attributes.numbers(_macro(groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        position=_triple(_macro(groups, "PlanePositionSequence"), "ImagePositionPatient"),
        pixel_spacing=_pair(measures, "PixelSpacing"),
        thickness=attributes.number(measures, "SliceThickness"),
        slope=_rescale(rescale, "RescaleSlope", 1.0),
        intercept=_rescale(rescale, "RescaleIntercept", 0.0),
        rescale_stated=_stated(rescale),
    )


def _macro(groups: Sequence[Dataset], keyword: str) -> Dataset:
    found = (_first(attributes.items(group, keyword)) for group in groups)
    return next((item for item in found if item is not None), Dataset())


def _classic(dataset: Dataset, frames: int) -> list[FramePlane]:
    orientation = attributes.numbers(dataset, "ImageOrientationPatient", 6)
    position = _triple(dataset, "ImagePositionPatient")
    step, stated = attributes.number(dataset, "SpacingBetweenSlices"), _stated(dataset)
    return [
        FramePlane(
            orientation=orientation,
            position=position if frames == 1 else _stepped(orientation, position, step, index),
            pixel_spacing=_pair(dataset, "PixelSpacing") or _pair(dataset, "ImagerPixelSpacing"),
            thickness=attributes.number(dataset, "SliceThickness"),
            slope=_rescale(dataset, "RescaleSlope", 1.0),
            intercept=_rescale(dataset, "RescaleIntercept", 0.0),
            rescale_stated=stated,
        )
        for index in range(frames)
    ]


def _stepped(
    orientation: tuple[float, ...] | None, origin: tuple[float, float, float] | None, step: float | None, index: int
) -> tuple[float, float, float] | None:
    """Frames of a reconstructed stack follow each other along the normal (PS3.3 C.8.4.15)."""
    if orientation is None or origin is None or step is None:
        return None
    moved = np.add(origin, index * step * np.cross(orientation[:3], orientation[3:]))
    return cast("tuple[float, float, float]", tuple(moved.tolist()))


def _rescale(dataset: Dataset, keyword: str, default: float) -> float | None:
    """The value; `default` when absent; None when present but unusable."""
    return attributes.number(dataset, keyword) if _stands(dataset, keyword) else default


def _stated(dataset: Dataset) -> tuple[bool, bool]:
    return _stands(dataset, "RescaleSlope"), _stands(dataset, "RescaleIntercept")


def _stands(dataset: Dataset, keyword: str) -> bool:
    return keyword in dataset and not _is_empty(dataset, keyword)


def _is_empty(dataset: Dataset, keyword: str) -> bool:
    element: Any = dataset.get_item(keyword)
    return element is None or element.value in (None, b"", "")


def _first(items: Sequence[Dataset]) -> Dataset | None:
    return items[0] if items else None


def _triple(dataset: Dataset, keyword: str) -> tuple[float, float, float] | None:
    return cast("tuple[float, float, float] | None", attributes.numbers(dataset, keyword, 3))


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    return cast("tuple[float, float] | None", attributes.numbers(dataset, keyword, 2))
