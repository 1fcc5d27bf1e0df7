"""How fast the engine is here, in units of one eager deterministic forward of every member (`det`).

DenseNet121 with fresh weights, in two and in three dimensions, dropout in each placement. A row says what passes cost
with the engine that this machine chose and with the bare cut in plain PyTorch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from monai.networks.nets import DenseNet121
from torch import Tensor, nn

from models.backend_choice import Search
from models.dropout_placement import place_dropout
from models.sampling import Ensemble
from pipeline.domain.interleaved import Row, Work, ratios
from pipeline.protocol import Dropout

SIZES: Final = {2: (8, 1, 224, 224), 3: (4, 1, 64, 64, 64)}  #: batches (N, C, [D,] H, W)
SMALL: Final = {2: (2, 1, 64, 64), 3: (1, 1, 32, 32, 32)}


@dataclass(frozen=True)
class Setting:
    """One placement of dropout, its passes and what was aimed at, in det."""

    placement: str
    passes: int
    reach: float


SETTINGS: Final = (Setting("head", 50, 0.7), Setting("last_stage", 50, 2.2), Setting("every_block", 20, 14.0))
Peers = Callable[[Sequence[nn.Module], Tensor], list[tuple[str, Work]]]


def sampling_rows(
    search: Search, *, members: int = 2, repetitions: int = 5, small: bool = False, peers: Peers | None = None
) -> Iterator[Row]:
    """Rows of each dimension and placement; `peers` gives other ways to draw passes from the same networks."""
    for dimensions, size in (SMALL if small else SIZES).items():
        parts = torch.randn(size, generator=torch.Generator().manual_seed(1))
        for setting in SETTINGS:
            yield from _rows(
                dimensions, setting, parts, members=members, repetitions=repetitions, search=search, peers=peers
            )


def _rows(
    dimensions: int,
    setting: Setting,
    parts: Tensor,
    *,
    members: int,
    repetitions: int,
    search: Search,
    peers: Peers | None,
) -> list[Row]:
    plain = [DenseNet121(dimensions, 1, 2).eval().requires_grad_(False) for _ in range(members)]
    placed = [_placed(network, dimensions, setting.placement) for network in plain]
    chosen, cut = Ensemble(placed, setting.passes, search=search), Ensemble(placed, setting.passes)
    for ensemble in (chosen, cut):
        ensemble.check(parts.shape[2:])
    what = f"DenseNet121 {dimensions}-D, dropout in {setting.placement}, {members} x {setting.passes} passes"
    ours = f"{what}: {chosen.engine}"
    works: list[tuple[str, Work]] = [
        (ours, lambda: chosen.examine(parts, "case")),
        (f"{what}: the cut in plain PyTorch", lambda: cut.examine(parts, "case")),
    ]
    if setting.placement == "head":
        works.append((f"DenseNet121 {dimensions}-D: one deterministic forward", lambda: chosen.without_dropout(parts)))
    works += peers(placed, parts) if peers is not None else []
    reach = {ours: setting.reach, works[2][0] if setting.placement == "head" else "": 0.75}
    return ratios(("one eager forward of every member", lambda: forwards(plain, parts)), works, repetitions, reach)


def _placed(network: nn.Module, dimensions: int, placement: str) -> nn.Module:
    copied = copy.deepcopy(network)
    place_dropout(copied, Dropout.model_validate({"placement": placement, "rate": 0.2}), dimensions)
    layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    return copied.to(memory_format=layout)  # type: ignore[call-overload,no-any-return]


def forwards(networks: Sequence[nn.Module], parts: Tensor) -> None:
    """One eager deterministic forward of every network: the unit."""
    with torch.inference_mode():
        for network in networks:
            network(parts)
