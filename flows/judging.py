"""Evaluating and predicting with a release, from the names given on the command line to the files written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.bootstrap import House
from flows.champion import engine_search, torch_device
from flows.readers import read_dicom
from flows.releases import find_release
from flows.workplace import OnProgress, silent
from models.dataset import read_labels
from models.evaluate import evaluate
from models.predictions import predict, prediction_rows, write_predictions
from models.preparation import prepare_images
from models.release import Release
from models.report import without_images, write_report
from models.sampling import Ensemble
from pipeline.errors import HaltPipeline
from pipeline.protocol import Sampling
from pipeline.settings import Settings

DEFAULT_NOVEL = ("ood",)
_LOGGED = ("accuracy", "balanced_accuracy", "auc", "nll", "brier", "aurc", "augrc", "auroc_failure")


def evaluate_release(
    house: House,
    release: str,
    labels: Path,
    report: Path,
    *,
    split: str = "test",
    novel: Sequence[str] | None = None,
    protocol: str | None = None,
    studies_per_day: int | None = None,
    reads_per_day: int | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Judge a release on `split` and write the report to `report`; returns what report.json holds.

    A registered release has the report logged with it, without images and file names.
    """
    found = find_release(house, release, protocol)
    strange = tuple(novel) if novel else DEFAULT_NOVEL
    labelled = read_labels(labels, found.protocol, needed=(split, *(novel or ())), novel=strange)
    splits = [name for name in dict.fromkeys(("tune", split, *strange)) if labelled.split(name)]
    images = prepare_images(labelled, found.protocol, splits, read_dicom, on_progress=_stage(on_progress))
    evaluation = evaluate(
        found,
        images,
        split=split,
        novel=strange,
        device=torch_device(house.settings.device),
        search=engine_search(house.settings),
        studies_per_day=studies_per_day,
        reads_per_day=reads_per_day,
        on_progress=_stage(on_progress),
    )
    write_report(evaluation, report)
    _log(house, found, evaluation.report, split)
    return evaluation.report


def _log(house: House, release: Release, report: dict[str, Any], split: str) -> None:
    """Put the report, without images and names of files, beside the release in the registry, where it is registered."""
    with tempfile.TemporaryDirectory(prefix="report-", dir=house.settings.home) as scratch:
        folder = Path(scratch)
        write_report(without_images(report), folder)
        numbers = {name: report[name] for name in _LOGGED if report.get(name) is not None}
        house.registry.log_evaluation(release, folder, numbers, split=split)


def predict_release(
    house: House,
    release: str,
    labels: Path,
    out: Path,
    *,
    passes: int | None = None,
    protocol: str | None = None,
    on_progress: OnProgress = silent,
) -> int:
    """Write what a release says of every image that `labels` lists to `out`; returns how many there are."""
    if out.suffix not in {".csv", ".parquet"}:
        raise HaltPipeline(f"{out.name}: predictions are written as .csv or .parquet; choose one of these endings")
    found = find_release(house, release, protocol)
    labelled = read_labels(labels, found.protocol, labelled=False)
    splits = list(dict.fromkeys(row.split for row in labelled.rows))
    images = prepare_images(labelled, found.protocol, splits, read_dicom, on_progress=_stage(on_progress))
    ensemble = _ensemble(found, passes, house.settings)
    ordered = [image for split in splits for image in images[split]]
    predicted = predict(found, ensemble, ordered, on_progress=_stage(on_progress))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(prediction_rows(predicted), out)
    return len(predicted)


def _ensemble(release: Release, passes: int | None, settings: Settings) -> Ensemble:
    ensemble = Ensemble.load(release, torch_device(settings.device), engine_search(settings))
    if passes is not None:
        ensemble.passes, ensemble.sampling = passes, Sampling.FIXED
    return ensemble


def _stage(on_progress: OnProgress) -> Any:
    return lambda stage, done, total: on_progress(stage, done, total, "")
