"""Phantom acquisitions as DICOM files: MR and CT series, localizers and a report object.

Attributes follow the MR Image and CT Image modules (PS3.3 C.8.3 and C.8.2) and the Image Plane module (C.7.6.2).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, BasicTextSRStorage, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, RLELossless

from pipeline.dicom.phantom_series import Acquisition

_IMPLEMENTATION = UID("2.25.286148930217654380121654710908340219871")


def phantom_uid(*key: object) -> UID:
    """A UID under 2.25 (PS3.5 B.2) that depends on `key` alone."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}")


@dataclass(frozen=True, kw_only=True)
class StudyHeader:
    """What every object of one phantom study carries; `key` makes its UIDs. None leaves a tag out."""

    key: tuple[object, ...]
    patient_id: str
    sex: str
    age: int
    date: str
    time: str
    accession: str
    body_part: str | None

    @property
    def study_uid(self) -> UID:
        """StudyInstanceUID."""
        return phantom_uid(*self.key, "study")

    def dataset(self, modality: str, series: str, number: int) -> Dataset:
        """Patient, study and series modules of one series named `series`."""
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientID, dataset.PatientName = self.patient_id, f"PHANTOM^{self.patient_id}"
        dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "", self.sex, f"{self.age:03d}Y"
        dataset.StudyInstanceUID, dataset.StudyID = self.study_uid, self.accession
        dataset.StudyDate, dataset.StudyTime = self.date, self.time
        dataset.AccessionNumber, dataset.ReferringPhysicianName = self.accession, ""
        dataset.StudyDescription = "PHANTOM STUDY"
        dataset.SeriesInstanceUID, dataset.SeriesNumber = phantom_uid(*self.key, series), number
        dataset.Modality, dataset.SeriesDate, dataset.SeriesTime = modality, self.date, self.time
        if self.body_part is not None:
            dataset.BodyPartExamined = self.body_part
        return dataset


