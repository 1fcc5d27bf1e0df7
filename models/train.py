"""Training one member: a plain loop, chosen by the negative log-likelihood on the tune split.

Why no label smoothing, mixup or class weights: each bends the probabilities that the certificate is made of. Why the
best epoch by NLL and not by accuracy: the routes are thresholds on probabilities. Where classes are drawn equally often,
the prior that this makes is undone in the output's bias, before the epoch is chosen and anything is calibrated. Why a
moving average of the weights: it costs nothing at inference and lowers the NLL (Polyak and Juditsky 1992,
doi:10.1137/0330046).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from models.networks import build_network
from models.training_record import EpochRecord
from models.transforms import augment
from pipeline.domain.calibration import prior_shift
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol

__all__ = ["EpochRecord", "TrainedMember", "train_member"]

_EVALUATION_BATCH = 64
_AVERAGED_EPOCHS = 1.5  #: the moving average of the weights looks back over about this many epochs
_FEWEST_SCHEDULED = 15  #: with fewer steps the rising part of the schedule would have none
_LARGEST_GRADIENT = 5.0  #: norm to which gradients are clipped


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedMember:
    """The weights of one member at its best epoch, on the CPU, and the record of every epoch."""

    member: int
    seed: int
    weights: dict[str, Tensor]
    history: tuple[EpochRecord, ...]
    best_epoch: int


def train_member(
    protocol: TriageProtocol,
    images: Tensor,
    labels: Tensor,
    tune_images: Tensor,
    tune_labels: Tensor,
    *,
    member: int,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    threads: int | None = None,
    device: str = "cpu",
) -> TrainedMember:
    """Train `member` on `images` (N, 1, *size) with `labels` (N,), stopping by the NLL of the tune split.

    Everything random follows from (seed, member); torch's global generator is left as it was. On CUDA the forward pass
    is in mixed precision. Raises HaltPipeline when a split is empty or the loss is not finite.
    """
    _check(protocol, images, labels, tune_images, tune_labels)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    devices = [torch.device(device)] if device.startswith("cuda") else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_member_seed(seed, member))
            loop = _Loop(protocol, images, labels, seed=_member_seed(seed, member), device=device)
            return loop.run(tune_images, tune_labels, member=member, seed=seed, on_epoch=on_epoch)
    finally:
        torch.set_num_threads(before)


class _Loop:
    """The state of one training: network, its moving average, optimiser and learning-rate schedule."""

    def __init__(self, protocol: TriageProtocol, images: Tensor, labels: Tensor, *, seed: int, device: str) -> None:
        self.training = protocol.training
        self.device = torch.device(device)
        self.images = images
        self.labels = labels.to(self.device, torch.long)
        self.shuffler = torch.Generator().manual_seed(seed)
        self.augmenter = torch.Generator().manual_seed(seed + 1)
        self.network: nn.Module = build_network(protocol).to(self.device)
        self.shift = _prior_shift(labels, len(protocol.classes)) if self.training.balanced else None
        self.steps = max(1, math.ceil(len(images) / self.training.batch_size))
        keep = 1.0 - 1.0 / (_AVERAGED_EPOCHS * self.steps + 1.0)
        self.average = AveragedModel(self.network, multi_avg_fn=_moving_average(keep), use_buffers=True)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.training.learning_rate, weight_decay=self.training.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=self.training.learning_rate,
            total_steps=max(self.steps * self.training.epochs + 1, _FEWEST_SCHEDULED),
            pct_start=0.2,
        )

    def run(
        self,
        tune_images: Tensor,
        tune_labels: Tensor,
        *,
        member: int,
        seed: int,
        on_epoch: Callable[[EpochRecord], None],
    ) -> TrainedMember:
        history: list[EpochRecord] = []
        best, weights = 0, _copy(self.average.module)
        for epoch in range(self.training.epochs):
            started = time.monotonic()
            train_nll = self._epoch()
            tune_nll, accuracy = _judge(self.average.module, tune_images, tune_labels, self.device, self.shift)
            record = EpochRecord(
                epoch=epoch,
                train_nll=train_nll,
                tune_nll=tune_nll,
                tune_accuracy=accuracy,
                seconds=time.monotonic() - started,
            )
            history.append(record)
            on_epoch(record)
            if epoch == 0 or tune_nll < history[best].tune_nll:
                best, weights = epoch, _copy(self.average.module)
            if epoch - best >= self.training.patience:
                break
        if self.shift is not None:
            weights[_output_bias(self.network)] += self.shift
        return TrainedMember(member=member, seed=seed, weights=weights, history=tuple(history), best_epoch=best)

    def _epoch(self) -> float:
        self.network.train()
        total = 0.0
        for chosen in self._batches():
            total += self._step(chosen) * len(chosen)
        return total / len(self.images)

    def _batches(self) -> list[Tensor]:
        order = self._order()
        batches = list(torch.split(order, self.training.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:  # batch normalisation needs more than one value
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _order(self) -> Tensor:
        """One epoch's images: each once, or with `balanced` as many drawn anew so that every class is as likely."""
        if self.shift is None:
            return torch.randperm(len(self.images), generator=self.shuffler)
        labels = self.labels.cpu()
        weights = 1.0 / torch.bincount(labels).clamp(min=1)[labels].double()
        return torch.multinomial(weights, len(labels), replacement=True, generator=self.shuffler)

    def _step(self, chosen: Tensor) -> float:
        batch = self.images[chosen]
        batch = augment(batch, self.augmenter) if self.training.augment else batch
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda", dtype=torch.bfloat16):
            logits = self.network(batch.to(self.device))
        loss = functional.cross_entropy(logits.float(), self.labels[chosen.to(self.device)])
        if not torch.isfinite(loss):
            raise HaltPipeline(
                "training diverged: the loss is not finite; lower training.learning_rate in the protocol"
            )
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimiser.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())


