"""What a network sees on its way, for novelty: the features before its last linear layer and those of shallower depths.

Maps are averaged over space (or tokens) inside the hook: later layers work in place and would change what was kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.network_depths import DEPTHS, PENULTIMATE, inner_depths, last_linear


class FeatureWatch:
    """Collects features (P, F) from the forward passes made while it is watching, in order."""

    def __init__(self, network: nn.Module) -> None:
        self._head = last_linear(network)
        self._inner, self._tokens = inner_depths(network)
        self._seen: dict[str, list[Tensor]] = {depth: [] for depth in DEPTHS}

    @contextmanager
    def watching(self, parts: int) -> Iterator[None]:
        """Within it every depth is kept of the first `parts` rows that come by."""
        hooks = [self._head.register_forward_pre_hook(partial(self._at_head, parts))]
        for depth, module in self._inner.items():
            hooks.append(module.register_forward_hook(partial(self._inside, parts, depth)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def complete(self, parts: int) -> bool:
        """Whether every depth was seen for this many parts."""
        return all(sum(len(rows) for rows in self._seen[depth]) == parts for depth in (PENULTIMATE, *self._inner))

    def features(self) -> dict[str, NDArray[np.float64]]:
        """Features per depth (P, F), float64."""
        return {depth: torch.cat(rows).numpy() for depth, rows in self._seen.items() if rows}

    def _at_head(self, parts: int, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._seen[PENULTIMATE].append(inputs[0][:parts].detach().flatten(1).to("cpu", torch.float64, copy=True))

    def _inside(self, parts: int, depth: str, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        over = 1 if self._tokens else tuple(range(2, output.dim()))
        pooled = output[:parts].detach().float().mean(dim=over)
        self._seen[depth].append(pooled.to("cpu", torch.float64))
