"""Cut a network at its first active dropout, so that what no mask can change is computed once and not in every pass.

The network is traced with torch.fx; every node that depends on a dropout is tainted, and the untainted ones that tainted
ones read are the boundary. What follows the boundary takes its masks as inputs, so that it is as deterministic as the
rest and may be compiled. A network that cannot be traced is not cut; whoever uses the cut compares it with the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.network_depths import EARLY, PENULTIMATE, SHALLOW, inner_depths, last_linear
from models.seeded_dropout import SeededDropout


@dataclass(frozen=True, eq=False)
class Split:
    """A network as `suffix(prefix(images))`: the deterministic part, and what follows from the first dropout on."""

    prefix: nn.Module
    suffix: nn.Module  #: its masks come from the dropouts in it
    detail: str
    masked: fx.GraphModule | None = None  #: the suffix with one mask per dropout as further inputs
    dropouts: tuple[SeededDropout, ...] = ()  #: whose masks those are, in order
    observer: fx.GraphModule | None = None  #: images -> the boundary, then the pooled features of `depths`; no dropout
    depths: tuple[str, ...] = ()


def split_at_dropout(network: nn.Module) -> Split | str:
    """The network (in eval mode, dropout seeded) in two parts, or the reason in words why it stays whole."""
    problem = ""
    for finest, observed in ((True, True), (True, False), (False, False)):
        try:
            tracer = _Tracer(network, finest=finest, observed=observed)
            graph = tracer.trace(network)
            return _cut(network, graph, tracer.depths if observed else {})
        except Exception as error:  # noqa: BLE001 - tracing runs foreign code; the plain loop needs none of it
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return f"cannot be traced ({problem[:160]})"


class _Tracer(fx.Tracer):
    """Looks into modules that hold a dropout or a depth to observe; with `finest` off, only into the outermost ones."""

    def __init__(self, network: nn.Module, *, finest: bool, observed: bool) -> None:
        super().__init__()
        self.finest = finest
        self.depths: dict[str, fx.Node] = {}
        self._head = last_linear(network) if observed else None
        self._observed = inner_depths(network)[0] if observed else {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, SeededDropout) or not any(self._is_wanted(part) for part in m.modules() if part is not m):
            return True
        inner = module_qualified_name.count(".") > 0 and not isinstance(m, nn.Sequential)
        return inner and not self.finest

    def _is_wanted(self, module: nn.Module) -> bool:
        return isinstance(module, SeededDropout) or any(module is depth for depth in self._observed.values())

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if m is self._head:
            self.depths[PENULTIMATE] = args[0].node
        result = super().call_module(m, forward, args, kwargs)
        for depth, module in self._observed.items():
            if m is module:
                self.depths[depth] = result.node
        return result


@dataclass
class _Parts:
    """A traced network with what depends on its dropouts and what lies at the boundary."""

    network: nn.Module
    graph: fx.Graph
    tainted: set[fx.Node] = field(init=False)
    boundary: list[fx.Node] = field(init=False)

    def __post_init__(self) -> None:
        self.tainted = _tainted(self.network, self.graph)
        self.boundary = [
            node
            for node in self.graph.nodes
            if node not in self.tainted and node.op != "get_attr" and any(user in self.tainted for user in node.users)
        ]


def _cut(network: nn.Module, graph: fx.Graph, depths: Mapping[str, fx.Node]) -> Split:
    parts = _Parts(network, graph)
    if not parts.tainted:
        raise ValueError("no dropout lies on the way to the output")
    masked, dropouts = _masked(parts)
    known = {depth: depths[depth] for depth in (PENULTIMATE, SHALLOW, EARLY) if depth in depths}
    return Split(
        prefix=_module(network, _prefix(parts)),
        suffix=_module(network, _suffix(parts)),
        detail=f"cut before {next(node for node in graph.nodes if node in parts.tainted).target}",
        masked=masked,
        dropouts=dropouts,
        observer=_module(network, _observer(parts, known)) if PENULTIMATE in known else None,
        depths=tuple(known),
    )


def _module(network: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(network, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    module.eval()
    return module


def _tainted(network: nn.Module, graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on a dropout."""
    tainted: set[fx.Node] = set()
    for node in graph.nodes:
        inputs_tainted = any(source in tainted for source in node.all_input_nodes)
        if inputs_tainted or (node.op == "call_module" and _draws(network, str(node.target))):
            tainted.add(node)
    return tainted


