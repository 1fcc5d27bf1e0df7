"""A drawn map: one picture on the network's grid, with its place in the patient. It explains nothing and proves nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class MapKind(StrEnum):
    """What a map shows of a case."""

    SALIENCY = "SALIENCY"  #: Where the network's answer is sensitive.
    UNCERTAINTY = "UNCERTAINTY"  #: Where members and passes differ about that.
    INPUT = "INPUT"  #: The images as the network saw them.


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnMap:
    """uint8 `values` (D, H, W) with `affine` (4, 4) from index (d, h, w) to LPS millimetres.

    `series` counts the series the network was shown; `full_scale` is what 255 stands for. Saliency and uncertainty of a
    case share it, so that they can be compared; it means nothing from one case to another.
    """

    kind: MapKind
    series: int
    values: NDArray[np.uint8]
    affine: NDArray[np.float64]
    full_scale: float

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or 0 in self.values.shape or self.values.dtype != np.uint8:
            raise ValueError(f"a map is uint8 (D, H, W), got {self.values.dtype} {self.values.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError("the affine is a finite (4, 4) matrix in millimetres")
        if not (np.isfinite(self.full_scale) and self.full_scale > 0.0):
            raise ValueError(f"the full scale is a positive number, got {self.full_scale}")
