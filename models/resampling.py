"""One volume onto the network's grid: orientation, spacing, centre crop and padding as one matrix per axis.

Each axis has a matrix (n_out, n_in) of linear interpolation whose triangle widens by the step when the grid gets coarser
(the antialiasing of Pillow and torch); rows outside the image are zero. Three products of small matrices do the rest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.domain.volume import Volume
from pipeline.protocol import Preprocessing

#: Patient axes (of L, P, S) along (d, h, w): slices run to superior, rows to posterior, columns to left.
_CANONICAL = (2, 1, 0)


def canonical(volume: Volume) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Voxels (D, H, W) as axial slices from inferior to superior, rows to posterior, columns to left; spacing in mm.

    Axes are permuted and flipped to the nearest ones, never interpolated.
    """
    order, flips = _turns(volume)
    voxels = volume.voxels.transpose(order)
    spacing = volume.spacing
    return np.flip(voxels, flips), (spacing[order[0]], spacing[order[1]], spacing[order[2]])


def _turns(volume: Volume) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """The array axis that becomes each canonical one, and the canonical axes that are then flipped."""
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    order = _nearest_axes(np.abs(directions))
    return order, tuple(axis for axis in range(3) if directions[_CANONICAL[axis], order[axis]] < 0)


def grid_affine(volume: Volume, preprocessing: Preprocessing, dimensions: Literal[2, 3]) -> NDArray[np.float64]:
    """The affine (4, 4) of the network's grid of a volume: from index (d, h, w) to LPS millimetres.

    In 3-D of the one part, in 2-D of the slices in their order.
    """
    order, flips = _turns(volume) if dimensions == 3 else ((0, 1, 2), ())
    counts = [volume.voxels.shape[axis] for axis in order]
    size = preprocessing.size if dimensions == 3 else (counts[0], *preprocessing.size[1:])
    wanted = preprocessing.spacing_mm if dimensions == 3 else (None, *preprocessing.spacing_mm[1:])
    spacing, to_array = volume.spacing, np.zeros((4, 4))
    to_array[3, 3] = 1.0
    for axis in range(3):
        step = _step(counts[axis], size[axis], wanted[axis], spacing[order[axis]])
        first = (counts[axis] - 1) / 2 - (size[axis] - 1) / 2 * step
        sign, start = (-1.0, counts[axis] - 1 - first) if axis in flips else (1.0, first)
        to_array[order[axis], axis], to_array[order[axis], 3] = sign * step, start
    placed: NDArray[np.float64] = volume.affine @ to_array
    return placed


def _nearest_axes(alignment: NDArray[np.float64]) -> tuple[int, int, int]:
    """The array axis for each of (d, h, w), together nearest to the patient axes."""
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    return max(orders, key=lambda order: sum(alignment[_CANONICAL[axis], order[axis]] for axis in range(3)))


def resample(
    voxels: NDArray[np.float32],
    spacing: tuple[float, float, float],
    wanted_spacing: tuple[float | None, float | None, float | None],
    size: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """Voxels on a grid of `size` around the same centre, float32, and which of its voxels lie inside the image.

    A wanted spacing of None stretches that axis to its size; otherwise what exceeds the size is cut off.
    """
    grid = torch.from_numpy(np.ascontiguousarray(voxels))
    matrices, inside = [], []
    for axis in range(3):
        count = voxels.shape[axis]
        step = _step(count, size[axis], wanted_spacing[axis], spacing[axis])
        matrix, covered = _axis_matrix(count, size[axis], step)
        matrices.append(matrix)
        inside.append(covered)
    grid = torch.einsum("dhw,xw->dhx", grid, matrices[2])
    grid = torch.einsum("dhx,yh->dyx", grid, matrices[1])
    grid = torch.einsum("dyx,zd->zyx", grid, matrices[0])
    return grid, inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]


def _step(count: int, size: int, wanted: float | None, spacing: float) -> float:
    """Input voxels from one point of the grid to the next."""
    return round(count / size if wanted is None else wanted / spacing, 9)


@lru_cache(maxsize=64)
def _axis_matrix(count: int, size: int, step: float) -> tuple[Tensor, Tensor]:
    """Weights (size, count) of a grid of `size` points, `step` input voxels apart, and which points lie inside."""
    centres = (count - 1) / 2 + (np.arange(size) - (size - 1) / 2) * step
    reach = max(step, 1.0)
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(count)[None, :] - centres[:, None]) / reach)
    covered = (centres > -0.5 - 1e-6) & (centres < count - 0.5 + 1e-6)
    weights = np.where(covered[:, None], weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12), 0.0)
    return torch.from_numpy(weights.astype(np.float32)), torch.from_numpy(covered)
