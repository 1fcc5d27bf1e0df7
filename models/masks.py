"""The dropout masks of passes, drawn outside the network, so that what they are multiplied into is deterministic.

The numbers are those that `SeededDropout` draws: one stream per pass, the dropouts in the order in which they act.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx

from models.seeded_dropout import SeededDropout


@dataclass(frozen=True)
class MaskPlan:
    """Per dropout its rate and the shape of one mask, without the axis of rows."""

    rates: tuple[float, ...]
    shapes: tuple[tuple[int, ...], ...]

    def draw(self, seeds: Sequence[int]) -> tuple[Tensor, ...]:
        """One mask (T, *shape) float32 per dropout, kept values scaled by 1 / (1 - rate), for the passes of `seeds`."""
        sizes = [prod(shape) for shape in self.shapes]
        stream = torch.Generator()
        draws = torch.stack([torch.rand(sum(sizes), generator=stream.manual_seed(seed)) for seed in seeds])
        return tuple(
            ((part >= rate).to(torch.float32) / (1.0 - rate)).reshape(len(seeds), *shape)
            for part, rate, shape in zip(torch.split(draws, sizes, dim=1), self.rates, self.shapes, strict=True)
        )


def mask_plan(masked: fx.GraphModule, dropouts: Sequence[SeededDropout], boundary: Sequence[object]) -> MaskPlan:
    """The masks that `masked` needs after a boundary of this size."""
    shapes = _MaskedShapes(masked, len(dropouts)).found_behind(boundary)
    return MaskPlan(
        rates=tuple(dropout.p for dropout in dropouts),
        shapes=tuple(
            (shape[1], *(1 for _ in shape[2:])) if dropout.channel_wise else tuple(shape[1:])
            for dropout, shape in zip(dropouts, shapes, strict=True)
        ),
    )


class _MaskedShapes(fx.Interpreter):
    """Runs the suffix without dropout and notes the shape that every mask is multiplied with."""

    def __init__(self, masked: fx.GraphModule, count: int) -> None:
        super().__init__(masked)
        self._masks = [node for node in masked.graph.nodes if node.op == "placeholder"][-count:]
        self._shapes: dict[fx.Node, tuple[int, ...]] = {}

    def found_behind(self, boundary: Sequence[object]) -> list[tuple[int, ...]]:
        self.run(*boundary, *(torch.ones(()) for _ in self._masks))
        return [self._shapes[mask] for mask in self._masks]

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.op == "call_function" and n.target is torch.mul and n.args[1] in self._masks:
            self._shapes[n.args[1]] = tuple(result.shape)  # type: ignore[index]
        return result