def _moving_average(keep: float) -> Callable[[object, object, object], None]:
    def update(averaged: object, current: object, _: object) -> None:
        for kept, new in zip(averaged, current, strict=True):  # type: ignore[call-overload]
            if torch.is_floating_point(kept):
                kept.lerp_(new.to(kept), 1.0 - keep)
            else:
                kept.copy_(new)

    return update


@torch.inference_mode()
def _judge(
    network: nn.Module, images: Tensor, labels: Tensor, device: torch.device, shift: Tensor | None
) -> tuple[float, float]:
    network.eval()
    logits = torch.cat([network(part.to(device)).float().cpu() for part in torch.split(images, _EVALUATION_BATCH)])
    logits = logits if shift is None else logits + shift
    nll = functional.cross_entropy(logits, labels.to("cpu", torch.long))
    return float(nll), float((logits.argmax(1) == labels.to("cpu")).float().mean())


def _prior_shift(labels: Tensor, classes: int) -> Tensor:
    """What takes logits learnt with all classes equally often back to their natural shares, by Bayes' rule."""
    natural = np.bincount(labels.cpu().numpy(), minlength=classes) / len(labels)
    return torch.tensor(prior_shift(np.full(classes, 1.0 / classes), natural), dtype=torch.float32)


def _output_bias(network: nn.Module) -> str:
    """The name of the bias that is added to the logits: that of the last linear layer."""
    named = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not named or f"{named[-1]}.bias" not in network.state_dict():
        raise HaltPipeline(
            "training.balanced: the network has no output bias to undo the class prior in; set it to false"
        )
    return f"{named[-1]}.bias"


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }


def _member_seed(seed: int, member: int) -> int:
    return (seed * 1_000_003 + member * 7_919) % 2**63


def _check(protocol: TriageProtocol, images: Tensor, labels: Tensor, tune_images: Tensor, tune_labels: Tensor) -> None:
    for split, shown, named in (("train", images, labels), ("tune", tune_images, tune_labels)):
        if len(shown) == 0 or len(shown) != len(named):
            raise HaltPipeline(f"split {split}: {len(shown)} images for {len(named)} labels; give each image one label")
    absent = [name for i, name in enumerate(protocol.class_names) if not bool((labels == i).any())]
    if absent:
        raise HaltPipeline(
            f"split train: no image of class {absent[0]}; add some, or take the class out of the protocol"
        )
