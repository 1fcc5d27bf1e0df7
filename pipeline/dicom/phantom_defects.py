"""What hospitals really send: the defects of phantom studies, what must become of each, and how each is made.

Defects of the header or of the acquisition are made while a study is acquired (`phantoms.py`); those here change files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite

from pipeline.dicom.phantom_files import StudyHeader, phantom_uid, write_report
from pipeline.domain.case import Reason, Route


class Defect(StrEnum):
    """What is wrong with a phantom study."""

    MISSING_SLICE = "missing_slice"  #: One inner slice never arrives.
    LATE_SLICE = "late_slice"  #: The last slice lies apart, to be delivered after the study was sealed.
    DUPLICATE = "duplicate"  #: The bytes of one slice arrive twice under two file names.
    CONFLICTING_DUPLICATE = "conflicting_duplicate"  #: One SOPInstanceUID arrives with two contents.
    IDENTITY_CONFLICT = "identity_conflict"  #: Half of the images carry another PatientID.
    CORRUPT_FILE = "corrupt_file"  #: The pixel data of one slice is cut off.
    BLANK = "blank"  #: Three inner slices hold nothing but zeros.
    BLANK_STUDY = "blank_study"  #: Every image holds nothing but zeros.
    MOTION = "motion"  #: The patient moved so much that nothing can be read.
    TWIN_SERIES = "twin_series"  #: Two axial series fit the series rule equally well.
    SCOUT_ONLY = "scout_only"  #: Only the localizer was sent.
    REPORT_ONLY = "report_only"  #: A structured report and no image.
    REPORT_BESIDE = "report_beside"  #: A structured report beside complete images.
    STRAY_FILE = "stray_file"  #: A text file beside complete images.
    OTHER_MODALITY = "other_modality"  #: A CT of the head.
    OTHER_BODY_PART = "other_body_part"  #: An MR of a knee.
    MISLABELLED_PART = "mislabelled_part"  #: An MR of a knee whose header says BRAIN.
    MISSING_BODY_PART = "missing_body_part"  #: BodyPartExamined is absent.
    CHILD = "child"  #: A patient of eight years.
    UNSEEN_SCANNER = "unseen_scanner"  #: A device and a contrast that no release was made on.


@dataclass(frozen=True)
class Expectation:
    """What must become of a study: its route is one of `routes`, and its reasons hold one of `reasons` if any is named.

    `truth` replaces "finding" or "no_finding" where the images cannot be used or are not the protocol's business.
    """

    routes: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    truth: str | None = None


_ANALYSED = (Route.PRIORITY, Route.ROUTINE, Route.REVIEW)
ORDINARY = Expectation(_ANALYSED)


def _review(*reasons: Reason, truth: str | None = "unusable") -> Expectation:
    return Expectation((Route.REVIEW,), reasons, truth)


def _elsewhere(*reasons: Reason) -> Expectation:
    return Expectation((Route.OUT_OF_SCOPE,), reasons, "foreign")


EXPECTATIONS: dict[Defect, Expectation] = {
    Defect.MISSING_SLICE: _review(Reason.INCOMPLETE, Reason.IRREGULAR_GEOMETRY),
    Defect.LATE_SLICE: _review(Reason.LATE_DATA, Reason.INCOMPLETE, truth=None),
    Defect.DUPLICATE: ORDINARY,
    Defect.CONFLICTING_DUPLICATE: _review(Reason.CONFLICTING_INSTANCE),
    Defect.IDENTITY_CONFLICT: _review(Reason.IDENTITY_CONFLICT),
    Defect.CORRUPT_FILE: _review(Reason.INCOMPLETE, Reason.UNREADABLE, Reason.IRREGULAR_GEOMETRY),
    Defect.BLANK: _review(Reason.INCOMPLETE, Reason.UNREADABLE, Reason.LOW_QUALITY, Reason.IRREGULAR_GEOMETRY),
    Defect.BLANK_STUDY: _review(
        Reason.INCOMPLETE, Reason.UNREADABLE, Reason.LOW_QUALITY, Reason.NO_SERIES, Reason.SCOPE_UNKNOWN
    ),
    Defect.MOTION: _review(Reason.LOW_QUALITY, Reason.NOVEL, Reason.UNCERTAIN),
    Defect.TWIN_SERIES: _review(Reason.AMBIGUOUS_SERIES, truth=None),
    Defect.SCOUT_ONLY: _review(Reason.NO_SERIES, Reason.INCOMPLETE),
    Defect.REPORT_ONLY: _elsewhere(Reason.NOT_AN_IMAGE),
    Defect.REPORT_BESIDE: ORDINARY,
    Defect.STRAY_FILE: ORDINARY,
    Defect.OTHER_MODALITY: _elsewhere(Reason.WRONG_MODALITY),
    Defect.OTHER_BODY_PART: _elsewhere(Reason.WRONG_BODY_PART),
    Defect.MISLABELLED_PART: _review(Reason.NOVEL, Reason.UNCERTAIN, truth="foreign"),
    Defect.MISSING_BODY_PART: _review(Reason.SCOPE_UNKNOWN, truth=None),
    Defect.CHILD: _elsewhere(Reason.WRONG_AGE),
    Defect.UNSEEN_SCANNER: _review(Reason.NOVEL, Reason.UNCERTAIN, truth=None),
}


@dataclass
class SentFiles:
    """The files of one study: `axial` in InstanceNumber order, `others`, and `late` those to be delivered afterwards."""

    header: StudyHeader
    folder: Path
    late_folder: Path
    axial: list[Path]
    others: list[Path]
    late: list[Path]


def damage(files: SentFiles, defect: Defect | None, rng: np.random.Generator) -> None:
    """Make `defect` in the files of a study that was written whole; those made during acquisition change nothing here."""
    if defect in _DAMAGES:
        _DAMAGES[defect](files, rng)


def _inner(files: SentFiles, rng: np.random.Generator) -> Path:
    return files.axial[int(rng.integers(3, len(files.axial) - 3))]


def _rewrite(path: Path, target: Path, change: Callable[[Dataset], None]) -> None:
    dataset = dcmread(path)
    change(dataset)
    dcmwrite(target, dataset, enforce_file_format=True)


def _drop_slice(files: SentFiles, rng: np.random.Generator) -> None:
    lost = _inner(files, rng)
    files.axial.remove(lost)
    lost.unlink()


def _hold_back(files: SentFiles, _: np.random.Generator) -> None:
    files.late_folder.mkdir(parents=True, exist_ok=True)
    last = files.axial.pop()
    files.late.append(Path(shutil.move(last, files.late_folder / last.name)))


def _copy_slice(files: SentFiles, rng: np.random.Generator) -> None:
    again = files.axial[0].with_name("IM9999.dcm")
    shutil.copyfile(_inner(files, rng), again)
    files.others.append(again)


def _contradict_slice(files: SentFiles, rng: np.random.Generator) -> None:
    def turn_over(dataset: Dataset) -> None:
        dataset.PixelData = dataset.pixel_array[::-1].tobytes()

    again = files.axial[0].with_name("IM9999.dcm")
    _rewrite(_inner(files, rng), again, turn_over)
    files.others.append(again)


def _mix_patients(files: SentFiles, _: np.random.Generator) -> None:
    def rename(dataset: Dataset) -> None:
        dataset.PatientID = f"{files.header.patient_id}X"

    for path in files.axial[len(files.axial) // 2 :]:
        _rewrite(path, path, rename)


def _cut_off(files: SentFiles, rng: np.random.Generator) -> None:
    path = _inner(files, rng)
    content = path.read_bytes()
    path.write_bytes(content[: -len(dcmread(path).PixelData) // 2])


def _blank(dataset: Dataset) -> None:
    dataset.PixelData = bytes(len(dataset.PixelData))


def _blank_some(files: SentFiles, rng: np.random.Generator) -> None:
    start = int(rng.integers(4, len(files.axial) - 7))
    for path in files.axial[start : start + 3]:
        _rewrite(path, path, _blank)


def _blank_all(files: SentFiles, _: np.random.Generator) -> None:
    for path in [*files.axial, *files.others]:
        _rewrite(path, path, _blank)


def _twin(files: SentFiles, _: np.random.Generator) -> None:
    folder = files.folder / "axial_again"
    folder.mkdir()
    for number, path in enumerate(files.axial, start=1):

        def renumber(dataset: Dataset, number: int = number) -> None:
            dataset.SeriesInstanceUID, dataset.SeriesNumber = phantom_uid(*files.header.key, "twin"), 3
            dataset.SOPInstanceUID = phantom_uid(*files.header.key, "twin", number)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

        _rewrite(path, folder / path.name, renumber)
        files.others.append(folder / path.name)


def _add_report(files: SentFiles, _: np.random.Generator) -> None:
    files.others.append(write_report(files.folder / "report" / "SR0001.dcm", files.header))


def _add_text(files: SentFiles, _: np.random.Generator) -> None:
    path = files.folder / "README.TXT"
    path.write_text("Viewer software is on the other disc.\n")
    files.others.append(path)


_DAMAGES: dict[Defect | None, Callable[[SentFiles, np.random.Generator], None]] = {
    Defect.MISSING_SLICE: _drop_slice,
    Defect.LATE_SLICE: _hold_back,
    Defect.DUPLICATE: _copy_slice,
    Defect.CONFLICTING_DUPLICATE: _contradict_slice,
    Defect.IDENTITY_CONFLICT: _mix_patients,
    Defect.CORRUPT_FILE: _cut_off,
    Defect.BLANK: _blank_some,
    Defect.BLANK_STUDY: _blank_all,
    Defect.TWIN_SERIES: _twin,
    Defect.REPORT_ONLY: _add_report,
    Defect.REPORT_BESIDE: _add_report,
    Defect.STRAY_FILE: _add_text,
}
