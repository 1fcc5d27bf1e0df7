"""Members trained side by side, each in a process of its own.

Why processes and not threads: torch's generator for dropout belongs to the whole process, so two members trained in one
would not be the same twice. Arrays go over as a safetensors file, weights come back as safetensors bytes.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from models.release import weights_bytes
from models.train import TrainedMember, train_member
from models.training_record import EpochRecord
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol

OnEpoch = Callable[[int, EpochRecord], None]
_reports: Queue[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class _Finished:
    weights: bytes
    history: tuple[EpochRecord, ...]
    best_epoch: int


class MemberTrainer:
    """Trains members of `protocol` on the arrays in `data` (see `save_arrays`), `workers` of them at a time."""

    def __init__(
        self, pool: ProcessPoolExecutor, protocol: TriageProtocol, data: Path, *, seed: int, device: str
    ) -> None:
        self._pool = pool
        self._protocol = protocol
        self._data = data
        self._seed = seed
        self._device = device

    def train(self, member: int) -> TrainedMember:
        """Train one member and wait for it. Raises HaltPipeline, also when its process was killed."""
        content = self._protocol.model_dump(mode="json")
        try:
            done = self._pool.submit(
                _train_here, content, self._data, member=member, seed=self._seed, device=self._device
            ).result()
        except BrokenProcessPool as error:
            raise HaltPipeline(
                "a training process was killed, most likely for want of memory; lower training.batch_size or free memory"
            ) from error
        return TrainedMember(
            member=member,
            seed=self._seed,
            weights=safetensors.torch.load(done.weights),
            history=done.history,
            best_epoch=done.best_epoch,
        )


@contextmanager
def member_trainer(
    protocol: TriageProtocol, data: Path, *, seed: int, device: str, workers: int, on_epoch: OnEpoch
) -> Iterator[MemberTrainer]:
    """A trainer whose processes live as long as the block; `on_epoch` gets (member, record) in this process."""
    context = multiprocessing.get_context("spawn")
    reports: Queue[Any] = context.Queue()
    listener = threading.Thread(target=_listen, args=(reports, on_epoch), name="epochs", daemon=True)
    listener.start()
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(reports,)) as pool:
            yield MemberTrainer(pool, protocol, data, seed=seed, device=device)
    finally:
        reports.put(None)
        listener.join(timeout=10)
        reports.close()


def save_arrays(path: Path, train: tuple[Tensor, Tensor], tune: tuple[Tensor, Tensor]) -> None:
    """Write images (N, 1, *size) and labels (N,) of both splits to `path` as safetensors."""
    arrays = {"train": train[0], "train_labels": train[1], "tune": tune[0], "tune_labels": tune[1]}
    safetensors.torch.save_file({name: array.contiguous() for name, array in arrays.items()}, path)


def _begin(reports: Queue[Any]) -> None:
    global _reports  # noqa: PLW0603 - the one thing a pool's initialiser can leave behind
    _reports = reports


def _train_here(content: dict[str, Any], data: Path, *, member: int, seed: int, device: str) -> _Finished:
    arrays = safetensors.torch.load_file(data)
    done = train_member(
        TriageProtocol.model_validate(content),
        arrays["train"],
        arrays["train_labels"],
        arrays["tune"],
        arrays["tune_labels"],
        member=member,
        seed=seed,
        on_epoch=lambda record: _report(member, record),
        threads=1,
        device=device,
    )
    return _Finished(weights=weights_bytes(done.weights), history=done.history, best_epoch=done.best_epoch)


def _report(member: int, record: EpochRecord) -> None:
    if _reports is not None:
        _reports.put((member, record))


def _listen(reports: Queue[Any], on_epoch: OnEpoch) -> None:
    while (item := reports.get()) is not None:
        on_epoch(*item)
