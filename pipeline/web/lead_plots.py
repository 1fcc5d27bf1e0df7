"""Coordinates of the plots on the lead's page: pure functions from numbers to what an SVG draws.

Pages put these into attributes and give them classes; nothing here knows a colour. Lengths are SVG units, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 10.0, 26.0  #: margins around a plot for its labels
_MOST_LABELS = 8
_MINUTE_TICKS = (
    (1, "1 min"),
    (5, "5 min"),
    (15, "15 min"),
    (60, "1 h"),
    (240, "4 h"),
    (720, "12 h"),
    (1440, "1 d"),
    (4320, "3 d"),
    (14400, "10 d"),
    (43200, "30 d"),
)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis with its label."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """A rectangle; `kind` names its series and `label` says it in words."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """A point with its interval."""

    x: float
    y: float
    low: float
    high: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A step curve as an SVG path, its limit's place where it has one, and where its name stands."""

    kind: str
    path: str
    limit: float | None
    label: str
    label_x: float
    label_y: float


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A frame with its ticks and what is drawn in it."""

    width: float
    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    blocks: tuple[Block, ...] = ()
    whiskers: tuple[Whisker, ...] = ()
    curves: tuple[Curve, ...] = ()

    @property
    def left(self) -> float:
        """Where the frame begins."""
        return LEFT

    @property
    def right(self) -> float:
        """Where the frame ends."""
        return self.width - RIGHT

    @property
    def floor(self) -> float:
        """The y of zero."""
        return self.height - BOTTOM


@dataclass(frozen=True, kw_only=True)
class Waits:
    """The waits of one kind in minutes, with the limit of the kind."""

    kind: str
    label: str
    minutes: Sequence[float]
    limit: float | None


def nice_top(largest: float) -> float:
    """The smallest of 1, 2, 4, 6, 8, 10, 20, ... that is not below the largest value; 1 where there is none."""
    if largest <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= largest - 1e-9)


def _round(value: float) -> float:
    return round(value, 1)


def _counts_axis(top: float, height: float) -> tuple[Tick, ...]:
    whole = [value for value in (0.0, top / 2, top) if value == int(value)]
    scale = (height - TOP - BOTTOM) / top
    return tuple(Tick(at=_round(height - BOTTOM - value * scale), label=str(int(value))) for value in whole)


def _thinned(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    step = max(1, math.ceil(len(ticks) / _MOST_LABELS))
    return tuple(ticks[::step])


def stacked_columns(
    columns: Sequence[tuple[str, Sequence[int]]], kinds: Sequence[str], *, width: float = 640, height: float = 220
) -> Plot:
    """One column a label, its counts stacked from below in the order of `kinds`."""
    top = nice_top(max((sum(counts) for _, counts in columns), default=0))
    step = (width - LEFT - RIGHT) / max(1, len(columns))
    scale = (height - TOP - BOTTOM) / top
    blocks, ticks = [], []
    for index, (label, counts) in enumerate(columns):
        x, below = LEFT + index * step, 0
        ticks.append(Tick(at=_round(x + step / 2), label=label))
        for kind, count in zip(kinds, counts, strict=True):
            below += count
            if count:
                y = height - BOTTOM - below * scale
                blocks.append(
                    Block(
                        x=_round(x + step * 0.12),
                        y=_round(y),
                        width=_round(step * 0.76),
                        height=_round(count * scale),
                        kind=kind,
                        label=f"{label}: {count}",
                    )
                )
    return Plot(
        width=width,
        height=height,
        x_ticks=_thinned(ticks),
        y_ticks=_counts_axis(top, height),
        blocks=tuple(blocks),
    )


def shares(
    points: Sequence[tuple[str, float | None, float | None, float | None]], *, width: float = 640, height: float = 220
) -> Plot:
    """A share a label with the ends of its interval, on an axis from 0 to 100 %; nothing where there is no share."""
    step = (width - LEFT - RIGHT) / max(1, len(points))
    inner = height - TOP - BOTTOM

    def place(share: float) -> float:
        return _round(height - BOTTOM - share * inner)

    ticks = [Tick(at=_round(LEFT + (index + 0.5) * step), label=point[0]) for index, point in enumerate(points)]
    whiskers = [
        Whisker(x=tick.at, y=place(value), low=place(low), high=place(high), label=f"{label}: {100 * value:.0f} %")
        for tick, (label, value, low, high) in zip(ticks, points, strict=True)
        if value is not None and low is not None and high is not None
    ]
    y_ticks = tuple(Tick(at=place(share), label=f"{100 * share:.0f} %") for share in (0.0, 0.5, 1.0))
    return Plot(width=width, height=height, x_ticks=_thinned(ticks), y_ticks=y_ticks, whiskers=tuple(whiskers))


def waiting_curves(groups: Sequence[Waits], *, width: float = 640, height: float = 220) -> Plot:
    """Which share of each kind waited no longer than so many minutes (logarithmic), with the limit of the kind."""
    longest = max((value for group in groups for value in (*group.minutes, group.limit or 0.0)), default=60.0)
    top = next((minutes for minutes, _ in _MINUTE_TICKS if minutes >= longest and minutes >= 60), longest)
    scale = (width - LEFT - RIGHT) / math.log(top)
    inner = height - TOP - BOTTOM

    def across(minutes: float) -> float:
        return _round(LEFT + math.log(max(1.0, minutes)) * scale)

    curves = tuple(
        replace(
            _curve(group, [across(one) for one in sorted(group.minutes)], height - BOTTOM, inner, across(top)),
            limit=None if group.limit is None else across(group.limit),
        )
        for group in groups
        if group.minutes
    )
    x_ticks = tuple(Tick(at=across(minutes), label=label) for minutes, label in _MINUTE_TICKS if minutes <= top)
    y_ticks = tuple(
        Tick(at=_round(height - BOTTOM - part * inner), label=f"{100 * part:.0f} %") for part in (0, 0.5, 1)
    )
    return Plot(
        width=width,
        height=height,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        curves=curves,
    )


def _curve(group: Waits, places: Sequence[float], floor: float, inner: float, end: float) -> Curve:
    step = inner / len(places)
    parts = [f"M{LEFT} {_round(floor)}"]
    for index, x in enumerate(places, start=1):
        parts.append(f"H{x}V{_round(floor - index * step)}")
    middle = len(places) // 2
    return Curve(
        kind=group.kind,
        path="".join([*parts, f"H{end}"]),
        limit=None,
        label=group.label,
        label_x=_round(places[middle] + 6),
        label_y=_round(floor - (middle + 0.5) * step),
    )


def bar_widths(values: Sequence[float], *, width: float = 200) -> tuple[float, ...]:
    """The length of one bar a value; the largest fills the width."""
    largest = max(values, default=0.0)
    return tuple(_round(width * value / largest) if largest > 0 else 0.0 for value in values)
