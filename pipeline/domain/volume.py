"""A volume: one series as an array with its place in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Volume:
    """One series as float32 `voxels` (D, H, W) with `affine` (4, 4) from index (d, h, w) to LPS millimetres.

    `quality` lists findings about the pixels (see `Reason`), which never stop a reader from seeing the images.
    `sources` are the SHA-256 digests of the instances in slice order; for multi-frame objects one digest repeats.
    Raises ValueError when the shape, the affine or a voxel is unusable.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    sources: tuple[str, ...] = ()
    quality: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or 0 in self.voxels.shape:
            raise ValueError(f"a volume has axes (D, H, W), got shape {self.voxels.shape}")
        if self.voxels.dtype != np.float32:
            raise ValueError(f"voxels are float32, got {self.voxels.dtype}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError("the affine is a finite (4, 4) matrix in millimetres")
        if not np.isfinite(self.voxels).all():
            raise ValueError("voxels are finite")
        if self.sources and len(self.sources) != self.voxels.shape[0]:
            raise ValueError(f"{len(self.sources)} source instances for {self.voxels.shape[0]} slices")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (d, h, w), mm."""
        columns = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(columns[0]), float(columns[1]), float(columns[2])
