"""Dropout directly before the last linear layer: all passes of a case as one product of their masks with cached features.

The logits of such passes are also close to Gaussian, with a mean and a covariance that are known exactly: `gaussian_passes`
takes quasi-random points of that distribution in place of random masks, which integrates far better per pass.
"""

from __future__ import annotations

import torch
from scipy.special import ndtri
from scipy.stats import qmc
from torch import Tensor, fx, nn

_MOST_DIRECTIONS = 64  #: of the logits' spread that get a dimension of the quasi-random sequence; the largest ones
_RESOLUTION_BITS = 30


def head_of(masked: fx.GraphModule | None) -> nn.Linear | None:
    """The last linear layer, where the suffix is nothing but one dropout and that layer; else None."""
    if masked is None:
        return None
    nodes = list(masked.graph.nodes)
    if [node.op for node in nodes] != ["placeholder", "placeholder", "call_function", "call_module", "output"]:
        return None
    module = masked.get_submodule(str(nodes[3].target))
    straight = nodes[3].args == (nodes[2],) and nodes[4].args[0] is nodes[3] and nodes[2].args == tuple(nodes[:2])
    return module if isinstance(module, nn.Linear) and straight else None


def masked_product(head: nn.Linear, features: Tensor, masks: Tensor) -> Tensor:
    """Logits (T, P, C) of features (P, F) under masks (T, F)."""
    weighted = features[:, None, :] * head.weight[None, :, :]
    logits: Tensor = (masks @ weighted.flatten(0, 1).T).reshape(len(masks), *weighted.shape[:2])
    return logits if head.bias is None else logits + head.bias


def gaussian_passes(head: nn.Linear, features: Tensor, rate: float, count: int, seed: int) -> Tensor:
    """Logits (T, P, C) at `count` quasi-random points of the Gaussian that has the moments of dropout at `rate`.

    A pass is one draw for all parts, so that their logits covary as under shared masks: with A the matrix (P·C, F) of
    weights times features, mean = A 1 + bias and covariance = rate / (1 - rate) A A'. The points are scrambled Sobol
    points along its principal directions; fewer of them are the beginning of more.
    """
    rows = (features[:, None, :] * head.weight[None, :, :]).flatten(0, 1).to(torch.float64)
    spread = _principal_spread(rows, rate)
    points = _normal_points(spread.shape[1], count, seed)
    mean = rows.sum(dim=1) + (0.0 if head.bias is None else head.bias.to(torch.float64).repeat(len(features)))
    logits: Tensor = mean[None, :] + points.to(spread) @ spread.T
    made: Tensor = logits.reshape(count, len(features), -1).to(torch.float32)
    return made


def _principal_spread(rows: Tensor, rate: float) -> Tensor:
    """A square root (P·C, k) of the covariance, along its largest directions."""
    variances, directions = torch.linalg.eigh(rows @ rows.T * (rate / (1.0 - rate)))
    kept = min(len(variances), _MOST_DIRECTIONS)
    largest = variances.clamp(min=0.0).sqrt().flip(0)[:kept]
    spread: Tensor = directions.flip(1)[:, :kept] * largest
    return spread


def _normal_points(dimensions: int, count: int, seed: int) -> Tensor:
    """The first `count` scrambled Sobol points as standard normal numbers (count, dimensions)."""
    engine = qmc.Sobol(dimensions, scramble=True, bits=_RESOLUTION_BITS, rng=seed)
    exponent = max(count - 1, 1).bit_length()
    points = engine.random_base2(exponent)[:count]
    half = 0.5 ** (_RESOLUTION_BITS + 1)
    normal: Tensor = torch.from_numpy(ndtri(points.clip(half, 1.0 - half)))
    return normal
