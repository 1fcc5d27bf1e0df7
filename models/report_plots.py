"""The pictures of a report: what deferral gains and what it defers, uncertainty by kind of case, reliability, risk.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; lines also differ in their dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Point = Mapping[str, Any]

LINES = {
    "release": ("this release", "#0072b2", "-"),
    "route": ("this release, gated cases deferred first", "#009e73", "--"),
    "ensemble": ("deterministic ensemble", "#e69f00", "-."),
    "dropout": ("one network, MC dropout", "#cc79a7", ":"),
    "single": ("one deterministic network", "#d55e00", "--"),
    "random": ("deferral by lot", "#777777", ":"),
}
_MEASURES = {
    "auc": "AUC of the finding",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity (finding called)",
    "specificity": "specificity (no finding called)",
}
_KINDS = {
    "expected_entropy": "in the images (expected entropy, nats)",
    "mi_dropout": "between looks (dropout part, nats)",
    "mi_member": "between networks (member part, nats)",
    "novelty_p": "novelty p-value (low is unfamiliar)",
}
_DPI = 130
_FEWEST_FOR_A_BOX = 2


def referral_panels(path: Path, curves: Mapping[str, Sequence[Point]]) -> None:
    """Four measures of the cases kept, against the share deferred, one line per system, the release with its interval."""
    figure, axes = _panels(2, 2, (10.5, 7.4))
    for place, (measure, title) in zip(axes, _MEASURES.items(), strict=True):
        for name, points in curves.items():
            _curve(place, name, points, measure)
        place.set_title(title, fontsize=10, loc="left")
        place.set_ylim(top=1.005)
    for place in axes[2:]:
        place.set_xlabel("cases deferred to a clinician, %")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    _write(figure, path)


def make_up(path: Path, points: Sequence[Point]) -> None:
    """How many cases with the finding and without are deferred, against the share deferred."""
    figure, (place,) = _panels(1, 1, (6.4, 3.6))
    x = [100 * point["deferred"] for point in points]
    with_finding = np.array([point["deferred_positives"] for point in points])
    without = np.array([point["deferred_negatives"] for point in points])
    place.stackplot(x, with_finding, without, colors=["#d55e00", "#56b4e9"], labels=["with the finding", "without it"])
    place.set_xlabel("cases deferred to a clinician, %")
    place.set_ylabel("cases deferred")
    place.legend(frameon=False, fontsize=9, loc="upper left")
    _write(figure, path)


def kinds_of_uncertainty(path: Path, groups: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """A box per group and kind of uncertainty: quartiles, whiskers to the 5th and 95th percentile."""
    shown = {name: found for name, found in groups.items() if len(next(iter(found.values()))) >= _FEWEST_FOR_A_BOX}
    figure, axes = _panels(2, 2, (10.5, 6.8))
    for place, (kind, title) in zip(axes, _KINDS.items(), strict=True):
        values = [np.asarray(found[kind]) for found in shown.values()]
        if values:
            place.boxplot(
                values,
                orientation="horizontal",
                whis=(5, 95),
                showfliers=False,
                tick_labels=[f"{name} ({len(v)})" for name, v in zip(shown, values, strict=True)],
                medianprops={"color": "#d55e00"},
            )
        place.invert_yaxis()
        place.set_title(title, fontsize=10, loc="left")
        place.tick_params(axis="y", labelsize=8)
    _write(figure, path)


def _curve(place: Axes, name: str, points: Sequence[Point], measure: str) -> None:
    title, colour, dashes = LINES[name]
    shown = [point for point in points if point.get(measure) is not None]
    x = [100 * point["deferred"] for point in shown]
    place.plot(x, [point[measure] for point in shown], color=colour, linestyle=dashes, label=title, linewidth=1.6)
    held = [point for point in shown if point.get(f"low_{measure}") is not None]
    if held:
        place.fill_between(
            [100 * point["deferred"] for point in held],
            [point[f"low_{measure}"] for point in held],
            [point[f"high_{measure}"] for point in held],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )


def _panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    places: list[Axes] = list(axes.ravel())
    for place in places:
        place.grid(alpha=0.25)
        for side in ("top", "right"):
            place.spines[side].set_visible(False)
    return figure, places


def _write(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
