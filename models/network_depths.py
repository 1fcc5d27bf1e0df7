"""The depths of a network whose features novelty looks at: before its last linear layer, and at shallower places."""

from __future__ import annotations

from torch import nn

from models.dropout_placement import anatomy
from pipeline.errors import HaltPipeline

PENULTIMATE = "penultimate"
SHALLOW = "shallow"
EARLY = "early"
DEPTHS = (PENULTIMATE, SHALLOW, EARLY)


def last_linear(network: nn.Module) -> nn.Linear:
    """The last linear layer, whose input serves as features. Raises HaltPipeline when there is none."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise HaltPipeline("network: it has no linear layer whose input could serve as features; use another network")
    return linear[-1]


def inner_depths(network: nn.Module) -> tuple[dict[str, nn.Module], bool]:
    """The shallower depths of a known network and whether they are tokens; another network has none."""
    try:
        parts = anatomy(network)
        return {SHALLOW: network.get_submodule(parts.shallow), EARLY: network.get_submodule(parts.early)}, parts.tokens
    except (HaltPipeline, AttributeError):
        return {}, False
