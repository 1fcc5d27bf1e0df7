"""From a volume to what the network sees, the same in training, evaluation and triage; and augmentation for training."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.resampling import canonical, resample
from pipeline.domain.case import Reason
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase
from pipeline.protocol import Preprocessing

_SMALLEST_DEVIATION = 1e-6  #: of the intensity range; a flatter image has no contrast
_LARGEST_ROTATION = math.radians(10.0)
_LARGEST_ZOOM = 0.10
_LARGEST_SHIFT = 0.05  #: of the image's extent
_LARGEST_GAIN = 0.15
_LARGEST_OFFSET = 0.15
_LARGEST_NOISE = 0.08  #: standard deviation, in those of the foreground


def prepare(volume: Volume, preprocessing: Preprocessing, dimensions: Literal[2, 3]) -> Tensor:
    """The parts (P, 1, *size) of a volume, float32: the whole volume in 3-D, every slice as it lies in 2-D.

    3-D volumes are turned to axial slices from inferior to superior. Each part is clipped to its percentiles and scaled to
    mean 0 and deviation 1 of its foreground (voxels above its mean); a part without contrast is all zeros. Voxels outside
    the volume have the part's lowest value. Raises DeferCase when the volume is thinner than a step of the network's grid.
    """
    if dimensions == 2:
        grid, inside = _slices(volume, preprocessing)
    else:
        voxels, spacing = canonical(volume)
        grid, inside = resample(voxels, spacing, preprocessing.spacing_mm, preprocessing.size)
        grid, inside = grid[None], inside[None]
    if not inside.flatten(1).any(dim=1).all():
        raise DeferCase(Reason.IRREGULAR_GEOMETRY, "the volume is thinner than one step of the network's grid")
    parts = [_standardised(g, i, preprocessing.intensity_percentiles) for g, i in zip(grid, inside, strict=True)]
    return torch.stack(parts)[:, None]


def _slices(volume: Volume, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    count = volume.voxels.shape[0]
    wanted = (None, *preprocessing.spacing_mm[1:])
    return resample(volume.voxels, volume.spacing, wanted, (count, *preprocessing.size[1:]))


def _standardised(part: Tensor, inside: Tensor, percentiles: tuple[float, float]) -> Tensor:
    low, high = np.percentile(part[inside].numpy(), percentiles)
    clipped = part.clamp(float(low), float(high)).masked_fill(~inside, float(low))
    foreground = clipped[inside & (clipped > clipped[inside].mean())]
    deviation = float(foreground.std(correction=0)) if len(foreground) else 0.0
    if deviation <= _SMALLEST_DEVIATION * float(high - low):
        deviation = float(clipped[inside].std(correction=0))
    if deviation <= _SMALLEST_DEVIATION * max(abs(float(low)), abs(float(high)), 1e-30):
        return torch.zeros_like(part)
    return (clipped - foreground.mean()) / deviation


def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
    """A batch (N, 1, *size) mirrored left to right by chance, moved a little, and changed a little in intensity.

    Rotation is about the slice axis. Everything random comes from `generator`, on the CPU.
    """
    moved = functional.grid_sample(
        batch,
        functional.affine_grid(_motions(batch, generator), list(batch.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    one_each = (len(batch), *(1 for _ in batch.shape[1:]))
    gain = 1.0 + _LARGEST_GAIN * _signed(one_each, generator)
    offset = _LARGEST_OFFSET * _signed(one_each, generator)
    noise = _LARGEST_NOISE * torch.rand(one_each, generator=generator) * torch.randn(batch.shape, generator=generator)
    return moved * gain + offset + noise


def _motions(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Affine matrices (N, k, k + 1) of torch's affine_grid, whose axes are (x, y) or (x, y, z)."""
    count, axes = len(batch), batch.dim() - 2
    height, width = batch.shape[-2:]
    angle = _LARGEST_ROTATION * _signed((count,), generator)
    zoom = 1.0 + _LARGEST_ZOOM * _signed((count,), generator)
    mirror = torch.where(torch.rand((count,), generator=generator) < 0.5, -1.0, 1.0)
    motion = torch.zeros(count, axes, axes + 1)
    motion[:, 0, 0] = mirror * zoom * angle.cos()
    motion[:, 0, 1] = -mirror * zoom * angle.sin() * height / width
    motion[:, 1, 0] = zoom * angle.sin() * width / height
    motion[:, 1, 1] = zoom * angle.cos()
    if axes == 3:
        motion[:, 2, 2] = zoom
    motion[:, :, -1] = 2 * _LARGEST_SHIFT * _signed((count, axes), generator)
    return motion


def _signed(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.rand(shape, generator=generator) - 1.0
