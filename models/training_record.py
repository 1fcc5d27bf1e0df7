"""What is kept of a training: one record per epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of one member; `train_nll` is with dropout and augmentation, the tune numbers without (NLL in nats)."""

    epoch: int
    train_nll: float
    tune_nll: float
    tune_accuracy: float
    seconds: float