def file_meta(sop_class: UID, sop_instance: UID, syntax: UID = ExplicitVRLittleEndian) -> FileMetaDataset:
    """The file meta information (PS3.10 section 7.1)."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, sop_instance
    meta.TransferSyntaxUID, meta.ImplementationClassUID = syntax, _IMPLEMENTATION
    meta.ImplementationVersionName = "SECONDREAD"
    return meta


def write_series(
    folder: Path, header: StudyHeader, acquisition: Acquisition, *, series: str, names: np.random.Generator
) -> list[Path]:
    """Write `acquisition` as single-frame files in InstanceNumber order; file names say nothing about that order."""
    folder.mkdir(parents=True, exist_ok=True)
    scout = series == "scout"
    dataset = _series_dataset(header, acquisition, series, scout=scout)
    depth = acquisition.geometry.shape[0]
    labels = names.permutation(depth)
    compress = not scout and names.random() < acquisition.scanner.compressed_share
    written = []
    for number, slice_ in enumerate(_slice_order(acquisition), start=1):
        path = folder / f"IM{labels[number - 1]:04d}.dcm"
        dataset.SOPInstanceUID, dataset.InstanceNumber = phantom_uid(*header.key, series, number), number
        _place_slice(dataset, acquisition, slice_)
        _write(dataset, path, compress=compress)
        written.append(path)
    return written


def _slice_order(acquisition: Acquisition) -> Iterator[int]:
    order = range(acquisition.geometry.shape[0])
    return iter(reversed(order) if acquisition.scanner.top_down else order)


def _write(dataset: Dataset, path: Path, *, compress: bool) -> None:
    if compress:
        dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dcmwrite(path, dataset, enforce_file_format=True)
    if compress:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        del dataset.PixelData


def _series_dataset(header: StudyHeader, acquisition: Acquisition, series: str, *, scout: bool) -> Dataset:
    scanner, geometry = acquisition.scanner, acquisition.geometry
    dataset = header.dataset(scanner.modality, series, 1 if scout else 2)
    dataset.SOPClassUID = CTImageStorage if scanner.modality == "CT" else MRImageStorage
    dataset.SeriesDescription = "SCOUT" if scout else "AX HEAD" if scanner.modality == "CT" else "AX FLAIR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if scout else "AXIAL" if scanner.modality == "CT" else "M"]
    dataset.Manufacturer, dataset.ManufacturerModelName = scanner.manufacturer, scanner.model
    dataset.SoftwareVersions, dataset.StationName = scanner.software, scanner.name.upper()
    dataset.InstitutionName = f"PHANTOM HOSPITAL {scanner.site.upper()}"
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = phantom_uid(*header.key, "frame"), ""
    dataset.AcquisitionNumber, dataset.ImagesInAcquisition = 1, geometry.shape[0]
    dataset.ImageOrientationPatient = [_decimal(value) for value in geometry.orientation]
    steps = np.linalg.norm(geometry.steps, axis=0)
    dataset.PixelSpacing = [_decimal(steps[1]), _decimal(steps[2])]
    dataset.SliceThickness = _decimal(scanner.thickness)
    _describe_acquisition(dataset, scanner.modality, _decimal(steps[0]))
    _describe_pixels(dataset, acquisition)
    return dataset


def _describe_acquisition(dataset: Dataset, modality: str, spacing: str) -> None:
    dataset.PatientPosition = "HFS"
    if modality == "CT":
        dataset.KVP = "120"
        return
    dataset.SpacingBetweenSlices = spacing
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = ["SE", "IR"], "SK", ""
    dataset.MRAcquisitionType, dataset.RepetitionTime, dataset.EchoTime = "2D", "9000", "120"
    dataset.InversionTime, dataset.EchoTrainLength, dataset.MagneticFieldStrength = "2500", 16, "1.5"


def _describe_pixels(dataset: Dataset, acquisition: Acquisition) -> None:
    scanner, pixels = acquisition.scanner, acquisition.pixels
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, scanner.bits_stored, scanner.bits_stored - 1
    dataset.PixelRepresentation = 0
    top = float(np.percentile(pixels[::4, ::2, ::2], 99.5)) * (scanner.slope or 1.0) + scanner.intercept
    low = -20.0 if scanner.modality == "CT" else 0.0
    high = 90.0 if scanner.modality == "CT" else max(top, 1.0)
    dataset.WindowCenter, dataset.WindowWidth = f"{(low + high) / 2:.1f}", f"{high - low:.1f}"
    if scanner.slope is not None:
        dataset.RescaleIntercept, dataset.RescaleSlope = _decimal(scanner.intercept), _decimal(scanner.slope)
        dataset.RescaleType = "HU" if scanner.modality == "CT" else "US"


def _place_slice(dataset: Dataset, acquisition: Acquisition, slice_: int) -> None:
    geometry = acquisition.geometry
    position = geometry.position(slice_)
    dataset.ImagePositionPatient = [_decimal(value) for value in position]
    normal = geometry.steps[:, 0] / np.linalg.norm(geometry.steps[:, 0])
    dataset.SliceLocation = _decimal(float(np.dot(position, normal)))
    dataset.PixelData = acquisition.pixels[slice_].tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = file_meta(dataset.SOPClassUID, dataset.SOPInstanceUID)


def _decimal(value: float) -> str:
    return f"{value:.7f}".rstrip("0").rstrip(".") or "0"


def write_report(path: Path, header: StudyHeader) -> Path:
    """Write a Basic Text SR object (PS3.3 A.35.1) of the study: no image at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = header.dataset("SR", "report", 9)
    dataset.SOPClassUID, dataset.SOPInstanceUID = BasicTextSRStorage, phantom_uid(*header.key, "report", 1)
    dataset.InstanceNumber, dataset.ContentDate, dataset.ContentTime = 1, header.date, header.time
    dataset.CompletionFlag, dataset.VerificationFlag, dataset.ValueType = "COMPLETE", "UNVERIFIED", "CONTAINER"
    dataset.Manufacturer, dataset.ContinuityOfContent = "PHANTOM REPORTS", "SEPARATE"
    dataset.ConceptNameCodeSequence = [_code("18748-4", "Diagnostic imaging study")]
    text = Dataset()
    text.RelationshipType, text.ValueType, text.TextValue = "CONTAINS", "TEXT", "This is the report of a phantom."
    text.ConceptNameCodeSequence = [_code("121071", "Finding", "DCM")]
    dataset.ContentSequence = [text]
    dataset.file_meta = file_meta(dataset.SOPClassUID, dataset.SOPInstanceUID)
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def _code(value: str, meaning: str, scheme: str = "LN") -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code
