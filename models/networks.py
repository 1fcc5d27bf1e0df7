"""From a protocol to a MONAI classification network: one input channel, logits out, dropout where the protocol says.

The network is first built without memory (torch's meta device) and shown an image of the protocol's size, so that an
argument or a size that cannot work is an error naming the field, and not a crash in the first batch of a training.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from monai.networks import nets
from torch import nn

from models.dropout_placement import FirstOutput, active_dropout, place_dropout
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol

__all__ = ["active_dropout", "build_network"]

#: Name in a protocol -> the class whose constructor takes the arguments.
_FAMILIES: dict[str, Any] = (
    dict.fromkeys(("DenseNet", "DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264"), nets.DenseNet)
    | dict.fromkeys(
        ("ResNet", "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"), nets.ResNet
    )
    | dict.fromkeys(
        ("SENet", "SENet154", "SEResNet50", "SEResNet101", "SEResNet152", "SEResNext50", "SEResNext101"), nets.SENet
    )
    | {"EfficientNet": nets.EfficientNet, "EfficientNetBN": nets.EfficientNetBN, "ViT": nets.ViT}
)

#: Convolutions are up to twice as fast with channels last in memory, in training too; only ratios travel.
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}

#: Arguments that follow from the rest of the protocol, and where each is said.
_SAID_ELSEWHERE = {
    "spatial_dims": "network.dimensions says it",
    "in_channels": "every network reads one channel",
    "n_input_channels": "every network reads one channel",
    "out_channels": "the number of classes says it",
    "num_classes": "the number of classes says it",
    "img_size": "preprocessing.size says it",
    "dropout_prob": "network.dropout says it",
    "dropout_rate": "network.dropout says it",
    "dropout_dim": "network.dropout says it",
    "classification": "every network classifies",
    "feed_forward": "every network classifies",
    "post_activation": "every network returns logits",
    "save_attn": "attention is not kept",
    "pretrained": "weights come from training, nothing is downloaded",
    "progress": "weights come from training, nothing is downloaded",
    "adv_prop": "weights come from training, nothing is downloaded",
}


def build_network(protocol: TriageProtocol) -> nn.Module:
    """An untrained network from images (P, 1, *size) to logits (P, C), initialised from torch's global generator.

    Raises HaltPipeline naming the field of the protocol and the cure.
    """
    arguments = _arguments(protocol)
    _refuse_unfit(protocol, arguments)
    return _construct(protocol, arguments)


def _arguments(protocol: TriageProtocol) -> dict[str, Any]:
    name, given = protocol.network.name, protocol.network.arguments
    if name not in _FAMILIES:
        raise HaltPipeline(f"network.name = {name!r}: not a network known here; use one of {', '.join(_FAMILIES)}")
    constructor = getattr(nets, name)
    known = _parameters(constructor) | _parameters(_FAMILIES[name])
    for key in given:
        if key in _SAID_ELSEWHERE:
            raise HaltPipeline(f"network.arguments.{key}: {_SAID_ELSEWHERE[key]}; remove it")
        if key not in known:
            usable = ", ".join(sorted(known - _SAID_ELSEWHERE.keys()))
            raise HaltPipeline(f"network.arguments.{key}: {name} has no such argument; use some of {usable}")
    return given | {key: value for key, value in _fixed(protocol).items() if key in known}


def _parameters(constructor: Any) -> set[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name for p in inspect.signature(constructor).parameters.values() if p.kind in kinds}


def _fixed(protocol: TriageProtocol) -> dict[str, Any]:
    """The arguments that the protocol says elsewhere, under every name that MONAI gives them."""
    size = protocol.preprocessing.size[3 - protocol.network.dimensions :]
    return {
        "spatial_dims": protocol.network.dimensions,
        "in_channels": 1,
        "n_input_channels": 1,
        "out_channels": len(protocol.classes),
        "num_classes": len(protocol.classes),
        "img_size": size,
        "classification": True,
        "post_activation": None,
        "pretrained": False,
    }


def _construct(protocol: TriageProtocol, arguments: dict[str, Any]) -> nn.Module:
    network: nn.Module = getattr(nets, protocol.network.name)(**arguments)
    if isinstance(network, nets.ViT):
        network = FirstOutput(network)
    place_dropout(network, protocol.network.dropout, protocol.network.dimensions)
    untyped = cast("Any", network)  # torch leaves these two methods untyped
    untyped.register_state_dict_post_hook(_make_contiguous)
    untyped.to(memory_format=_CHANNELS_LAST[protocol.network.dimensions])
    return network


def _make_contiguous(_: nn.Module, weights: dict[str, Any], __: str, ___: Any) -> None:
    """Weights leave the network in plain order, as files of weights need them."""
    for name, value in weights.items():
        if isinstance(value, torch.Tensor):
            weights[name] = value.contiguous()


def _refuse_unfit(protocol: TriageProtocol, arguments: dict[str, Any]) -> None:
    name, size = protocol.network.name, protocol.preprocessing.size[3 - protocol.network.dimensions :]
    try:
        with torch.device("meta"):
            network = _construct(protocol, arguments)
    except HaltPipeline:
        raise
    except Exception as error:
        raise HaltPipeline(
            f"network.arguments: {name} cannot be built with them ({_first_line(error)}); correct that argument"
        ) from error
    try:
        with torch.inference_mode():
            shape = tuple(network.eval()(torch.empty((1, 1, *size), device="meta")).shape)
    except Exception as error:
        raise HaltPipeline(
            f"preprocessing.size: {name} cannot read images of {'x'.join(map(str, size))} voxels "
            f"({_first_line(error)}); enlarge the size or make the network shallower in network.arguments"
        ) from error
    if shape != (1, len(protocol.classes)):
        raise HaltPipeline(f"network.name: {name} returns {shape}, not one logit per class; use another network")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
