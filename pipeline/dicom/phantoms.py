"""Phantom patients as DICOM: labelled studies for training and certification, and a stream for triage.

Every number comes from (seed, patient, study): a study's bytes depend neither on the order of making nor on the other
studies. The true conspicuity is kept, so that one can check that uncertainty rises with ambiguity.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.dicom.phantom_anatomy import Anatomy, draw_anatomy, generator, head_template
from pipeline.dicom.phantom_defects import EXPECTATIONS, ORDINARY, Defect, SentFiles, damage
from pipeline.dicom.phantom_files import StudyHeader, write_series
from pipeline.dicom.phantom_lesions import Lesion, draw_lesion
from pipeline.dicom.phantom_plan import PhantomPlan, SplitPlan, StreamEntry, StudyOrder
from pipeline.dicom.phantom_scanners import KNOWN, TOMOGRAPH, UNSEEN, Scanner
from pipeline.dicom.phantom_series import Acquisition, Pose, acquire, draw_pose, knee, plan_scout, plan_slices
from pipeline.domain.case import Route
from pipeline.errors import HaltPipeline

_FAINT_TUMOURS, _FAINT = 0.06, (0.04, 0.18)  #: share of tumours that are truly ambiguous, and their conspicuity
_CLEAR = (0.3, 1.0)
_MIMICS = 0.2  #: share of patients without tumour who have a faint lesion all the same
_SCOUTS = 0.25
_NO_AXIAL = {Defect.REPORT_ONLY, Defect.SCOUT_ONLY}
_KNEES = {Defect.OTHER_BODY_PART, Defect.MISLABELLED_PART}


@dataclass(frozen=True, kw_only=True)
class PhantomStudy:
    """One study that was written, and the truth about it.

    `truth` is "finding", "no_finding", "unusable" or "foreign"; `conspicuity` is that of the tumour in (0, 1], 0 without;
    `mimic` that of a faint lesion which is no tumour. The route must be one of `allowed_routes`, and one of
    `expected_reasons`, where any is named, must be among the reasons. `late_files` are to be delivered after sealing.
    """

    patient_id: str
    study_uid: str
    folder: Path
    series_folder: Path
    truth: str
    defect: str | None
    conspicuity: float
    mimic: float
    label: str
    scanner: str
    site: str
    sex: str
    age: int
    split: str | None
    allowed_routes: tuple[str, ...]
    expected_reasons: tuple[str, ...]
    files: tuple[Path, ...]
    late_files: tuple[Path, ...]

    @property
    def must_be_deferred(self) -> bool:
        """Whether the model may not speak about this study."""
        return Route.ROUTINE not in self.allowed_routes


def generate_phantoms(
    folder: Path,
    plan: PhantomPlan,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    workers: int = 1,
) -> list[PhantomStudy]:
    """Write `folder`/labelled/PATIENT/STUDY/SERIES, `folder`/stream/STUDY/SERIES and `folder`/late/STUDY.

    `on_progress` gets (studies done, studies in all). Raises HaltPipeline when `folder` holds phantoms already.
    """
    if any((folder / name).exists() for name in ("labelled", "stream", "late")):
        raise HaltPipeline(f"{folder.name}: already holds phantom studies; give an empty folder or remove it")
    orders = plan.orders(seed)
    studies = []
    for study in _made(orders, partial(make_study, folder, seed=seed), workers):
        studies.append(study)
        if on_progress is not None:
            on_progress(len(studies), len(orders))
    return studies


def _made(
    orders: Sequence[StudyOrder], make: Callable[[StudyOrder], PhantomStudy], workers: int
) -> Iterator[PhantomStudy]:
    if workers == 1:
        yield from map(make, orders)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(make, orders, chunksize=8)


@dataclass(frozen=True, kw_only=True)
class _Patient:
    patient_id: str
    sex: str
    age: int
    home: Scanner
    anatomy: Anatomy
    lesion: Lesion | None
    tumour: bool


def _draw_patient(order: StudyOrder, seed: int) -> _Patient:
    rng = generator(seed, order.patient)
    child = order.defect is Defect.CHILD
    age = 8 if child else int(rng.integers(20, 89))
    home, sex = KNOWN[rng.integers(2)], str(rng.choice(["F", "M"]))
    conspicuity = _draw_conspicuity(rng, tumour=order.finding)
    lesion = draw_lesion(rng, head_template(), conspicuity) if conspicuity else None
    return _Patient(
        patient_id=f"P{order.patient}", sex=sex, age=age, home=home, anatomy=draw_anatomy(rng, age), lesion=lesion,
        tumour=order.finding,
    )  # fmt: skip


def _draw_conspicuity(rng: np.random.Generator, *, tumour: bool) -> float:
    faint, clear = rng.uniform(*_FAINT), rng.uniform(*_CLEAR)
    if tumour:
        return float(faint if rng.random() < _FAINT_TUMOURS else clear)
    return float(faint) if rng.random() < _MIMICS else 0.0


def make_study(folder: Path, order: StudyOrder, *, seed: int) -> PhantomStudy:
    """Write the one study that `order` asks for."""
    patient = _draw_patient(order, seed)
    rng = generator(seed, order.patient, order.study)
    name = f"S{order.patient}-{order.study}"
    place = folder / "stream" / name if order.split is None else folder / "labelled" / patient.patient_id / name
    scanner = _choose_scanner(order, patient, rng)
    header = _header(order, patient, seed, name, rng)
    files = SentFiles(header, place, folder / "late" / name, [], [], [])
    _send(files, order, patient, scanner, rng)
    damage(files, order.defect, rng)
    return _describe(files, order, patient, scanner)


def _choose_scanner(order: StudyOrder, patient: _Patient, rng: np.random.Generator) -> Scanner:
    special = {Defect.UNSEEN_SCANNER: UNSEEN, Defect.OTHER_MODALITY: TOMOGRAPH}
    moved_house = order.study > 1 and rng.random() < 0.4
    usual = KNOWN[1 - KNOWN.index(patient.home)] if moved_house else patient.home
    if order.defect is None:
        return usual
    return replace(special.get(order.defect, usual), compressed_share=0.0)


def _header(order: StudyOrder, patient: _Patient, seed: int, name: str, rng: np.random.Generator) -> StudyHeader:
    body_part: str | None = "KNEE" if order.defect is Defect.OTHER_BODY_PART else "BRAIN"
    return StudyHeader(
        key=(seed, order.patient, order.study),
        patient_id=patient.patient_id,
        sex=patient.sex,
        age=patient.age,
        date=f"2025{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
        time=f"{rng.integers(7, 19):02d}{rng.integers(60):02d}{rng.integers(60):02d}",
        accession=f"A{name[1:]}",
        body_part=None if order.defect is Defect.MISSING_BODY_PART else body_part,
    )


def _send(files: SentFiles, order: StudyOrder, patient: _Patient, scanner: Scanner, rng: np.random.Generator) -> None:
    files.folder.mkdir(parents=True, exist_ok=True)
    pose = draw_pose(rng)
    with_scout = rng.random() < _SCOUTS or order.defect is Defect.SCOUT_ONLY
    if order.defect not in _NO_AXIAL:
        acquisition = _axial(order, patient, scanner, pose, rng)
        files.axial += write_series(files.folder / "axial", files.header, acquisition, series="axial", names=rng)
    if with_scout and scanner.modality == "MR" and order.defect not in _KNEES | {Defect.REPORT_ONLY}:
        scout = acquire(scanner, plan_scout(), patient.anatomy, patient.lesion, pose=pose, rng=rng)
        files.others += write_series(files.folder / "scout", files.header, scout, series="scout", names=rng)


def _axial(order: StudyOrder, patient: _Patient, scanner: Scanner, pose: Pose, rng: np.random.Generator) -> Acquisition:
    if order.defect in _KNEES:
        return knee(scanner, rng)
    lesion = patient.lesion if scanner.modality == "MR" else None
    moving = order.defect is Defect.MOTION
    return acquire(scanner, plan_slices(scanner, rng), patient.anatomy, lesion, pose=pose, rng=rng, moving=moving)


def _describe(files: SentFiles, order: StudyOrder, patient: _Patient, scanner: Scanner) -> PhantomStudy:
    expected = EXPECTATIONS.get(order.defect, ORDINARY) if order.defect else ORDINARY
    strength = patient.lesion.conspicuity if patient.lesion else 0.0
    return PhantomStudy(
        patient_id=patient.patient_id,
        study_uid=str(files.header.study_uid),
        folder=files.folder,
        series_folder=files.folder / "axial",
        truth=expected.truth or ("finding" if patient.tumour else "no_finding"),
        defect=order.defect.value if order.defect else None,
        conspicuity=strength if patient.tumour else 0.0,
        mimic=0.0 if patient.tumour else strength,
        label="tumour" if patient.tumour else "no_tumour",
        scanner=scanner.name,
        site=scanner.site,
        sex=patient.sex,
        age=patient.age,
        split=order.split,
        allowed_routes=tuple(str(route) for route in expected.routes),
        expected_reasons=tuple(str(reason) for reason in expected.reasons),
        files=tuple(files.axial + files.others),
        late_files=tuple(files.late),
    )


def write_labels_csv(studies: Sequence[PhantomStudy], path: Path) -> None:
    """Write the labelled ones of `studies`; paths are those of the axial series folders, relative to the file."""
    base = path.resolve().parent
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient", "split", "site", "sex", "age", "scanner", "conspicuity"])
        for study in studies:
            if study.split is not None:
                place = Path(os.path.relpath(study.series_folder.resolve(), base)).as_posix()
                person = (study.patient_id, study.split, study.site, study.sex, study.age)
                writer.writerow([place, study.label, *person, study.scanner, f"{study.conspicuity:.4f}"])


__all__ = [
    "Defect", "PhantomPlan", "PhantomStudy", "SplitPlan", "StreamEntry", "generate_phantoms", "make_study",
    "write_labels_csv",
]  # fmt: skip
