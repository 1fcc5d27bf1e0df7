from __future__ import annotations

from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from models.networks import active_dropout, build_network
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol, load_protocol

RATE = 0.25
BLOCKS = ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25", "r1_k3_s22_e6_i24_o40_se0.25"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet": ("DenseNet", {"init_features": 4, "growth_rate": 4, "block_config": [1, 2]}),
    "resnet_basic": ("ResNet", {"block": "basic", "layers": [1, 1, 1, 2], "block_inplanes": [4, 4, 8, 8]}),
    "resnet_bottleneck": (
        "ResNet",
        {"block": "bottleneck", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8], "shortcut_type": "A"},
    ),
    "efficientnet": ("EfficientNet", {"blocks_args_str": BLOCKS, "width_coefficient": 0.25, "image_size": 32}),
    "senet": ("SEResNet50", {"layers": [1, 1, 1, 1], "inplanes": 8, "reduction": 8}),
    "vit": ("ViT", {"patch_size": 16, "hidden_size": 12, "mlp_dim": 16, "num_layers": 4, "num_heads": 2}),
}
#: Dropouts counted by hand: one in the head, one at the end of each branch of each block that is asked for.
COUNTS = {
    "densenet": (1, 1 + 2, 1 + 3),
    "resnet_basic": (1, 1 + 2, 1 + 5),
    "resnet_bottleneck": (1, 1 + 1, 1 + 4),
    "efficientnet": (1, 1 + 1, 1 + 4),
    "senet": (1, 1 + 1, 1 + 4),
    "vit": (1, 1 + 2, 1 + 8),
}


def protocol_of(
    name: str, arguments: dict[str, Any], *, dimensions: int = 2, placement: str = "head", edge: int = 32
) -> TriageProtocol:
    shipped = load_protocol("brain-tumour-slice").model_dump(mode="json")
    shipped["network"] |= {
        "name": name,
        "dimensions": dimensions,
        "arguments": arguments,
        "dropout": {"placement": placement, "rate": RATE},
    }
    shipped["preprocessing"]["size"] = [1 if dimensions == 2 else edge, edge, edge]
    return TriageProtocol.model_validate(shipped)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("placement", ["head", "last_stage", "every_block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_dropout_where_the_protocol_says_and_returns_logits(
    family: str, placement: str, dimensions: int
) -> None:
    name, arguments = FAMILIES[family]
    network = build_network(protocol_of(name, arguments, dimensions=dimensions, placement=placement)).eval()
    found = active_dropout(network)
    expected = COUNTS[family][("head", "last_stage", "every_block").index(placement)]
    assert len(found) == expected
    assert all(isinstance(m, _DropoutNd) and m.p == RATE for m in found)
    inside = {2: nn.Dropout2d, 3: nn.Dropout3d}[dimensions] if family != "vit" else nn.Dropout
    assert [type(m) for m in found].count(nn.Dropout) >= 1
    assert sum(type(m) is inside for m in found) == (expected if family == "vit" else expected - 1)
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, *([32] * dimensions))).shape == (2, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_dropout_stands_right_before_the_last_linear_layer(family: str) -> None:
    name, arguments = FAMILIES[family]
    network = build_network(protocol_of(name, arguments))
    heads = [m for m in network.modules() if isinstance(m, nn.Sequential) and any(c is m[0] for c in active_dropout(m))]
    assert len(heads) == 1
    assert isinstance(heads[0][1], nn.Linear)
    assert heads[0][1].out_features == 3


def test_dropout_that_monai_brings_along_is_silenced() -> None:
    network = build_network(protocol_of("EfficientNetBN", {"model_name": "efficientnet-b0"}))
    rates = sorted(m.p for m in network.modules() if isinstance(m, _DropoutNd))
    assert rates == [0.0, RATE]


@pytest.mark.parametrize("name", ["DenseNet121", "resnet10", "resnet18", "SEResNet50"])
def test_networks_named_by_depth_are_built_without_arguments(name: str) -> None:
    assert len(active_dropout(build_network(protocol_of(name, {}, placement="last_stage", edge=64)))) > 1


def test_a_vision_transformer_returns_logits_and_not_values_squeezed_by_tanh() -> None:
    name, arguments = FAMILIES["vit"]
    network = build_network(protocol_of(name, arguments)).eval()
    with torch.inference_mode():
        for parameter in network.parameters():
            parameter.mul_(50.0)
        assert float(network(torch.randn(2, 1, 32, 32)).abs().max()) > 1.0


def test_weights_are_contiguous_whatever_their_order_in_memory_and_survive_a_file() -> None:
    protocol = protocol_of(*FAMILIES["resnet_basic"], placement="every_block")
    network, other = build_network(protocol).eval(), build_network(protocol).eval()
    weights = network.state_dict()
    assert all(value.is_contiguous() for value in weights.values())
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(weights)))
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(images), other(images))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("UNet", {}, "network.name = 'UNet'"),
        ("DenseNet", {"block_configuration": [1]}, "network.arguments.block_configuration: DenseNet has no such"),
        ("DenseNet", {"dropout_prob": 0.1}, "network.arguments.dropout_prob: network.dropout says it; remove it"),
        ("ViT", {"post_activation": "Tanh"}, "network.arguments.post_activation"),
        ("EfficientNetBN", {"model_name": "efficientnet-b0", "pretrained": True}, "network.arguments.pretrained"),
        ("ResNet", {"layers": [1, 1, 1, 1]}, "network.arguments: ResNet cannot be built"),
        ("DenseNet", {"block_config": "deep"}, "network.arguments: DenseNet cannot be built"),
        ("DenseNet121", {}, "preprocessing.size: DenseNet121 cannot read images of 16x16 voxels"),
    ],
)
def test_a_network_that_cannot_work_is_refused_with_its_field_in_one_line(
    name: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(HaltPipeline) as caught:
        build_network(protocol_of(name, arguments, edge=16))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
