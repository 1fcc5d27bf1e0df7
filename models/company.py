"""A lone volume in company: torch convolves a batch of two volumes in a third of the time of one, on a CPU."""

from __future__ import annotations

from torch import Tensor

_VOLUME_AXES = 5


def in_company(chunk: Tensor) -> Tensor:
    """`chunk` (P, 1, *size), a lone volume on the CPU twice."""
    lone_volume = len(chunk) == 1 and chunk.dim() == _VOLUME_AXES and not chunk.is_cuda
    return chunk.repeat(2, *(1 for _ in chunk.shape[1:])) if lone_volume else chunk
