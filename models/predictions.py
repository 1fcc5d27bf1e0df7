"""Predictions per image: the rows that `predict` writes, and what an evaluation starts from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.looks import judge_of, look
from models.preparation import OnProgress, PreparedImage, silent
from models.release import Release
from models.sampling import Ensemble
from models.summary import UNCALIBRATED, one_case
from pipeline.domain.evidence import NoveltySummary, UncertaintySummary
from pipeline.domain.uncertainty import PosteriorSamples
from pipeline.errors import DeferCase, HaltPipeline
from pipeline.protocol import Sampling

Row = dict[str, str | float | int]


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictedImage:
    """One image with what the release says of it; its parts pooled in `samples` (M, T, 1, C), before any temperature."""

    image: PreparedImage
    samples: PosteriorSamples
    uncertainty: UncertaintySummary
    novelty: NoveltySummary


def predict(
    release: Release,
    ensemble: Ensemble,
    images: Sequence[PreparedImage],
    *,
    stage: str = "predict",
    on_progress: OnProgress = silent,
) -> tuple[PredictedImage, ...]:
    """What `release`, with its networks in `ensemble`, says of every image by itself.

    Raises HaltPipeline when a network's output is not finite.
    """
    judge = judge_of(release)
    if ensemble.sampling is not Sampling.ADAPTIVE:
        judge = replace(judge, stopping=None)
    predicted = []
    for number, image in enumerate(images, start=1):
        try:
            found = look(ensemble, image.parts, image.key, judge)
            uncertainty, novelty = judge.summaries(found)
        except DeferCase as problem:
            raise HaltPipeline(
                f"image {number} of split {image.row.split}: {problem}; remove its row, or train the release again"
            ) from problem
        predicted.append(
            PredictedImage(
                image=image,
                samples=one_case(found.samples, release.protocol, UNCALIBRATED),
                uncertainty=uncertainty,
                novelty=novelty,
            )
        )
        on_progress(stage, number, len(images))
    return tuple(predicted)


def prediction_rows(predicted: Sequence[PredictedImage]) -> list[Row]:
    """One flat row per image: path, label, patient, split, calibrated probabilities, entropies (nats), novelty, score."""
    return [_row(one) for one in predicted]


def write_predictions(rows: Sequence[Mapping[str, str | float | int]], path: Path) -> None:
    """Write rows to a CSV or Parquet file, by its ending; raises HaltPipeline for another one."""
    if path.suffix not in {".csv", ".parquet"}:
        raise HaltPipeline(f"{path.name}: predictions are written as .csv or .parquet; choose one of these endings")
    if path.suffix == ".parquet":
        _write_parquet(rows, path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["path"])
        writer.writeheader()
        writer.writerows(rows)


def log_means(predicted: Sequence[PredictedImage]) -> NDArray[np.float64]:
    """Calibrated log probabilities (N, C)."""
    with np.errstate(divide="ignore"):
        return np.log(np.array([one.uncertainty.probabilities for one in predicted], dtype=np.float64))


def _row(one: PredictedImage) -> Row:
    row, said = one.image.row, one.uncertainty
    named = {"path": row.name, "label": row.label, "patient": row.patient, "split": row.split}
    probabilities = {f"p_{name}": p for name, p in zip(said.classes, said.probabilities, strict=True)}
    return (
        named
        | probabilities
        | {
            "predictive_entropy": said.predictive_entropy,
            "expected_entropy": said.expected_entropy,
            "mi_dropout": said.mi_dropout,
            "mi_member": said.mi_member,
            "novelty_p": one.novelty.combined,
            "route_score": said.route_score,
            "passes": said.passes,
            "budget": said.budget,
            "stop": said.stop,
        }
    )


def _write_parquet(rows: Sequence[Mapping[str, str | float | int]], path: Path) -> None:
    import pandas as pd  # noqa: PLC0415 - heavy, and wanted for this format only

    pd.DataFrame(rows).to_parquet(path, index=False)
