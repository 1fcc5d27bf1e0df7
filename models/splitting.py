"""Cut a network at its first active dropout, so that what no mask can change is computed once and not in every pass.

The network is traced with torch.fx; every node that depends on a dropout is tainted, and the untainted ones that tainted
ones read are the boundary. A network that cannot be traced is not cut; whoever uses the cut compares it with the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from models.seeded_dropout import SeededDropout


@dataclass(frozen=True, eq=False)
class Split:
    """A network as `suffix(prefix(images))`: the deterministic part, and what follows from the first dropout on."""

    prefix: nn.Module
    suffix: nn.Module
    detail: str


def split_at_dropout(network: nn.Module) -> Split | str:
    """The network (in eval mode, dropout seeded) in two parts, or the reason in words why it stays whole."""
    problem = ""
    for finest in (True, False):
        try:
            graph = _Tracer(finest=finest).trace(network)
            return _cut(network, graph)
        except Exception as error:  # noqa: BLE001 - tracing runs foreign code; the plain loop needs none of it
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return f"cannot be traced ({problem[:160]})"


class _Tracer(fx.Tracer):
    """Looks into modules that hold a dropout only; with `finest` off, only into containers and the outermost ones."""

    def __init__(self, *, finest: bool) -> None:
        super().__init__()
        self.finest = finest

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, SeededDropout) or not any(isinstance(part, SeededDropout) for part in m.modules()):
            return True
        inner = module_qualified_name.count(".") > 0 and not isinstance(m, nn.Sequential)
        return inner and not self.finest


def _cut(network: nn.Module, graph: fx.Graph) -> Split:
    tainted = _tainted(network, graph)
    if not tainted:
        raise ValueError("no dropout lies on the way to the output")
    boundary = [
        node
        for node in graph.nodes
        if node not in tainted and node.op != "get_attr" and any(user in tainted for user in node.users)
    ]
    prefix = _prefix(graph, tainted, boundary)
    suffix = _suffix(graph, tainted, boundary)
    first = next(node for node in graph.nodes if node in tainted)
    return Split(
        prefix=fx.GraphModule(network, prefix).eval(),
        suffix=fx.GraphModule(network, suffix).eval(),
        detail=f"cut before {first.target}",
    )


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


def _prefix(graph: fx.Graph, tainted: set[fx.Node], boundary: list[fx.Node]) -> fx.Graph:
    copy = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in tainted and node.op != "output":
            new[node] = copy.node_copy(node, lambda old: new[old])
    copy.output(tuple(new[node] for node in boundary))
    return copy


def _suffix(graph: fx.Graph, tainted: set[fx.Node], boundary: list[fx.Node]) -> fx.Graph:
    copy = fx.Graph()
    new = {node: copy.placeholder(node.name) for node in boundary}
    for node in graph.nodes:
        if node.op == "output":
            copy.output(fx.map_arg(node.args[0], lambda old: new[old]))
        elif node in tainted or node.op == "get_attr":
            new[node] = copy.node_copy(node, lambda old: new[old])
    return copy


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
