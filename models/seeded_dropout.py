"""Dropout whose masks follow from (case, member, pass) alone.

One pass is one draw of the weights: every part of a case sees the same masks in it. A case's answer therefore depends
neither on other cases, nor on how its parts are batched, nor on how many other passes are made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from pipeline.errors import HaltPipeline

_ELEMENT_WISE = (nn.Dropout,)
_CHANNEL_WISE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class SeededDropout(_DropoutNd):
    """Dropout that draws one mask per stream and applies it to that stream's share of the rows.

    `streams` are generators on the CPU, one per pass; the rows (P·T, ...) hold each pass's parts together, in order.
    Without streams it is the identity, as every dropout is outside training.
    """

    def __init__(self, p: float, *, channel_wise: bool) -> None:
        super().__init__(p)
        self.channel_wise = channel_wise
        self.streams: Sequence[torch.Generator] = ()

    def forward(self, rows: Tensor) -> Tensor:
        """`rows` (P·T, C, ...) with masks applied and the kept values scaled by 1 / (1 - p)."""
        if not self.streams:
            return rows
        shape = (1, rows.shape[1], *(1 for _ in rows.shape[2:])) if self.channel_wise else (1, *rows.shape[1:])
        kept = torch.cat([torch.rand(shape, generator=stream) for stream in self.streams]) >= self.p
        masks = (kept.to(torch.float32) / (1.0 - self.p)).to(rows)
        return rows * masks.repeat_interleave(rows.shape[0] // len(self.streams), dim=0)


def make_seeded(network: nn.Module) -> tuple[SeededDropout, ...]:
    """Replace every dropout of `network` whose rate is above zero by a seeded one, in place, and return those.

    Raises HaltPipeline when there is none, since the uncertainty would silently be zero, or a kind that cannot be seeded.
    """
    seeded = []
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, _DropoutNd) and module.p > 0.0:
            replacement = _seeded(path, module)
            network.set_submodule(path, replacement)
            seeded.append(replacement)
    if not seeded:
        raise HaltPipeline(
            "network: no dropout is active, so every pass would be the same and nothing would seem uncertain; "
            "set network.dropout.rate above zero"
        )
    return tuple(seeded)


def _seeded(path: str, module: _DropoutNd) -> SeededDropout:
    if isinstance(module, SeededDropout):
        return SeededDropout(module.p, channel_wise=module.channel_wise)
    if type(module) not in (*_ELEMENT_WISE, *_CHANNEL_WISE):
        raise HaltPipeline(
            f"network: {type(module).__name__} at {path} cannot be seeded; use nn.Dropout or Dropout1d-3d"
        )
    return SeededDropout(module.p, channel_wise=type(module) in _CHANNEL_WISE)


@contextmanager
def passes_seeded(dropouts: Sequence[SeededDropout], seeds: Sequence[int]) -> Iterator[None]:
    """Within it `dropouts` draw the masks of these passes, one seed each, from their beginning."""
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    try:
        for dropout in dropouts:
            dropout.streams = streams
        yield
    finally:
        for dropout in dropouts:
            dropout.streams = ()


def pass_seed(case_key: str, member: int, number: int) -> int:
    """The seed of pass `number` of `member` for a case: 64 bits of the SHA-256 of the three."""
    digest = hashlib.sha256(f"{case_key}/{member}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