def _draws(network: nn.Module, path: str) -> bool:
    return any(isinstance(part, SeededDropout) for part in network.get_submodule(path).modules())


def _prefix(parts: _Parts) -> fx.Graph:
    copy = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    for node in parts.graph.nodes:
        if node not in parts.tainted and node.op != "output":
            new[node] = copy.node_copy(node, lambda old: new[old])
    copy.output(tuple(new[node] for node in parts.boundary))
    return copy


def _suffix(parts: _Parts) -> fx.Graph:
    copy = fx.Graph()
    new = {node: copy.placeholder(node.name) for node in parts.boundary}
    for node in parts.graph.nodes:
        if node.op == "output":
            copy.output(fx.map_arg(node.args[0], lambda old: new[old]))
        elif node in parts.tainted or node.op == "get_attr":
            new[node] = copy.node_copy(node, lambda old: new[old])
    return copy


def _masked(parts: _Parts) -> tuple[fx.GraphModule | None, tuple[SeededDropout, ...]]:
    """The suffix with every dropout as a product with an input, or None where one hides in a module not looked into."""
    drawing = [n for n in parts.graph.nodes if n.op == "call_module" and _draws(parts.network, str(n.target))]
    modules = [parts.network.get_submodule(str(node.target)) for node in drawing]
    dropouts = tuple(module for module in modules if isinstance(module, SeededDropout))
    if len(dropouts) < len(modules):
        return None, ()
    copy = fx.Graph()
    new = {node: copy.placeholder(node.name) for node in parts.boundary}
    masks = {node: copy.placeholder(f"mask_{place}") for place, node in enumerate(drawing)}
    for node in parts.graph.nodes:
        if node.op == "output":
            copy.output(fx.map_arg(node.args[0], lambda old: new[old]))
        elif node in masks:
            new[node] = copy.call_function(torch.mul, (new[node.args[0]], masks[node]))
        elif node in parts.tainted or node.op == "get_attr":
            new[node] = copy.node_copy(node, lambda old: new[old])
    return _module(parts.network, copy), dropouts


def _observer(parts: _Parts, depths: Mapping[str, fx.Node]) -> fx.Graph:
    """The whole network without dropout up to its last linear layer, giving boundary and pooled features.

    Both are copied where they arise: later layers may work in place.
    """
    copy = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    kept: dict[fx.Node, fx.Node] = {}
    pooled: dict[str, fx.Node] = {}
    tokens = inner_depths(parts.network)[1]
    for node in parts.graph.nodes:
        if node.op == "output":
            break
        dropout = node.op == "call_module" and isinstance(parts.network.get_submodule(str(node.target)), SeededDropout)
        new[node] = new[node.args[0]] if dropout else copy.node_copy(node, lambda old: new[old])
        if node in parts.boundary:
            kept[node] = copy.call_method("clone", (new[node],))
        for depth in (name for name, place in depths.items() if place is node):
            pooled[depth] = copy.call_function(_pooled, (new[node], depth == PENULTIMATE, tokens))
    copy.output((*(kept[node] for node in parts.boundary), *(pooled[depth] for depth in depths)))
    return copy


def _pooled(values: Tensor, penultimate: bool, tokens: bool) -> Tensor:
    """Features (P, F) of one depth: flat before the last layer, elsewhere the mean over space, or over tokens."""
    if penultimate:
        return values.flatten(1)
    return values.mean(dim=1 if tokens else tuple(range(2, values.dim())))


def tiled(boundary: tuple[Any, ...], parts: int, passes: int) -> tuple[Any, ...]:
    """The boundary of `parts` rows, repeated for `passes`; copied even for one, since a suffix may write into it."""
    return tuple(_tile(value, parts, passes) for value in boundary)


def alone(boundary: tuple[Any, ...], parts: int) -> tuple[Any, ...]:
    """The boundary of the first `parts` rows, where the rows were doubled to go through the prefix in company."""
    return tuple(
        value[:parts] if isinstance(value, Tensor) and value.dim() and value.shape[0] == 2 * parts else value
        for value in boundary
    )


def _tile(value: Any, parts: int, passes: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0 or value.shape[0] != parts:
        return value.clone()
    return value.repeat(passes, *(1 for _ in value.shape[1:]))
