"""One member of an ensemble: its passes, cut at the first dropout where that provably changes nothing.

A cut, and whatever engine runs its two pieces, is used only after its passes were compared with the whole network's, same
seeds, on noise of the images' size. When memory runs out a chunk gets smaller, then the processor takes over, and at last
the case goes to a reader: fewer passes are never made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.backend_choice import TOLERANCE, largest
from models.backends import Backend
from models.company import in_company
from models.cut_network import Boundary, CutNetwork, Engine
from models.feature_watch import FeatureWatch
from models.out_of_memory import is_out_of_memory
from models.seeded_dropout import make_seeded, pass_seed, passes_seeded
from models.splitting import Split, split_at_dropout
from pipeline.domain.case import Reason
from pipeline.errors import DeferCase, HaltPipeline

Passes = Callable[[Sequence[int]], Tensor]  #: seeds -> logits (T, P, C) float32
Depths = dict[str, Tensor]  #: features (P, F) per depth
T = TypeVar("T")

_ROWS = {"cpu": 32, "cuda": 512}  #: most rows that go through the network at once: parts, or parts times passes
_VOXELS_AT_ONCE = 2**23  #: of the images that go through together: what they become on the way is some fifty times that
_CHECK_PARTS = 2
_CHECK_SEEDS = tuple(pass_seed("self-check", 0, number) for number in range(8))


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """Whether a member's deterministic part runs once, what runs it, and how far its logits then lie from the plain loop's."""

    member: int
    cut: bool
    tiled: bool  #: several passes of the part after the cut share a batch
    difference: float  #: largest absolute difference of a logit; NaN when nothing was compared
    detail: str
    prefix: str = Backend.EAGER  #: what runs the part before the cut
    suffix: str = Backend.EAGER  #: and the one after it; "product" for a head alone


class Member:
    """A copy of `network` on `device` in eval mode, whose only randomness is its seeded dropout.

    With `gaussian`, passes are quasi-random points of the Gaussian that has the moments of head dropout. Raises
    HaltPipeline when no dropout is active.
    """

    def __init__(self, network: nn.Module, index: int, device: torch.device, *, gaussian: bool = False) -> None:
        self.index = index
        self.gaussian = gaussian
        self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.dropouts = make_seeded(self.network)
        self._most_rows = _ROWS.get(device.type, _ROWS["cpu"])
        self._engine: Engine | None = None
        self._settle_on(device)

    def _settle_on(self, device: torch.device) -> None:
        self.device = device
        self.network.to(device).eval()
        found = split_at_dropout(self.network)
        self.split: Split | None = found if isinstance(found, Split) else None
        self.cut = CutNetwork(self.split, self.dropouts) if self.split else None
        self.report: SplitReport | None = None
        self._detail = found.detail if isinstance(found, Split) else f"plain loop: the network {found}"

    def passes(self, parts: Tensor, seeds: Sequence[int]) -> Tensor:
        """Logits (T, P, C) float32 of one pass per seed over `parts` (P, 1, *size), as the checked way makes them."""
        return self.begin(parts)[0](seeds)

    def begin(self, parts: Tensor, *, observe: bool = False) -> tuple[Passes, Depths]:
        """The deterministic part of `parts`, once: what makes passes from there, as often as it is called, and features.

        Features are given where `observe` asks for them and the network could be looked into; else none are.
        """
        self.check(parts.shape[1:])
        seen: Depths = {}
        state: list[Any] = [None, []]

        def boundaries() -> list[Boundary]:
            if state[0] != self.device:
                state[:] = [self.device, self._before(parts, seen, observe=observe)]
            found: list[Boundary] = state[1]
            return found

        def go(seeds: Sequence[int]) -> Tensor:
            return self._in_memory(lambda: self._after(parts, boundaries(), seeds))

        self._in_memory(boundaries)
        return go, seen

    def _before(self, parts: Tensor, seen: Depths, *, observe: bool) -> list[Boundary]:
        if self.cut is None:
            return []
        with torch.inference_mode(), self._precision():
            chunks = torch.split(parts, self._rows(parts))
            found = [self.cut.before(chunk.to(self.device), observe=observe) for chunk in chunks]
        if found[0].features:
            seen.update({d: torch.cat([one.features[d] for one in found]) for d in found[0].features})
        return found

    def _after(self, parts: Tensor, boundaries: Sequence[Boundary], seeds: Sequence[int]) -> Tensor:
        with torch.inference_mode(), self._precision():
            if self.cut is None:
                return self.plain_passes(parts, seeds)
            if self.gaussian:
                return self.cut.gaussian(boundaries, len(seeds), seeds[0])
            return self.cut.after(boundaries, seeds, rows=self._most_rows)

    def plain_passes(self, parts: Tensor, seeds: Sequence[int]) -> Tensor:
        """The same by the plain loop: the whole network, once per pass."""
        return torch.stack([self._once(parts, (seed,)) for seed in seeds])

    def deterministic(self, parts: Tensor, watch: FeatureWatch | None = None) -> Tensor:
        """Logits (P, C) float32 without dropout, in float32 throughout; seen by `watch`."""
        self.check(parts.shape[1:])
        with torch.inference_mode():
            return self._in_memory(lambda: self._without_dropout(parts, watch))

    def _without_dropout(self, parts: Tensor, watch: FeatureWatch | None) -> Tensor:
        cut = self.cut
        if watch is not None or self.device.type != "cpu" or cut is None or cut.masks is None:
            return self._once(parts, (), watch)
        return cut.without_dropout([cut.before(chunk) for chunk in torch.split(parts, self._rows(parts))])

    def use(self, engine: Engine | None) -> None:
        """Run the two pieces by what `engine` chooses, from the next check on; members share it."""
        self._engine = engine

    def check(self, shape: Sequence[int]) -> SplitReport:
        """Compare the cut network with the whole one on noise of `shape` (1, *size), once; keep what agrees.

        Raises HaltPipeline when the network is random outside its dropout, or its dropout changes nothing.
        """
        if self.report is None:
            noise = torch.randn((_CHECK_PARTS, *shape), generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                self.report = self._in_memory(lambda: self._compare(noise))
        return self.report

    def _compare(self, noise: Tensor) -> SplitReport:
        seeds = _CHECK_SEEDS[:3]
        plain = self.plain_passes(noise, seeds)
        if not torch.isfinite(plain).all():
            self.cut = None
            return self._reported(float("nan"), "plain loop: the output is not finite, nothing could be compared")
        self._refuse_idle_dropout(noise, plain)
        difference = float("nan")
        for cut in self._ways(noise) if self.cut else ():
            self.cut = cut
            difference = self._difference(noise, seeds, plain)
            if difference <= self._tolerance(plain):
                self.cut = cut if self._sees_what_hooks_see(cut, noise) else cut.unobserved()
                self._refuse_gaussian_elsewhere()
                return self._reported(difference, self._detail)
        self._refuse_other_randomness(noise, plain)
        if self.cut:
            self._detail = f"plain loop: cut and whole network differ by {difference:.3g}"
        self.cut = None
        self._refuse_gaussian_elsewhere()
        return self._reported(difference, self._detail)

    def _ways(self, noise: Tensor) -> list[CutNetwork]:
        """The cut network in the ways it may run, the fastest first."""
        if self.cut is None:
            return []
        cut = self.cut.prepared(noise.to(self.device))
        faster = [cut.run_by(self._engine, noise.to(self.device))] if self._engine and cut.masks else []
        return [*faster, cut, cut.one_by_one()]

    def _difference(self, noise: Tensor, seeds: Sequence[int], plain: Tensor) -> float:
        if self.cut is None:
            return float("inf")
        try:
            together = self._cut_passes(noise, seeds) - plain
            lone = self._cut_passes(noise[:1], seeds) - plain[:, :1]
            return largest(float(each.abs().max()) for each in (together, lone))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            return float("inf")

    def _tolerance(self, values: Tensor) -> float:
        return TOLERANCE.get(self.device.type, 0.0) * max(1.0, float(values.abs().max()))

    def _sees_what_hooks_see(self, cut: CutNetwork, noise: Tensor) -> bool:
        """Whether the features on the way to the boundary are those of the network with hooks."""
        if self.index or self.device.type != "cpu" or cut.split.observer is None:
            return True
        watch = FeatureWatch(self.network)
        self._once(noise, (), watch)
        hooked = {depth: torch.from_numpy(values) for depth, values in watch.features().items()}
        seen = cut.before(noise, observe=True).features
        return seen.keys() == hooked.keys() and all(
            float((seen[depth] - hooked[depth]).abs().max()) <= self._tolerance(hooked[depth]) for depth in hooked
        )

    def _cut_passes(self, parts: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.cut is None:
            raise ValueError("the network was not cut")
        with self._precision():
            return self.cut.after([self.cut.before(parts.to(self.device))], seeds, rows=self._most_rows)

    def _reported(self, difference: float, detail: str) -> SplitReport:
        cut = self.cut
        if cut is None:
            return SplitReport(member=self.index, cut=False, tiled=False, difference=difference, detail=detail)
        return SplitReport(
            member=self.index, cut=True, tiled=cut.tiles, difference=difference, detail=detail,
            prefix=cut.prefix_by, suffix=cut.suffix_by,
        )  # fmt: skip

    def _refuse_gaussian_elsewhere(self) -> None:
        if self.gaussian and (self.cut is None or self.cut.head is None):
            raise HaltPipeline(
                f"member {self.index}: network.sampling = moments needs dropout before the last linear layer only; "
                "set network.dropout.placement to head, or network.sampling to fixed"
            )

    def _refuse_idle_dropout(self, noise: Tensor, plain: Tensor) -> None:
        if bool((plain[1:] != plain[:1]).any()):
            return
        if torch.equal(self.plain_passes(noise, _CHECK_SEEDS), plain[:1].expand(len(_CHECK_SEEDS), -1, -1)):
            raise HaltPipeline(
                f"member {self.index}: passes with different dropout masks give the same output, so nothing would seem "
                "uncertain; train it again, or raise network.dropout.rate"
            )

    def _refuse_other_randomness(self, noise: Tensor, plain: Tensor) -> None:
        if not torch.equal(self.plain_passes(noise, _CHECK_SEEDS[:1]), plain[:1]):
            raise HaltPipeline(
                f"member {self.index}: the network is random outside its dropout modules, so no result could be "
                "recomputed; use a network whose only randomness is torch's dropout modules"
            )

    def _in_memory(self, work: Callable[[], T]) -> T:
        """What `work` returns, with ever smaller chunks while memory runs out. Raises DeferCase when nothing helps."""
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._make_room()

    def _make_room(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._most_rows > 1:
            self._most_rows //= 2
        elif self.device.type == "cpu":
            raise DeferCase(Reason.NOT_ANALYSED, "one image does not fit into memory; a clinician reads the case")
        else:
            self._most_rows = _ROWS["cpu"]
            self._settle_on(torch.device("cpu"))

    def _rows(self, parts: Tensor) -> int:
        """How many of `parts` go through the network at once."""
        return max(1, min(self._most_rows, _VOXELS_AT_ONCE // max(1, parts[0].numel())))

    def _once(self, parts: Tensor, seeds: Sequence[int], watch: FeatureWatch | None = None) -> Tensor:
        chunks = []
        for chunk in torch.split(parts, self._rows(parts)):
            with passes_seeded(self.dropouts, seeds), watch.watching(len(chunk)) if watch else nullcontext():
                chunks.append(self.network(in_company(chunk.to(self.device)))[: len(chunk)].float())
        return torch.cat(chunks)

    def _precision(self) -> AbstractContextManager[object]:
        cuda = self.device.type == "cuda"
        return torch.autocast(self.device.type, enabled=cuda, dtype=torch.bfloat16)
