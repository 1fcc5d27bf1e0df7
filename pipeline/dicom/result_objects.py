"""What every DICOM object of a result shares: the study it joins, our codes, and moments that are the same when resent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from highdicom import ContributingEquipment
from highdicom.sr.coding import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import VR

from pipeline.domain.result import Algorithm, Concept, Result, derived_uid

SCHEME: Final = "99SECONDREAD"
SCHEME_UID: Final = derived_uid("coding scheme", SCHEME)
MANUFACTURER: Final = "secondread"
LATIN: Final = "ISO_IR 192"


def ours(value: str, meaning: str) -> CodedConcept:
    """A concept of our own scheme: no standard one exists for entropies of a posterior, routes and reasons."""
    return CodedConcept(value, SCHEME, meaning[:64])


def coded(concept: Concept) -> CodedConcept:
    """A concept of a standard scheme."""
    return CodedConcept(concept.value, concept.scheme, concept.meaning[:64])


def source_datasets(result: Result) -> list[Dataset]:
    """The images of a result with their study's identity, as far as a result object repeats them."""
    person = result.person
    study = {
        "StudyInstanceUID": result.study_instance_uid,
        "PatientID": person.patient_id,
        "IssuerOfPatientID": person.issuer_of_patient_id,
        "PatientName": person.patient_name,
        "PatientBirthDate": _date(person.patient_birth_date),
        "PatientSex": person.patient_sex if person.patient_sex in {"M", "F", "O"} else None,
        "AccessionNumber": person.accession_number,
        "StudyID": person.study_number,
        "ReferringPhysicianName": person.referring_physician_name,
        "StudyDate": _date(person.study_date),
        "StudyTime": _time(person.study_time),
    }
    return [_source(study, source) for source in result.sources]


def _source(study: dict[str, str | None], source: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in study.items():
        setattr(dataset, keyword, value or "")
    dataset.SOPClassUID, dataset.SOPInstanceUID = source.sop_class_uid, source.sop_instance_uid
    dataset.SeriesInstanceUID, dataset.Modality = source.series_instance_uid, source.modality
    if source.frames > 1:
        dataset.NumberOfFrames = source.frames
    return dataset


def _date(value: str | None) -> str | None:
    """A date that a result may repeat: eight digits."""
    return value if value is not None and len(value) == 8 and value.isdigit() else None


def _time(value: str | None) -> str | None:
    """A time that a result may repeat: digits with at most one fraction."""
    return value if value is not None and value.replace(".", "", 1).isdigit() and len(value) >= 6 else None


def device_uid(algorithm: Algorithm) -> str:
    """New with every change of release, protocol or program (DeviceUID, PS3.3 C.7.5.1)."""
    return derived_uid("device", algorithm.release_digest or "", algorithm.protocol_digest, algorithm.version)


def contributing_equipment(result: Result) -> ContributingEquipment:
    """The algorithm as contributing equipment (IHE AIR)."""
    algorithm = result.algorithm
    item = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=algorithm.protocol,
        software_versions=software(algorithm),
        contribution_datetime=result.decided_at,
    )
    item.DeviceUID = device_uid(algorithm)
    return item


def software(algorithm: Algorithm) -> list[str]:
    """Our version and the release that spoke."""
    release = algorithm.release_digest
    return [algorithm.version, "no release" if release is None else f"release {release[:16]}"]


def finish(dataset: Dataset, result: Result) -> None:
    """What makes an object of a result the same object whenever it is made again, and readable everywhere."""
    dataset.SpecificCharacterSet = LATIN
    told = result.told_at.astimezone()  # dates without a zone are local, as those of the study beside them
    for keyword in ("InstanceCreationDate", "ContentDate", "SeriesDate", "DateOfSecondaryCapture"):
        _stamp(dataset, keyword, f"{told:%Y%m%d}")
        _stamp(dataset, keyword.replace("Date", "Time"), f"{told:%H%M%S.%f}")
    if "TimezoneOffsetFromUTC" in dataset:
        del dataset.TimezoneOffsetFromUTC
    dataset.InstanceCreatorUID = derived_uid("secondread")
    dataset.SoftwareVersions = software(result.algorithm)
    dataset.ManufacturerModelName = result.algorithm.protocol
    dataset.DeviceSerialNumber = result.algorithm.version
    if result.person.issuer_of_patient_id:
        dataset.IssuerOfPatientID = result.person.issuer_of_patient_id


def _stamp(dataset: Dataset, keyword: str, moment: str) -> None:
    if keyword in dataset:
        setattr(dataset, keyword, moment)


def declare_scheme(dataset: Dataset) -> None:
    """Say what our scheme is, beside those that are declared already (PS3.3 C.12.1)."""
    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeUID = SCHEME, SCHEME_UID
    item.CodingSchemeName = "secondread: uncertainty, routes and reasons of triage"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    known: Sequence[Dataset] = dataset.get("CodingSchemeIdentificationSequence") or []
    others = [found for found in known if found.get("CodingSchemeDesignator") != SCHEME]
    dataset.CodingSchemeIdentificationSequence = [*others, item]


def settle_times(dataset: Dataset, result: Result) -> None:
    """Replace every moment of making by the moment that is told."""
    for element in dataset.iterall():
        if element.keyword in {"ObservationDateTime", "ContributionDateTime"} and element.VR == VR.DT:
            element.value = f"{result.decided_at:%Y%m%d%H%M%S.%f}+0000"
