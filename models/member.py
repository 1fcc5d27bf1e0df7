"""One member of an ensemble: its passes, cut at the first dropout where that provably changes nothing.

A cut is used only after its passes were compared with the whole network's, same seeds, on noise of the images' size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.feature_watch import FeatureWatch
from models.seeded_dropout import make_seeded, pass_seed, passes_seeded
from models.splitting import Split, alone, split_at_dropout, tiled
from pipeline.errors import HaltPipeline

Passes = Callable[[Sequence[int]], Tensor]  #: seeds -> logits (T, P, C) float32
_Boundary = tuple[tuple[Any, ...], int]

_ROWS = {"cpu": 32, "cuda": 512}  #: rows that go through the network at once: parts, or parts times passes
_TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}  #: largest difference of logits, per unit of the largest; CUDA may use TF32
_CHECK_PARTS = 2
_VOLUME_AXES = 5
_CHECK_SEEDS = tuple(pass_seed("self-check", 0, number) for number in range(8))


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """Whether a member's deterministic part runs once, and how far its logits then lie from the plain loop's."""

    member: int
    cut: bool
    tiled: bool  #: several passes of the part after the cut share a batch
    difference: float  #: largest absolute difference of a logit; NaN when nothing was compared
    detail: str


class Member:
    """A copy of `network` on `device` in eval mode, whose only randomness is its seeded dropout.

    Raises HaltPipeline when no dropout is active.
    """

    def __init__(self, network: nn.Module, index: int, device: torch.device) -> None:
        self.index = index
        self.device = device
        self.network = copy.deepcopy(network).to(device).eval().requires_grad_(requires_grad=False)
        self.dropouts = make_seeded(self.network)
        self.network.eval()
        cut = split_at_dropout(self.network)
        self.split: Split | None = cut if isinstance(cut, Split) else None
        self.tiles = True
        self.report: SplitReport | None = None
        self._detail = cut.detail if isinstance(cut, Split) else f"plain loop: the network {cut}"

    @property
    def rows(self) -> int:
        """Rows that go through the network at once."""
        return _ROWS.get(self.device.type, _ROWS["cpu"])

    def passes(self, parts: Tensor, seeds: Sequence[int], watch: FeatureWatch | None = None) -> Tensor:
        """Logits (T, P, C) float32 of one pass per seed over `parts` (P, 1, *size), as the checked way makes them.

        `watch` sees the deterministic forward on the way, where there is a cut.
        """
        return self.begin(parts, watch)(seeds)

    def begin(self, parts: Tensor, watch: FeatureWatch | None = None) -> Passes:
        """The deterministic part of `parts`, once; what is returned makes passes from there, as often as it is called."""
        self.check(parts.shape[1:])
        with torch.inference_mode(), self._precision():
            boundaries = self._boundaries(parts, watch) if self.split else []

        def go(seeds: Sequence[int]) -> Tensor:
            with torch.inference_mode(), self._precision():
                return self._from_boundaries(boundaries, seeds) if boundaries else self.plain_passes(parts, seeds)

        return go

    def plain_passes(self, parts: Tensor, seeds: Sequence[int]) -> Tensor:
        """The same by the plain loop: the whole network, once per pass."""
        return torch.stack([self._once(parts, (seed,)) for seed in seeds])

    def deterministic(self, parts: Tensor, watch: FeatureWatch | None = None) -> Tensor:
        """Logits (P, C) float32 without dropout, in float32 throughout; seen by `watch`."""
        with torch.inference_mode():
            return self._once(parts, (), watch)

    def check(self, shape: Sequence[int]) -> SplitReport:
        """Compare the cut network with the whole one on noise of `shape` (1, *size), once; keep what agrees.

        Raises HaltPipeline when the network is random outside its dropout, or its dropout changes nothing.
        """
        if self.report is None:
            noise = torch.randn((_CHECK_PARTS, *shape), generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                self.report = self._compare(noise)
        return self.report

    def _compare(self, noise: Tensor) -> SplitReport:
        seeds = _CHECK_SEEDS[:3]
        plain = self.plain_passes(noise, seeds)
        if not torch.isfinite(plain).all():
            self.split = None
            return self._reported(float("nan"), "plain loop: the output is not finite, nothing could be compared")
        self._refuse_idle_dropout(noise, plain)
        difference = float("nan")
        for tiles in (True, False) if self.split else ():
            self.tiles = tiles
            difference = self._difference(noise, seeds, plain)
            if difference <= _TOLERANCE.get(self.device.type, 0.0) * max(1.0, float(plain.abs().max())):
                return self._reported(difference, self._detail)
        self._refuse_other_randomness(noise, plain)
        if self.split:
            self._detail = f"plain loop: cut and whole network differ by {difference:.3g}"
        self.split = None
        return self._reported(difference, self._detail)

    def _difference(self, noise: Tensor, seeds: Sequence[int], plain: Tensor) -> float:
        try:
            together = self._cut_passes(noise, seeds) - plain
            lone = self._cut_passes(noise[:1], seeds) - plain[:, :1]
            return max(float(together.abs().max()), float(lone.abs().max()))
        except (RuntimeError, TypeError, ValueError, IndexError):
            return float("inf")

    def _reported(self, difference: float, detail: str) -> SplitReport:
        cut = self.split is not None
        return SplitReport(member=self.index, cut=cut, tiled=cut and self.tiles, difference=difference, detail=detail)

    def _refuse_idle_dropout(self, noise: Tensor, plain: Tensor) -> None:
        if bool((plain[1:] != plain[:1]).any()):
            return
        if torch.equal(self.plain_passes(noise, _CHECK_SEEDS), plain[:1].expand(len(_CHECK_SEEDS), -1, -1)):
            raise HaltPipeline(
                f"member {self.index}: passes with different dropout masks give the same output, so nothing would seem "
                "uncertain; train it again, or raise network.dropout.rate"
            )

    def _refuse_other_randomness(self, noise: Tensor, plain: Tensor) -> None:
        if not torch.equal(self.plain_passes(noise, _CHECK_SEEDS[:1]), plain[:1]):
            raise HaltPipeline(
                f"member {self.index}: the network is random outside its dropout modules, so no result could be "
                "recomputed; use a network whose only randomness is torch's dropout modules"
            )

    def _cut_passes(self, parts: Tensor, seeds: Sequence[int]) -> Tensor:
        return self._from_boundaries(self._boundaries(parts, None), seeds)

    def _boundaries(self, parts: Tensor, watch: FeatureWatch | None) -> list[_Boundary]:
        """What the part before the cut makes of every chunk of `parts`, with the number of its parts."""
        return [(self._before_cut(chunk, watch), len(chunk)) for chunk in torch.split(parts, self.rows)]

    def _before_cut(self, chunk: Tensor, watch: FeatureWatch | None) -> tuple[Any, ...]:
        if self.split is None:
            raise ValueError("the network was not cut")
        with watch.watching(len(chunk)) if watch else nullcontext():
            boundary = alone(self.split.prefix(self._in_company(chunk)), len(chunk))
            if watch:
                self.split.suffix(*tiled(boundary, len(chunk), 1))
        return boundary

    def _from_boundaries(self, boundaries: Sequence[_Boundary], seeds: Sequence[int]) -> Tensor:
        return torch.cat([self._after_cut(boundary, parts, seeds) for boundary, parts in boundaries], dim=1)

    def _after_cut(self, boundary: tuple[Any, ...], parts: int, seeds: Sequence[int]) -> Tensor:
        if self.split is None:
            raise ValueError("the network was not cut")
        step = max(1, self.rows // parts) if self.tiles else 1
        logits = []
        for start in range(0, len(seeds), step):
            now = seeds[start : start + step]
            with passes_seeded(self.dropouts, now):
                rows = self.split.suffix(*tiled(boundary, parts, len(now)))
            logits.append(rows.float().reshape(len(now), parts, -1))
        return torch.cat(logits)

    def _once(self, parts: Tensor, seeds: Sequence[int], watch: FeatureWatch | None = None) -> Tensor:
        chunks = []
        for chunk in torch.split(parts, self.rows):
            with passes_seeded(self.dropouts, seeds), watch.watching(len(chunk)) if watch else nullcontext():
                chunks.append(self.network(self._in_company(chunk))[: len(chunk)].float())
        return torch.cat(chunks)

    def _in_company(self, chunk: Tensor) -> Tensor:
        """`chunk` on the device, a lone volume twice: torch convolves a batch of two in a third of the time of one."""
        lone_volume = len(chunk) == 1 and chunk.dim() == _VOLUME_AXES and self.device.type == "cpu"
        return chunk.repeat(2, *(1 for _ in chunk.shape[1:])) if lone_volume else chunk.to(self.device)

    def _precision(self) -> AbstractContextManager[object]:
        cuda = self.device.type == "cuda"
        return torch.autocast(self.device.type, enabled=cuda, dtype=torch.bfloat16)
