"""Dropout where the protocol asks for it, in networks that offer none there or elsewhere.

Why at the end of what a block adds: in residual and dense blocks the path past the block then stays whole, so that rates
that are safe after one block stay safe after fifty. Why channel-wise: neighbouring voxels of a feature map are nearly
copies, and dropping single ones changes almost nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from monai.networks.nets import DenseNet, EfficientNet, ResNet, SENet, ViT
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from pipeline.errors import HaltPipeline
from pipeline.protocol import Dropout, DropoutPlacement

_CHANNEL_WISE = {2: nn.Dropout2d, 3: nn.Dropout3d}
_Order = Callable[[nn.Module], list[tuple[str, nn.Module]]]
_LAST_SHARE_OF_TRANSFORMER = 4  #: a transformer has no stages: its last quarter counts as the last one


class FirstOutput(nn.Module):
    """A network that returns a tuple, as the network that returns its first entry."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (P, C) of `images` (P, 1, *size)."""
        logits: Tensor = self.network(images)[0]
        return logits


@dataclass(frozen=True)
class Anatomy:
    """Where a network's parts are, as paths of modules.

    `stages` lists per stage the modules whose output is what a block adds; `shallow` and `early` are the modules whose
    outputs serve as shallower depths for novelty; `tokens` tells transformers, whose maps are (P, tokens, channels).
    """

    head: str
    stages: tuple[tuple[str, ...], ...]
    shallow: str
    early: str
    tokens: bool = False


def active_dropout(network: nn.Module) -> tuple[_DropoutNd, ...]:
    """Every dropout module of whatever dimension whose rate is above zero, in the network's order."""
    return tuple(m for m in network.modules() if isinstance(m, _DropoutNd) and m.p > 0.0)


def anatomy(network: nn.Module) -> Anatomy:
    """The parts of a MONAI classification network; raises HaltPipeline for another kind of network."""
    inner = network.network if isinstance(network, FirstOutput) else network
    if isinstance(inner, DenseNet):
        return _densenet(inner)
    if isinstance(inner, ResNet):
        return _residual(inner, "fc", ("bn3", "bn2"))
    if isinstance(inner, SENet):
        return _residual(inner, "last_linear", ("se_layer",))
    if isinstance(inner, EfficientNet):
        return _efficientnet(inner)
    if isinstance(inner, ViT):
        return _transformer(inner)
    raise HaltPipeline(
        f"network.name: dropout cannot be placed in a {type(inner).__name__}; "
        "use a DenseNet, ResNet, SENet, EfficientNet or ViT"
    )


def place_dropout(network: nn.Module, dropout: Dropout, dimensions: int) -> None:
    """Put dropout into `network`, in place, and silence every dropout the protocol did not ask for."""
    parts = anatomy(network)
    for module in active_dropout(network):
        module.p = 0.0
    chosen = {
        DropoutPlacement.HEAD: (),
        DropoutPlacement.LAST_STAGE: parts.stages[-1:],
        DropoutPlacement.EVERY_BLOCK: parts.stages,
    }[dropout.placement]
    kind = nn.Dropout if parts.tokens else _CHANNEL_WISE[dimensions]
    for site in (path for stage in chosen for path in stage):
        _wrap(network, site, lambda inner: [("inner", inner), ("dropout", kind(dropout.rate))])
    _wrap(network, parts.head, lambda inner: [("dropout", nn.Dropout(dropout.rate)), ("inner", inner)])


def _wrap(network: nn.Module, path: str, ordered: _Order) -> None:
    holder, _, name = path.rpartition(".")
    parent = network.get_submodule(holder)
    parent.set_submodule(name, nn.Sequential(OrderedDict(ordered(parent.get_submodule(name)))))


def _densenet(network: nn.Module) -> Anatomy:
    blocks = [f"features.{n}" for n, _ in network.get_submodule("features").named_children() if "denseblock" in n]
    stages = tuple(
        tuple(f"{block}.{layer}.layers.conv2" for layer, _ in network.get_submodule(block).named_children())
        for block in blocks
    )
    shallow = f"features.transition{len(blocks) - 1}" if len(blocks) > 1 else "features.pool0"
    early = "features.transition1" if len(blocks) > 1 else "features.relu0"
    return Anatomy("class_layers.out", stages, shallow, early)


def _residual(network: nn.Module, head: str, branch_ends: tuple[str, ...]) -> Anatomy:
    stages = tuple(
        tuple(
            f"layer{i}.{name}.{next(end for end in branch_ends if hasattr(block, end))}"
            for name, block in network.get_submodule(f"layer{i}").named_children()
        )
        for i in (1, 2, 3, 4)
    )
    return Anatomy(head, stages, "layer3", "layer1")


def _efficientnet(network: nn.Module) -> Anatomy:
    stacks = [name for name, _ in network.get_submodule("_blocks").named_children()]
    stages = tuple(
        tuple(f"_blocks.{s}.{b}._bn2" for b, _ in network.get_submodule(f"_blocks.{s}").named_children())
        for s in stacks
    )
    return Anatomy("_fc", stages, f"_blocks.{stacks[max(0, len(stacks) - 3)]}", f"_blocks.{stacks[0]}")


def _transformer(network: nn.Module) -> Anatomy:
    names = [f"network.blocks.{name}" for name, _ in network.get_submodule("blocks").named_children()]
    last = -(-len(names) // _LAST_SHARE_OF_TRANSFORMER)
    cut = len(names) - last
    sites = [tuple(f"{n}.{end}" for end in ("attn.out_proj", "mlp.linear2")) for n in names]
    early = tuple(path for block in sites[:cut] for path in block)
    late = tuple(path for block in sites[cut:] for path in block)
    stages = (early, late) if early else (late,)
    return Anatomy("network.classification_head", stages, names[max(0, cut - 1)], names[0], tokens=True)
