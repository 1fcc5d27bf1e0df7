"""Other ways to draw MC-dropout passes from the same networks: the plain loop, torch-uncertainty and baal.

Four passes each: every one costs the same, so a quarter of the row is what one costs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pipeline.domain.interleaved import Work
from tests.peer_library import peer_dropout, peer_methods

PASSES = 4


def peer_samplers(networks: Sequence[nn.Module], parts: Tensor) -> list[tuple[str, Work]]:
    """Named works, each drawing `PASSES` passes from every network."""
    return [
        (f"{PASSES} passes, the plain loop", _looped([_training_dropout(network) for network in networks], parts)),
        (f"{PASSES} passes, torch-uncertainty mc_dropout", _looped_inside(_torch_uncertainty(networks), parts)),
        (f"{PASSES} passes, baal MCDropoutModule", _looped(_baal(networks), parts)),
    ]


def _training_dropout(network: nn.Module) -> nn.Module:
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.train()
    return copied


def _looped(networks: Sequence[Callable[[Tensor], object]], parts: Tensor) -> Work:
    def run() -> None:
        with torch.inference_mode():
            for network in networks:
                for _ in range(PASSES):
                    network(parts)

    return run


def _looped_inside(networks: Sequence[nn.Module], parts: Tensor) -> Work:
    def run() -> None:
        with torch.inference_mode():
            for network in networks:
                network(parts)

    return run


def _torch_uncertainty(networks: Sequence[nn.Module]) -> list[nn.Module]:
    mc_dropout = peer_methods().mc_dropout
    return [mc_dropout(copy.deepcopy(network), PASSES, on_batch=False).eval() for network in networks]


def _baal(networks: Sequence[nn.Module]) -> list[nn.Module]:
    wrapper = peer_dropout()
    return [wrapper(copy.deepcopy(network)).eval() for network in networks]
