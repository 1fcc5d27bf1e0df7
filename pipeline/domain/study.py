"""What is known of an instance and a study without looking at pixels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of one received file."""

    ACCEPTED = "accepted"  #: Stored, in the ledger, part of a study.
    DUPLICATE = "duplicate"  #: The same content was accepted before; nothing changes.
    QUARANTINED = "quarantined"  #: Stored apart with the reason; never analysed.


class StudyState(StrEnum):
    """Whether a study may still grow."""

    OPEN = "OPEN"  #: Instances may still arrive.
    SEALED = "SEALED"  #: The newest revision is closed and has its cases.


class Completeness(StrEnum):
    """What the evidence says about missing images; only PROVEN lets the model speak."""

    PROVEN = "PROVEN"  #: Expected counts were met, or numbering and geometry leave no gap and the sender was quiet.
    CONTRADICTED = "CONTRADICTED"  #: Numbers, positions or counts show that something is missing.
    UNKNOWN = "UNKNOWN"  #: Nothing proves it either way.


@dataclass(frozen=True, kw_only=True)
class InstanceHeader:
    """The attributes of one instance that the pipeline looks at (keywords of PS3.6, in snake case).

    Positions and spacings are millimetres in the LPS patient frame (PS3.3 C.7.6.2); None means absent or empty.
    Identity (`patient_*`, `accession_number`, `study_number`, `referring_physician_name`) goes to the identity table
    only. `content_digest` is equal for one data set however it was wrapped on its way (see `dicom.content_digest`).
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str | None = None
    body_part_examined: str | None = None
    study_description: str | None = None
    series_description: str | None = None
    series_number: int | None = None
    instance_number: int | None = None
    acquisition_number: int | None = None
    image_type: tuple[str, ...] = ()
    manufacturer: str | None = None
    manufacturer_model_name: str | None = None
    software_versions: str | None = None
    photometric_interpretation: str | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    samples_per_pixel: int = 1
    image_orientation: tuple[float, ...] | None = None
    image_position: tuple[float, float, float] | None = None
    pixel_spacing: tuple[float, float] | None = None
    slice_thickness: float | None = None
    burned_in_annotation: str | None = None
    images_in_acquisition: int | None = None
    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    patient_name: str | None = None
    patient_birth_date: str | None = None
    patient_sex: str | None = None
    patient_age_years: float | None = None
    accession_number: str | None = None
    study_number: str | None = None  #: StudyID
    referring_physician_name: str | None = None
    study_date: str | None = None
    study_time: str | None = None
    content_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class SealEvidence:
    """Why a study was taken as complete or not; stored with the revision and shown to the reader."""

    completeness: Completeness
    kind: str  #: "expected_count", "gap_check", "quiet_time", "forced"
    detail: str  #: one sentence without patient data
    instances: int
    series: int
    quarantined: int  #: quarantined instances that name this study and claimed to be images
    problems: tuple[str, ...] = ()  #: `Reason` values found while sealing (IDENTITY_CONFLICT, LATE_DATA ...)
