"""Which back end runs a piece of a network: the fastest, measured here, of those that agree with plain PyTorch.

No engine wins everywhere, so the choice is a measurement, remembered per machine; agreement is checked at every load and
for every member, whatever was remembered.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, fx

from models.backends import Backend, Builder, Run, available, eager, machine, versions
from pipeline.domain.interleaved import seconds

TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}  #: largest difference, per unit of the largest value; CUDA may use TF32
_REPETITIONS = 5
_WORTHWHILE = 0.95  #: of plain PyTorch's time; what gains less is not worth another library


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which back ends may be tried, and the file that remembers what was fastest; None remembers nothing."""

    allowed: tuple[Backend, ...] | None = None  #: None allows all that are installed
    memory: Path | None = None

    def candidates(self, device: torch.device) -> tuple[Backend, ...]:
        """The back ends to try, plain PyTorch first."""
        known = available(device)
        return known if self.allowed is None else tuple(b for b in known if b in {Backend.EAGER, *self.allowed})


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen:
    """A run of one piece, the back end behind it and its time as a share of plain PyTorch's (NaN when not measured)."""

    run: Run
    backend: Backend
    ratio: float = float("nan")
    difference: float = 0.0  #: largest, per unit of the largest value


class Chooser:
    """Chooses for one piece of several members: the first one measures, the others follow where they agree."""

    def __init__(self, search: Search, name: str, example: Sequence[Tensor]) -> None:
        self._search = search
        self._name = name
        self._example = tuple(example)
        self._device = example[0].device
        self._builder = Builder(example)
        self._followed: Chosen | None = None

    def chosen(self, piece: fx.GraphModule) -> Chosen:
        """The run for this member's `piece`; plain PyTorch where nothing else agrees with it."""
        if self._followed is None:
            self._followed = self._remembered(piece) or self._measured(piece)
            return self._followed
        return self._agreeing(self._followed.backend, piece) or _plain(piece)

    def _remembered(self, piece: fx.GraphModule) -> Chosen | None:
        known = _read(self._search.memory).get(self._key(piece), {})
        try:
            backend, ratio = Backend(str(known["backend"])), float(str(known["ratio"]))
        except (KeyError, TypeError, ValueError):
            return None
        if backend not in self._search.candidates(self._device):
            return None
        found = self._agreeing(backend, piece)
        return None if found is None else Chosen(**{**vars(found), "ratio": ratio})

    def _measured(self, piece: fx.GraphModule) -> Chosen:
        tried = [self._agreeing(backend, piece) for backend in self._search.candidates(self._device)]
        runs = [found for found in tried if found is not None]
        taken = seconds([partial(self._once, found.run) for found in runs], _REPETITIONS)
        medians = [statistics.median(each) for each in taken]
        ratios = [median / medians[0] for median in medians]
        best = min(range(len(runs)), key=ratios.__getitem__)
        place = best if ratios[best] <= _WORTHWHILE else 0
        found = Chosen(**{**vars(runs[place]), "ratio": ratios[place]})
        _remember(self._search.memory, self._key(piece), {"backend": found.backend, "ratio": round(found.ratio, 3)})
        return found

    def _once(self, run: Run) -> None:
        run(*self._example)
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _agreeing(self, backend: Backend, piece: fx.GraphModule) -> Chosen | None:
        """The piece run by `backend`, or None where it cannot be built, fails, or differs from plain PyTorch."""
        if backend is Backend.EAGER:
            return _plain(piece)
        try:
            run = self._builder.build(backend, piece)
            difference = max(self._difference(run, piece, rows) for rows in (1, 3))
        except Exception:  # noqa: BLE001 - foreign compilers raise anything; plain PyTorch needs none of them
            return None
        if not difference <= TOLERANCE[self._device.type]:
            return None
        return Chosen(run=run, backend=backend, difference=difference)

    def _difference(self, run: Run, piece: fx.GraphModule, rows: int) -> float:
        """The largest difference from plain PyTorch on `rows` rows, per unit of the largest value of that output.

        Infinite where a value is not finite.
        """
        shown = [_repeated(value, rows) for value in self._example]
        expected = eager(piece)(*(value.clone() for value in shown))
        found = run(*shown)
        pairs = list(zip(expected, found, strict=True))
        if any(one.shape != other.shape for one, other in pairs):
            return float("inf")
        return largest(float((one - other).abs().max()) / max(1.0, float(one.abs().max())) for one, other in pairs)

    def _key(self, piece: fx.GraphModule) -> str:
        """What the measurement holds for: this graph on inputs of this size, these libraries, this machine."""
        shapes = [tuple(value.shape) for value in self._example]
        tried = [versions(backend) for backend in self._search.candidates(self._device)]
        weights = [tuple(value.shape) for value in piece.state_dict().values()]
        text = f"{self._name}|{piece.code}|{weights}|{shapes}|{tried}|{torch.__version__}|{machine()}|{self._device}"
        return hashlib.sha256(text.encode()).hexdigest()


def largest(differences: Iterable[float]) -> float:
    """The largest of them; infinite where one is not finite, since Python's `max` may pass over NaN."""
    known = list(differences)
    return max(known) if all(map(math.isfinite, known)) else math.inf


def _plain(piece: fx.GraphModule) -> Chosen:
    return Chosen(run=eager(piece), backend=Backend.EAGER, ratio=1.0)


def _repeated(value: Tensor, rows: int) -> Tensor:
    """`rows` rows that differ from each other, made of those of `value`."""
    places = torch.arange(rows, device=value.device) % value.shape[0]
    scale = 1.0 + 0.1 * torch.arange(rows, device=value.device, dtype=value.dtype)
    return value[places] * scale.reshape(-1, *(1 for _ in value.shape[1:]))


def _read(memory: Path | None) -> Mapping[str, Mapping[str, object]]:
    if memory is None or not memory.is_file():
        return {}
    try:
        known = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path | None, key: str, choice: Mapping[str, object]) -> None:
    """Add one choice; a memory that cannot be written, or has no folder yet, only costs the measurement next time."""
    if memory is None:
        return
    try:
        fresh = memory.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps({**_read(memory), key: choice}, indent=1, sort_keys=True), "utf-8")
        fresh.replace(memory)
    except OSError:
        return
