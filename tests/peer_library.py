"""torch-uncertainty, importable beside a CPU build of torch: what our numbers are checked against.

It imports torchvision, whose wheel for CUDA has no operators with a CPU build of torch and then fails while it declares the
shapes of one of them. Declaring their schema beforehand is enough, since nothing here ever calls them.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import torch

_KEPT: list[Any] = []  # a library's definitions last as long as the object


def peer_metrics() -> ModuleType:
    """The module of its classification metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _declare_operators()
        import torch_uncertainty.metrics.classification as metrics

    return metrics


def peer_methods() -> ModuleType:
    """The module of its wrappers: MC dropout, deep ensembles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _declare_operators()
        from torch_uncertainty import methods

    return methods


def peer_dropout() -> Any:
    """baal's wrapper for MC dropout, whose package asks structlog for a name that newer ones no longer have."""
    import structlog.dev

    vars(structlog.dev).setdefault("_has_colorama", False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from baal.bayesian.dropout import MCDropoutModule

    return MCDropoutModule


def _declare_operators() -> None:
    if hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
