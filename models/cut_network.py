"""A network in two pieces at work: the part before the first dropout once, the part after it in every pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.backend_choice import Chooser, Search
from models.backends import Backend, Run, eager
from models.company import in_company
from models.head_product import gaussian_passes, head_of, masked_product
from models.masks import MaskPlan, mask_plan
from models.seeded_dropout import SeededDropout, passes_seeded
from models.splitting import Split, alone, tiled

PRODUCT = "product"  #: a head alone needs no engine
_TORCH = {Backend.EAGER, Backend.FOLDED, Backend.COMPILED}
_EXAMPLE_PASSES = 4


@dataclass(frozen=True, eq=False)
class Boundary:
    """What the part before the cut makes of `parts` images, and their pooled features (P, F) per depth if asked for."""

    values: tuple[Any, ...]
    parts: int
    features: dict[str, Tensor] = field(default_factory=dict)


class Engine:
    """What the members of one ensemble share: a choice of back end per piece, made with the first member."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._choosers: dict[str, Chooser] = {}

    def chooser(self, name: str, example: Sequence[Tensor]) -> Chooser:
        """The chooser of the piece `name`, shown inputs of its size."""
        key = f"{name} {[tuple(value.shape) for value in example]} {example[0].device}"
        return self._choosers.setdefault(key, Chooser(self._search, name, example))


@dataclass(frozen=True, eq=False)
class CutNetwork:
    """The two pieces and what runs them; without `masks` the part after the cut draws its own, in plain PyTorch."""

    split: Split
    dropouts: tuple[SeededDropout, ...]
    tiles: bool = True
    masks: MaskPlan | None = None
    head: nn.Linear | None = None
    prefix: Run | None = None
    observer: Run | None = None
    suffix: Run | None = None
    prefix_by: str = Backend.EAGER
    observer_by: str = Backend.EAGER
    suffix_by: str = Backend.EAGER

    def prepared(self, images: Tensor) -> CutNetwork:
        """The same in plain PyTorch with its masks as inputs, planned for images of this size, where that is possible."""
        masked = self.split.masked
        if masked is None or any(not isinstance(value, Tensor) for value in self.before(images).values):
            return self
        head = head_of(masked)
        plan = mask_plan(masked, self.split.dropouts, self.before(images).values)
        return replace(
            self, masks=plan, head=head, suffix=eager(masked), suffix_by=Backend.EAGER if head is None else PRODUCT
        )

    def one_by_one(self) -> CutNetwork:
        """The same with one pass at a time, in plain PyTorch, masks drawn inside."""
        return CutNetwork(self.split, self.dropouts, tiles=False)

    def unobserved(self) -> CutNetwork:
        """The same without features on the way."""
        return replace(self, split=replace(self.split, observer=None, depths=()))

    def run_by(self, engine: Engine, images: Tensor) -> CutNetwork:
        """The same with each piece run by what `engine` chooses."""
        if not isinstance(self.split.prefix, fx.GraphModule) or self.split.masked is None or self.masks is None:
            return self
        prefix = engine.chooser("prefix", (images,)).chosen(self.split.prefix)
        found = replace(self, prefix=prefix.run, prefix_by=prefix.backend)
        if self.split.observer is not None:
            observer = engine.chooser("observer", (images,)).chosen(self.split.observer)
            found = replace(found, observer=observer.run, observer_by=observer.backend)
        if self.head is None:
            shown = tiled(self.before(images).values, len(images), _EXAMPLE_PASSES)
            masks = [_for_parts(mask, len(images)) for mask in self.masks.draw(range(_EXAMPLE_PASSES))]
            suffix = engine.chooser("suffix", (*shown, *(mask.to(images) for mask in masks))).chosen(self.split.masked)
            found = replace(found, suffix=suffix.run, suffix_by=suffix.backend)
        return found

    def before(self, images: Tensor, *, observe: bool = False) -> Boundary:
        """The boundary of `images` (P, 1, *size), with features where `observe` asks and the network is known."""
        watched = observe and self.split.observer is not None
        run = (self.observer or eager(_given(self.split.observer))) if watched else self.prefix
        by = self.observer_by if watched else self.prefix_by
        found = (run or eager(self.split.prefix))(in_company(images) if by in _TORCH else images)
        found = alone(found, len(images))
        if not watched:
            return Boundary(found, len(images))
        count = len(found) - len(self.split.depths)
        features = {depth: value.float() for depth, value in zip(self.split.depths, found[count:], strict=True)}
        return Boundary(found[:count], len(images), features)

    def after(self, boundaries: Sequence[Boundary], seeds: Sequence[int], *, rows: int) -> Tensor:
        """Logits (T, P, C) float32 of one pass per seed; at most `rows` rows go through together where they are tiled."""
        if self.head is not None and self.masks is not None:
            (masks,) = self.masks.draw(seeds)
            return self._by_product(boundaries, masks)
        return torch.cat([self._after(boundary, seeds, rows) for boundary in boundaries], dim=1)

    def without_dropout(self, boundaries: Sequence[Boundary]) -> Tensor:
        """Logits (P, C) float32 of one forward with nothing dropped: masks that are all one."""
        logits = []
        for boundary in boundaries:
            ones = [torch.ones_like(mask) for mask in _given(self.masks).draw((0,))]
            if self.head is not None:
                logits.append(self._by_product([boundary], ones[0])[0])
            else:
                masks = [_for_parts(mask, boundary.parts).to(boundary.values[0]) for mask in ones]
                logits.append(_given(self.suffix)(*boundary.values, *masks)[0].float())
        return torch.cat(logits)

    def gaussian(self, boundaries: Sequence[Boundary], count: int, seed: int) -> Tensor:
        """Logits (T, P, C) float32 at `count` quasi-random points; needs a head alone behind the cut."""
        features = torch.cat([_given(boundary.values[0]).float() for boundary in boundaries])
        rate = _given(self.masks).rates[0]
        return gaussian_passes(_given(self.head), features, rate, count, seed)

    def _by_product(self, boundaries: Sequence[Boundary], masks: Tensor) -> Tensor:
        features = torch.cat([boundary.values[0] for boundary in boundaries])
        return masked_product(_given(self.head), features, masks.to(features)).float()

    def _after(self, boundary: Boundary, seeds: Sequence[int], rows: int) -> Tensor:
        step = max(1, rows // boundary.parts) if self.tiles else 1
        logits = []
        for start in range(0, len(seeds), step):
            now = seeds[start : start + step]
            shown = tiled(boundary.values, boundary.parts, len(now))
            made = self._streamed(shown, now) if self.masks is None else self._masked(shown, boundary.parts, now)
            logits.append(made.float().reshape(len(now), boundary.parts, -1))
        return torch.cat(logits)

    def _streamed(self, shown: tuple[Any, ...], seeds: Sequence[int]) -> Tensor:
        with passes_seeded(self.dropouts, seeds):
            made: Tensor = self.split.suffix(*shown)
        return made

    def _masked(self, shown: tuple[Tensor, ...], parts: int, seeds: Sequence[int]) -> Tensor:
        masks = [_for_parts(mask, parts).to(shown[0]) for mask in _given(self.masks).draw(seeds)]
        made: Tensor = _given(self.suffix)(*shown, *masks)[0]
        return made


def _for_parts(mask: Tensor, parts: int) -> Tensor:
    """One mask per pass, the same for every part of it."""
    return mask.repeat_interleave(parts, dim=0)


def _given(value: Any) -> Any:
    if value is None:
        raise ValueError("the network was not prepared for this")
    return value
