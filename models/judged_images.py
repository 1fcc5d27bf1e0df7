"""What a report tells of single images: the numbers behind its small multiples, and the few that a person should see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.predictions import PredictedImage

SHOWN = 8  #: images of each kind in the gallery
KINDS = ("expected_entropy", "mi_dropout", "mi_member", "novelty_p")


def uncertainty_by_kind(
    judged: Sequence[PredictedImage], strangers: Mapping[str, Sequence[PredictedImage]]
) -> dict[str, dict[str, list[float]]]:
    """For right and wrong answers, each class and each foreign split: the values of every kind of uncertainty."""
    groups: dict[str, list[PredictedImage]] = {
        "right": [one for one in judged if _right(one)],
        "wrong": [one for one in judged if not _right(one)],
    }
    for one in judged:
        groups.setdefault(f"class {one.image.row.label}", []).append(one)
    groups |= {f"foreign {name}": list(found) for name, found in strangers.items()}
    return {name: {kind: [_value(one, kind) for one in found] for kind in KINDS} for name, found in groups.items()}


def gallery(
    judged: Sequence[PredictedImage], strangers: Mapping[str, Sequence[PredictedImage]]
) -> dict[str, list[dict[str, Any]]]:
    """The most uncertain and the most confident wrong answers of the judged split, and the most novel of all images."""
    wrong = [one for one in judged if not _right(one)]
    everyone = [*judged, *(one for found in strangers.values() for one in found)]
    return {
        "uncertain": [_row(one) for one in _first(judged, lambda one: -one.uncertainty.mutual_information)],
        "novel": [_row(one) for one in _first(everyone, lambda one: one.novelty.combined)],
        "confident_errors": [_row(one) for one in _first(wrong, lambda one: -max(one.uncertainty.probabilities))],
    }


def shown_images(
    judged: Sequence[PredictedImage], strangers: Mapping[str, Sequence[PredictedImage]]
) -> dict[str, np.ndarray[Any, Any]]:
    """The middle slice (H, W) of every image of the gallery, under its name in the labels file."""
    everyone = {one.image.row.name: one for one in [*judged, *(o for found in strangers.values() for o in found)]}
    names = {row["path"] for rows in gallery(judged, strangers).values() for row in rows}
    return {name: _middle(everyone[name]) for name in sorted(names)}


def sampling(judged: Sequence[PredictedImage]) -> dict[str, Any]:
    """How many passes were made of how many allowed, and why no more."""
    made = np.array([one.uncertainty.passes for one in judged])
    budget = np.array([one.uncertainty.budget for one in judged])
    stops = [one.uncertainty.stop for one in judged]
    return {
        "budget": int(budget.max()),
        "mean_passes": float(made.mean()),
        "share_of_budget": float(made.sum() / budget.sum()),
        "stops": {stop: stops.count(stop) for stop in sorted(set(stops))},
    }


def _right(one: PredictedImage) -> bool:
    return int(np.argmax(one.uncertainty.probabilities)) == one.image.target


def _value(one: PredictedImage, kind: str) -> float:
    return float(one.novelty.combined if kind == "novelty_p" else getattr(one.uncertainty, kind))


def _first(found: Sequence[PredictedImage], key: Any) -> list[PredictedImage]:
    return sorted(found, key=lambda one: (key(one), one.image.key))[:SHOWN]


def _row(one: PredictedImage) -> dict[str, Any]:
    said = one.uncertainty
    return {
        "path": one.image.row.name,
        "split": one.image.row.split,
        "label": one.image.row.label,
        "answer": said.classes[int(np.argmax(said.probabilities))],
        "confidence": max(said.probabilities),
        "predictive_entropy": said.predictive_entropy,
        "mutual_information": said.mutual_information,
        "novelty_p": one.novelty.combined,
        "fired": list(one.novelty.fired),
    }


def _middle(one: PredictedImage) -> np.ndarray[Any, Any]:
    part = one.image.parts[len(one.image.parts) // 2, 0].numpy()
    return np.asarray(part[part.shape[0] // 2] if part.ndim == 3 else part)
