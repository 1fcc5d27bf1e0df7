"""Pictures of an evaluation and of a training: reliability with its null band, risk against coverage, loss by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binom

from models.training_record import EpochRecord
from pipeline.domain.calibration import ReliabilityBin

_COLOURS = ("#0b5394", "#c0504d", "#6a9a3b", "#8064a2", "#7f7f7f")
_DPI = 130


def reliability_plot(path: Path, bins: Sequence[ReliabilityBin]) -> None:
    """Observed frequency against confidence per bin, with the 95 % band of a perfectly calibrated model of this size."""
    figure, (place,) = _figure(1)
    confidence = np.array([b.confidence for b in bins])
    number = np.array([b.n for b in bins])
    low, high = (binom.ppf(q, number, confidence) / number for q in (0.025, 0.975))
    place.vlines(confidence, low, high, color="#bbbbbb", linewidth=6, label="calibrated: 95 % of draws")
    place.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--")
    place.plot(confidence, [b.frequency for b in bins], "o", color=_COLOURS[0], label="observed")
    _label(place, "confidence of the most probable class", "share right")
    place.legend(frameon=False, fontsize=8, loc="lower right")
    _write(figure, path)


def risk_coverage_plot(path: Path, curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
    """Share wrong among the cases kept against the share kept, one line per system."""
    figure, (place,) = _figure(1)
    for colour, (name, (coverage, risk)) in zip(_COLOURS, curves.items(), strict=False):
        place.plot(coverage, risk, color=colour, label=name)
    _label(place, "share of cases kept (coverage)", "share wrong among them (selective risk)")
    place.set_xlim(0, 1)
    place.legend(frameon=False, fontsize=8)
    _write(figure, path)


def training_plot(path: Path, histories: Sequence[Sequence[EpochRecord]]) -> None:
    """Negative log-likelihood per epoch, on train and on tune, one pair of lines per member."""
    figure, (place,) = _figure(1)
    for member, history in enumerate(histories):
        colour = _COLOURS[member % len(_COLOURS)]
        epochs = [record.epoch for record in history]
        place.plot(epochs, [r.tune_nll for r in history], color=colour, label=f"member {member}, tune")
        place.plot(epochs, [r.train_nll for r in history], color=colour, linestyle=":", linewidth=1)
    _label(place, "epoch (dotted: train)", "log loss, nats")
    place.legend(frameon=False, fontsize=8)
    _write(figure, path)


def _figure(places: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.2 * places, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, places, squeeze=False)
    return figure, list(axes[0])


def _label(place: Axes, across: str, up: str) -> None:
    place.set_xlabel(across)
    place.set_ylabel(up)
    place.grid(alpha=0.25)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)


def _write(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
