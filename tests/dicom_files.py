"""Small DICOM files for tests, written with pydicom from a few keywords."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

STUDY, SERIES = "1.2.3.4", "1.2.3.4.5"


def a_slice(pixels: NDArray[Any], index: int = 0, **changes: Any) -> Dataset:
    """An axial MR slice 5 mm above the previous one, 2 mm by 1 mm pixels; a change to None removes the attribute."""
    dataset = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": MRImageStorage, "SOPInstanceUID": f"{SERIES}.{index + 1}", "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES, "Modality": "MR", "BodyPartExamined": "BRAIN", "PatientID": "P1",
        "PatientName": "Test^Patient", "PatientAge": "045Y", "ImageType": ["ORIGINAL", "PRIMARY"],
        "InstanceNumber": index + 1, "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-10, -20, 5.0 * index], "PixelSpacing": [2, 1], "SliceThickness": 4,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1], "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8, "HighBit": pixels.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }  # fmt: skip
    for keyword, value in (values | changes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    return dataset


def to_bytes(dataset: Dataset, syntax: str = ExplicitVRLittleEndian, preamble: bytes = b"\0" * 128) -> bytes:
    """The file of a data set."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", MRImageStorage)
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = syntax
    dataset.file_meta, dataset.preamble = meta, preamble
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def a_head(depth: int = 4, size: int = 40) -> NDArray[np.uint16]:
    """A smooth blob (D, H, W) in black air: sound pixels."""
    d, h, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in (depth, size, size)), indexing="ij")
    return (1000 * np.exp(-4 * (0.2 * d**2 + h**2 + (w - 0.1) ** 2))).astype(np.uint16)


def write_series(folder: Path, datasets: Sequence[Dataset], **options: Any) -> list[Path]:
    """One file per data set, named by place."""
    paths = [folder / f"{place:03}.dcm" for place in range(len(datasets))]
    for path, dataset in zip(paths, datasets, strict=True):
        path.write_bytes(to_bytes(dataset, **options))
    return paths


def small_slice(
    number: int, *, study: str = STUDY, slices: int = 16, syntax: str = ExplicitVRLittleEndian, **changes: Any
) -> bytes:
    """The file of the `number`th slice (from 1) of a sound series of `slices` in a study of that UID."""
    of_study = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.5", "SOPInstanceUID": f"{study}.5.{number}"}
    return to_bytes(a_slice(a_head(slices)[number - 1], number - 1, **of_study | changes), syntax)
