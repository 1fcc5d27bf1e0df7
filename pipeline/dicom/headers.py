"""The inspection of one received instance: parsed, checked, decoded once, and summed up in an `InstanceHeader`."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Final

from pydicom import Dataset

from pipeline.dicom import attributes
from pipeline.dicom.content_digest import content_digest
from pipeline.dicom.parsing import ParsedInstance, is_executable, parse, read_file_meta, read_head
from pipeline.dicom.pixel_checks import check_pixels
from pipeline.dicom.pixel_description import missing
from pipeline.dicom.plane import first_plane
from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sop_classes import RADIOLOGICAL, is_standard
from pipeline.domain.study import InstanceHeader
from pipeline.errors import RejectInstance

REQUIRED_UIDS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_AGE: Final = re.compile(r"(\d{1,3})([DWMY])")
_YEARS_PER: Final = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
#: AnatomicRegionSequence codes (SNOMED CT and its retired form) that name what BodyPartExamined would.
_REGIONS: Final = {"12738006": "BRAIN", "T-A0100": "BRAIN", "69536005": "HEAD", "T-D1100": "HEAD"}


def inspect_instance(data: bytes) -> InstanceHeader:
    """The header of the instance in the bytes of one file, after every check. Raises RefusedInstance."""
    try:
        return _inspected(data)
    except (RefusedInstance, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  a library boundary: the type is told, its text may hold values
        raise RefusedInstance("undecodable", f"the data set cannot be read ({type(error).__name__})") from None


def _inspected(data: bytes) -> InstanceHeader:
    instance = _parsed(data)
    digest = content_digest(instance.dataset, instance.transfer_syntax_uid)
    header = replace(read_header(instance), content_digest=digest)
    try:
        _check(header, instance, executable=is_executable(data))
    except RejectInstance as refusal:
        known = header if header.study_instance_uid else None
        claims = _claims_to_be_image(header, instance.dataset)
        raise RefusedInstance(refusal.reason, refusal.detail, header=known, is_image=claims) from None
    return header


def _check(header: InstanceHeader, instance: ParsedInstance, *, executable: bool) -> None:
    _check_class(header, instance.dataset)
    if instance.problem:
        raise instance.problem
    _check_uids(instance.dataset)
    check_pixels(instance)
    if executable:
        raise RejectInstance("executable_preamble", "the preamble begins as a program does")


def _parsed(data: bytes) -> ParsedInstance:
    try:
        return parse(data)
    except RejectInstance as refusal:
        if is_executable(data) and refusal.reason == "not_dicom":
            raise RefusedInstance("executable_preamble", "the file begins as a program does") from None
        raise RefusedInstance(refusal.reason, refusal.detail) from None


def _check_class(header: InstanceHeader, dataset: Dataset) -> None:
    if not header.sop_class_uid and _has_pixels(dataset):
        raise RejectInstance(missing("SOPClassUID"), "SOPClassUID is missing or invalid")
    if header.sop_class_uid not in RADIOLOGICAL:
        reason = "not_an_image" if header.sop_class_uid else "no_pixel_data"
        raise RejectInstance(reason, "the SOP class is not a radiological image")


def _claims_to_be_image(header: InstanceHeader, dataset: Dataset) -> bool:
    """A class we do not know counts as an image when it has pixels, so that its absence is noticed."""
    if header.sop_class_uid in RADIOLOGICAL:
        return True
    return not is_standard(header.sop_class_uid) and _has_pixels(dataset)


def _has_pixels(dataset: Dataset) -> bool:
    return "Rows" in dataset and "PixelData" in dataset


def _check_uids(dataset: Dataset) -> None:
    for keyword in REQUIRED_UIDS:
        found = attributes.uid(dataset, keyword)
        if found is None:
            raise RejectInstance(missing(keyword), f"{keyword} is missing")
        if not attributes.is_uid(found):
            raise RejectInstance("invalid_uid", f"{keyword} is not a UID")


def read_header(instance: ParsedInstance) -> InstanceHeader:
    """The attributes that the pipeline looks at; UIDs that are missing or invalid are ""."""
    dataset = instance.dataset
    text, whole, number = (
        partial(attributes.text, dataset),
        partial(attributes.integer, dataset),
        partial(attributes.number, dataset),
    )
    plane = first_plane(dataset)
    return InstanceHeader(
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        transfer_syntax_uid=instance.transfer_syntax_uid,
        modality=text("Modality"),
        body_part_examined=text("BodyPartExamined") or _region(dataset),
        study_description=text("StudyDescription"),
        series_description=text("SeriesDescription"),
        series_number=whole("SeriesNumber"),
        instance_number=whole("InstanceNumber"),
        acquisition_number=whole("AcquisitionNumber"),
        image_type=attributes.texts(dataset, "ImageType"),
        manufacturer=text("Manufacturer"),
        manufacturer_model_name=text("ManufacturerModelName"),
        software_versions=text("SoftwareVersions"),
        photometric_interpretation=text("PhotometricInterpretation"),
        rows=whole("Rows"),
        columns=whole("Columns"),
        number_of_frames=max(whole("NumberOfFrames") or 1, 1),
        samples_per_pixel=whole("SamplesPerPixel") or 1,
        image_orientation=plane.orientation,
        image_position=plane.position,
        pixel_spacing=plane.pixel_spacing,
        slice_thickness=number("SliceThickness") or plane.thickness,
        burned_in_annotation=text("BurnedInAnnotation"),
        images_in_acquisition=whole("ImagesInAcquisition"),
        patient_id=text("PatientID"),
        issuer_of_patient_id=text("IssuerOfPatientID"),
        patient_name=text("PatientName"),
        patient_birth_date=text("PatientBirthDate"),
        patient_sex=text("PatientSex"),
        patient_age_years=age_years(dataset),
        accession_number=text("AccessionNumber"),
        study_number=text("StudyID"),
        referring_physician_name=text("ReferringPhysicianName"),
        study_date=text("StudyDate"),
        study_time=text("StudyTime"),
    )


def _uid(dataset: Dataset, keyword: str) -> str:
    found = attributes.uid(dataset, keyword) or ""
    return found if attributes.is_uid(found) else ""


def _region(dataset: Dataset) -> str | None:
    regions = attributes.items(dataset, "AnatomicRegionSequence")
    codes = {attributes.text(item, "CodeValue") for item in regions}
    names = {_REGIONS[code] for code in codes if code in _REGIONS}
    return names.pop() if len(names) == 1 and len(codes) == 1 else None


def age_years(dataset: Dataset) -> float | None:
    """PatientAge in years, or the years from PatientBirthDate to StudyDate; None when neither is usable."""
    match = _AGE.fullmatch((attributes.text(dataset, "PatientAge") or "").upper())
    if match:
        return int(match[1]) * _YEARS_PER[match[2]]
    born, studied = _date(dataset, "PatientBirthDate"), _date(dataset, "StudyDate")
    if born is None or studied is None or studied < born:
        return None
    return (studied - born).days / 365.25


def _date(dataset: Dataset, keyword: str) -> date | None:
    digits = attributes.text(dataset, keyword) or ""
    if not re.fullmatch(r"\d{8}", digits):
        return None
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def glance(head: bytes) -> InstanceHeader:
    """What the first bytes of a file tell of an instance that could not be inspected, so that its study has a gap.

    Raises RefusedInstance where they name no study.
    """
    try:
        header = read_header(ParsedInstance(read_head(head), read_file_meta(head).transfer_syntax_uid, None))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a library boundary
        raise RefusedInstance("undecodable", f"the file's beginning cannot be read ({type(error).__name__})") from None
    if not header.study_instance_uid:
        raise RefusedInstance("undecodable", "the file's beginning names no study")
    return header
