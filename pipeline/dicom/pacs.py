"""The PACS as we ask it: what it lists, what it holds of a study, fetching, sending and looking whether it arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pydicom import Dataset

from pipeline.dicom import attributes
from pipeline.hospital import DicomNode, DicomWeb


class Bytes(Protocol):
    """One DICOM file being read."""

    def read(self, size: int, /) -> bytes:
        """At most `size` further bytes, none at the end."""


Take = Callable[[Bytes], None]
"""Takes one fetched file in; returns when it is durable. Raises RetryLater."""


@dataclass(frozen=True, kw_only=True)
class PacsSeries:
    """One series as the PACS tells it; `instances` is None where it does not count them."""

    uid: str
    modality: str | None
    instances: int | None


@dataclass(frozen=True, kw_only=True)
class PacsStudy:
    """One study as the PACS lists it; identity serves comparison only and is never logged."""

    uid: str
    modalities: tuple[str, ...] = ()
    patient_id: str | None = None
    issuer_of_patient_id: str | None = None


class Pacs(Protocol):
    """A PACS, whatever it is spoken to by; every method raises RetryLater when it does not answer."""

    def echo(self) -> None:
        """Whether it answers at all."""

    def studies(self, since: datetime, until: datetime) -> list[PacsStudy]:
        """Studies whose date lies in these days, both included."""

    def study(self, study_uid: str) -> PacsStudy | None:
        """One study, None where it is not there."""

    def series(self, study_uid: str) -> list[PacsSeries]:
        """What it holds of a study."""

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        """SOP instance UIDs of a series."""

    def fetch(self, study_uid: str, take: Take) -> None:
        """Have a study brought here: by `take`, or by C-MOVE to our own node."""

    def store(self, dataset: Dataset) -> str:
        """Send one object and return the receiver's status in words it uses itself."""

    def holds(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> bool:
        """Whether it finds the object in that study."""


def open_pacs(node: DicomNode | DicomWeb, *, own_title: str, retrieve: str = "get") -> Pacs:
    """The PACS at that node, which knows us as `own_title`; nothing is connected yet."""
    from pipeline.dicom.dimse_pacs import DimsePacs  # noqa: PLC0415 - each brings its own library
    from pipeline.dicom.patience import PatientPacs  # noqa: PLC0415
    from pipeline.dicom.web_pacs import WebPacs  # noqa: PLC0415

    if isinstance(node, DicomWeb):
        return PatientPacs(WebPacs(node), seconds=node.seconds)
    return PatientPacs(DimsePacs(node, own_title=own_title, retrieve=retrieve), seconds=node.seconds)


def days(since: datetime, until: datetime) -> str:
    """A range of days for range matching (PS3.4 C.2.2.2.5)."""
    return f"{since:%Y%m%d}-{until:%Y%m%d}"


def study_of(answer: Dataset) -> PacsStudy | None:
    """A study in an answer to a query; None where it names no valid one."""
    uid = attributes.uid(answer, "StudyInstanceUID") or ""
    if not attributes.is_uid(uid):
        return None
    return PacsStudy(
        uid=uid,
        modalities=attributes.texts(answer, "ModalitiesInStudy"),
        patient_id=attributes.text(answer, "PatientID"),
        issuer_of_patient_id=attributes.text(answer, "IssuerOfPatientID"),
    )


def series_of(answers: Sequence[Dataset]) -> list[PacsSeries]:
    """The series in answers to a query, those with a valid UID."""
    found = (
        PacsSeries(
            uid=attributes.uid(answer, "SeriesInstanceUID") or "",
            modality=attributes.text(answer, "Modality"),
            instances=attributes.integer(answer, "NumberOfSeriesRelatedInstances"),
        )
        for answer in answers
    )
    return [series for series in found if attributes.is_uid(series.uid)]


def query(level: str, **keys: str) -> Dataset:
    """A query at a level with these matching keys and everything asked back that is read here."""
    wanted = {
        "STUDY": ("StudyInstanceUID", "ModalitiesInStudy", "PatientID", "IssuerOfPatientID", "StudyDate"),
        "SERIES": ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"),
        "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"),
    }[level]
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword in wanted:
        setattr(dataset, keyword, keys.get(keyword, ""))
    return dataset
