"""De-identified copies of image series in a folder, with the labels file that training reads."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.dicom.attributes import is_uid
from pipeline.dicom.deidentify import DeidentifiedInstance
from pipeline.errors import HaltPipeline, RejectInstance

MANIFEST: Final = "manifest.csv"
_COLUMNS: Final = ("path", "label", "patient", "split")
_PARTIAL: Final = ".partial"
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{16,64}")

Deidentify = Callable[[Path], DeidentifiedInstance]


@dataclass(frozen=True, kw_only=True)
class LabelledSeries:
    """The files of one series, and what its row of the manifest says; label and split may be empty."""

    paths: Sequence[Path]
    label: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """How many series were written, and how many were left out for which reason."""

    series: int
    refused: dict[str, int]


OnRefused = Callable[[LabelledSeries, RejectInstance], None]
"""Told which series was left out, and why."""


def _tell_nobody(_series: LabelledSeries, _refusal: RejectInstance) -> None:
    pass


def export_series(
    listed: Iterable[LabelledSeries], folder: Path, deidentify: Deidentify, *, on_refused: OnRefused = _tell_nobody
) -> ExportSummary:
    """Write PATIENT/SERIES/INSTANCE.dcm under an empty `folder`, and last its manifest with one row per series.

    Names are those of the de-identified files. A series of which one file is refused is left out whole. Raises
    HaltPipeline rather than overwrite anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise HaltPipeline("the folder of the export is not empty; name a new one")
    rows, refused = list[tuple[str, str, str, str]](), Counter[str]()
    for series in listed:
        try:
            path = _export(series, folder, deidentify)
        except RejectInstance as refusal:
            refused[refusal.reason] += 1
            on_refused(series, refusal)
        else:
            rows.append((path.relative_to(folder).as_posix(), series.label, path.parent.name, series.split))
    with (folder / MANIFEST).open("x", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])
    return ExportSummary(series=len(rows), refused=dict(refused))


def _export(series: LabelledSeries, folder: Path, deidentify: Deidentify) -> Path:
    """The folder of the series, which appears once all its files are in it."""
    partial = folder / _PARTIAL
    partial.mkdir()
    try:
        found = {_write(deidentify(path), partial) for path in series.paths}
        if len(found) != 1:
            raise RejectInstance("mixed_series", "the files are not those of one series of one patient")
        target = folder.joinpath(*found.pop())
        if target.exists():
            raise HaltPipeline("a series is listed twice; list it once")
        target.parent.mkdir(exist_ok=True)
        return partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(instance: DeidentifiedInstance, folder: Path) -> tuple[str, str]:
    """Patient and series of the written file; names come from a process that read foreign bytes: they are checked."""
    uids = (instance.series_instance_uid, instance.sop_instance_uid)
    if not _PSEUDONYM.fullmatch(instance.patient) or not all(is_uid(uid) for uid in uids):
        raise RejectInstance("invalid_uid", "a new name is no pseudonym or UID")
    try:
        with (folder / f"{instance.sop_instance_uid}.dcm").open("xb") as file:
            file.write(instance.data)
    except FileExistsError:
        raise RejectInstance("duplicate_instance", "two files of the series have one SOPInstanceUID") from None
    return instance.patient, instance.series_instance_uid
