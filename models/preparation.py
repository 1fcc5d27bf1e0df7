"""From rows of a labels file to what training, certification and evaluation work on: prepared images, grouped by case.

A case is what triage will put to the release: for 3-D networks one image, for 2-D networks all slices of a patient
together. In the certify split a patient stands for one case, because cases of one patient are not independent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.dataset import LabelledImage, LabelledSet, ReadDicom, content_digest, load_volume
from models.transforms import prepare
from pipeline.errors import DeferCase, HaltPipeline
from pipeline.protocol import TriageProtocol

OnProgress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The progress report that tells nobody; others get the stage, how much is done and how much there is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """One row with its `parts` (P, 1, *size) and the SHA-256 of its bytes as `key`; `target` is None where no class is."""

    row: LabelledImage
    key: str
    parts: Tensor
    target: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedCase:
    """What triage would see as one case: `parts` (P, 1, *size) of one patient, all with one class."""

    key: str
    parts: Tensor
    target: int
    patient: str
    extras: Mapping[str, str] = field(default_factory=dict)  #: of its first image
    series: tuple[int, ...] | None = None  #: parts of each series; None where single slices make up one


def prepare_images(
    labelled: LabelledSet,
    protocol: TriageProtocol,
    splits: Sequence[str],
    read_dicom: ReadDicom,
    *,
    on_progress: OnProgress = silent,
) -> dict[str, tuple[PreparedImage, ...]]:
    """The images of each of `splits`, prepared; raises HaltPipeline naming the row that cannot be used."""
    rows = {split: labelled.split(split) for split in splits}
    total, done = sum(len(found) for found in rows.values()), 0
    prepared: dict[str, tuple[PreparedImage, ...]] = {}
    for split, found in rows.items():
        images = []
        for number, row in enumerate(found, start=1):
            images.append(_prepared(row, number, protocol, read_dicom))
            done += 1
            on_progress("prepare", done, total)
        prepared[split] = tuple(images)
    return prepared


def training_tensors(images: Iterable[PreparedImage]) -> tuple[Tensor, Tensor]:
    """Every part (N, 1, *size) of labelled images with its class (N,)."""
    labelled = [image for image in images if image.target is not None]
    if not labelled:
        raise HaltPipeline("no labelled image is there to train on; give some patients the splits train and tune")
    targets = torch.cat([torch.full((len(image.parts),), _target(image)) for image in labelled])
    return torch.cat([image.parts for image in labelled]), targets


def group_cases(images: Sequence[PreparedImage], protocol: TriageProtocol) -> tuple[PreparedCase, ...]:
    """The cases that labelled images make up; raises HaltPipeline when a case has two classes."""
    if protocol.network.dimensions == 3:
        return tuple(_case([image]) for image in images)
    patients: dict[str, list[PreparedImage]] = {}
    for image in images:
        patients.setdefault(image.row.patient, []).append(image)
    return tuple(_case(patients[name]) for name in sorted(patients))


def one_case_each(cases: Iterable[PreparedCase]) -> tuple[PreparedCase, ...]:
    """One case of every patient: the one whose key is smallest, which neither scores nor labels can sway."""
    chosen: dict[str, PreparedCase] = {}
    for case in sorted(cases, key=lambda case: case.key):
        chosen.setdefault(case.patient, case)
    return tuple(chosen.values())


def data_digest(images: Iterable[PreparedImage]) -> str:
    """SHA-256 over the digest, label and patient of every image, in whatever order they come."""
    lines = sorted(f"{image.key},{image.row.label},{image.row.patient}" for image in images)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _prepared(row: LabelledImage, number: int, protocol: TriageProtocol, read_dicom: ReadDicom) -> PreparedImage:
    try:
        volume = load_volume(row.path, read_dicom)
        parts = prepare(volume, protocol.preprocessing, protocol.network.dimensions)
    except DeferCase as problem:
        raise HaltPipeline(
            f"image {number} of split {row.split} cannot be used: {problem}; replace it or remove its row"
        ) from problem
    names = protocol.class_names
    target = names.index(row.label) if row.label in names else None
    return PreparedImage(row=row, key=content_digest(row.path), parts=parts, target=target)


def _case(images: Sequence[PreparedImage]) -> PreparedCase:
    ordered = sorted(images, key=lambda image: image.key)
    targets = {_target(image) for image in ordered}
    if len(targets) > 1:
        raise HaltPipeline(
            f"split {ordered[0].row.split}: the slices of one patient have {len(targets)} classes; "
            "give each patient one class, or each study its own patient name"
        )
    keys = [image.key for image in ordered]
    return PreparedCase(
        key=keys[0] if len(keys) == 1 else hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        parts=torch.cat([image.parts for image in ordered]),
        target=targets.pop(),
        patient=ordered[0].row.patient,
        extras=ordered[0].row.extras,
        series=_series([len(image.parts) for image in ordered]),
    )


def _series(parts: Sequence[int]) -> tuple[int, ...] | None:
    """Each image is a series, unless all are single slices."""
    return tuple(parts) if max(parts) > 1 else None


def _target(image: PreparedImage) -> int:
    if image.target is None:
        raise HaltPipeline(
            f"split {image.row.split}: an image has no class of the protocol; label it or remove its row"
        )
    return image.target
