"""The labels file of training and evaluation: one row per image, every patient in one split only.

Errors name the file, the line and the cure, never what stands in a patient or path column.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.image_files import ReadDicom, content_digest, load_volume
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol

__all__ = ["LabelledImage", "LabelledSet", "ReadDicom", "content_digest", "load_volume", "read_labels"]

SPLITS = ("train", "tune", "certify", "test")
#: Shares of patients when the file has no split column; each patient's place follows from a hash of the name alone.
_SHARES = (("train", 0.55), ("tune", 0.15), ("certify", 0.15), ("test", 0.15))
_COLUMNS = ("path", "label", "patient", "split")


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One row: `path` of the image, `name` as written in the file, and what is known about it."""

    path: Path
    name: str
    label: str
    patient: str
    split: str
    extras: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LabelledSet:
    """The rows of a labels file, checked; `novel` names the splits whose labels need not be classes."""

    rows: tuple[LabelledImage, ...]
    classes: tuple[str, ...]
    novel: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[LabelledImage, ...]:
        """The rows of one split, in the order of the file."""
        return tuple(row for row in self.rows if row.split == name)

    def targets(self, name: str) -> list[int]:
        """Class indices of one split's rows; raises KeyError for a novel split."""
        place = {label: index for index, label in enumerate(self.classes)}
        return [place[row.label] for row in self.split(name)]

    def counts(self) -> dict[str, int]:
        """Images per split."""
        return dict(Counter(row.split for row in self.rows))


def read_labels(
    path: Path,
    protocol: TriageProtocol,
    *,
    needed: Sequence[str] = (),
    novel: Sequence[str] = ("ood",),
    labelled: bool = True,
) -> LabelledSet:
    """The rows of the CSV at `path`, whose image paths are relative to it.

    `needed` splits must hold an image; splits in `novel` may have labels that are no class. With `labelled` off, labels and
    split names are neither asked for nor checked. Raises HaltPipeline in one line.
    """
    header, lines = _read(path)
    _refuse_header(path.name, header, labelled=labelled)
    rows = tuple(_row(path, number, values, "split" in header) for number, values in lines)
    numbers = [number for number, _ in lines]
    if labelled:
        _refuse_split(path.name, rows, numbers, {*SPLITS, *needed, *novel})
        _refuse_label(path.name, rows, numbers, protocol, novel)
    _refuse_patient_across_splits(path.name, rows, numbers)
    _refuse_repeated_or_absent_image(path.name, rows, numbers)
    _refuse_empty_split(path.name, rows, needed, made="split" not in header)
    return LabelledSet(rows=rows, classes=protocol.class_names, novel=tuple(novel))


def split_of_patient(patient: str) -> str:
    """The split of a patient where the file names none: the same in every file and whoever else is in it."""
    digest = hashlib.sha256(f"secondread-split/{patient}".encode()).digest()
    place, reached = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for name, share in _SHARES:
        reached += share
        if place < reached:
            return name
    return _SHARES[-1][0]


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            lines = [(reader.line_num, _stripped(row)) for row in reader]
    except FileNotFoundError as error:
        raise HaltPipeline(f"{path.name}: no such labels file; give the path of a CSV with {_wanted()}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HaltPipeline(
            f"{path.name}: cannot be read ({type(error).__name__}); give a CSV in UTF-8 with {_wanted()}"
        ) from error
    if not lines:
        raise HaltPipeline(f"{path.name}: holds no image; add one row per image under {_wanted()}")
    return header, lines


def _stripped(row: dict[str | None, str | list[str] | None]) -> dict[str, str]:
    return {key: value.strip() for key, value in row.items() if key is not None and isinstance(value, str)}


def _wanted() -> str:
    return f"the columns {', '.join(_COLUMNS)}"


def _refuse_header(source: str, header: Sequence[str], *, labelled: bool) -> None:
    asked = ("path", "label", "patient") if labelled else ("path", "patient")
    for column in asked:
        if column not in header:
            raise HaltPipeline(f"{source}: column '{column}' is missing; the first line must name {_wanted()}")
    doubled = [name for name, count in Counter(header).items() if count > 1]
    if doubled:
        raise HaltPipeline(f"{source}: column '{doubled[0]}' is there twice; remove one")


def _row(path: Path, number: int, values: dict[str, str], has_splits: bool) -> LabelledImage:
    for column in ("path", "patient", *(("split",) if has_splits else ())):
        if not values.get(column):
            raise HaltPipeline(f"{path.name} line {number}: '{column}' is empty; fill it in or remove the line")
    return LabelledImage(
        path=path.parent / values["path"],
        name=values["path"],
        label=values.get("label", ""),
        patient=values["patient"],
        split=values["split"] if has_splits else split_of_patient(values["patient"]),
        extras={key: value for key, value in values.items() if key not in _COLUMNS},
    )


def _refuse_split(source: str, rows: Iterable[LabelledImage], numbers: Iterable[int], known: Collection[str]) -> None:
    for row, number in zip(rows, numbers, strict=True):
        if row.split not in known:
            raise HaltPipeline(
                f"{source} line {number}: split '{row.split}' is unknown; use one of {', '.join(sorted(known))}"
            )


def _refuse_label(
    source: str,
    rows: Iterable[LabelledImage],
    numbers: Iterable[int],
    protocol: TriageProtocol,
    novel: Collection[str],
) -> None:
    for row, number in zip(rows, numbers, strict=True):
        if row.label not in protocol.class_names and row.split not in novel:
            raise HaltPipeline(
                f"{source} line {number}: label '{row.label}' is no class of protocol {protocol.name}; "
                f"use one of {', '.join(protocol.class_names)}"
            )


def _refuse_patient_across_splits(source: str, rows: Iterable[LabelledImage], numbers: Iterable[int]) -> None:
    first: dict[str, tuple[str, int]] = {}
    for row, number in zip(rows, numbers, strict=True):
        split, earlier = first.setdefault(row.patient, (row.split, number))
        if split != row.split:
            raise HaltPipeline(
                f"{source} lines {earlier} and {number}: one patient is in the splits {split} and {row.split}; "
                "put all images of a patient into one split"
            )


def _refuse_repeated_or_absent_image(source: str, rows: Iterable[LabelledImage], numbers: Iterable[int]) -> None:
    first: dict[str, int] = {}
    for row, number in zip(rows, numbers, strict=True):
        earlier = first.setdefault(row.name, number)
        if earlier != number:
            raise HaltPipeline(f"{source} lines {earlier} and {number}: the same image is listed twice; remove one")
        if not row.path.exists():
            raise HaltPipeline(
                f"{source} line {number}: the image is not there; correct its path (relative to {source}) "
                "or remove the line"
            )


def _refuse_empty_split(source: str, rows: Iterable[LabelledImage], needed: Sequence[str], *, made: bool) -> None:
    present = {row.split for row in rows}
    for split in needed:
        if split not in present:
            how = "add a split column, or more patients" if made else f"give some patients the split {split}"
            raise HaltPipeline(f"{source}: no image is in the split '{split}'; {how}")
