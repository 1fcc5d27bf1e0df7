"""The anatomical plane of an image, from its direction cosines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

Plane = Literal["axial", "coronal", "sagittal"]

#: A slice belongs to a plane when its normal is within 40 degrees of that axis; beyond, it is oblique.
LEAST_COSINE: Final = float(np.cos(np.radians(40.0)))
_PLANES: Final[tuple[Plane, Plane, Plane]] = ("sagittal", "coronal", "axial")  #: with the normal along x, y, z


def plane_of(image_orientation: Sequence[float] | None) -> Plane | Literal["oblique"] | None:
    """The plane that ImageOrientationPatient (6 direction cosines, LPS) describes; None when absent or degenerate."""
    if image_orientation is None or len(image_orientation) != 6:
        return None
    normal = np.cross(image_orientation[:3], image_orientation[3:])
    length = float(np.linalg.norm(normal))
    if not length > 0.5:  # the directions are nearly parallel, or not numbers
        return None
    cosines = np.abs(normal) / length
    nearest = int(np.argmax(cosines))
    return _PLANES[nearest] if cosines[nearest] >= LEAST_COSINE else "oblique"
