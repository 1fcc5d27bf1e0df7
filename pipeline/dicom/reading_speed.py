"""How fast a series of DICOM files becomes a volume here, against a plain pydicom loop over the same files.

The series are generated, the page cache is warm, and everything runs in turns in one process.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.processing import apply_rescale

from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.domain.interleaved import Row, Work, ratios

COMPRESSED: Final = {
    "JPEG 2000": uid.JPEG2000Lossless,
    "JPEG-LS": uid.JPEGLSLossless,
    "RLE": uid.RLELossless,
}
Peers = Callable[[Sequence[Path], str], list[tuple[str, Work]]]


def reading_rows(*, repetitions: int = 5, small: bool = False, peers: Peers | None = None) -> list[Row]:
    """Native and compressed series of 512 x 512 slices; `peers` gives other readers of the native one."""
    slices, compressed_slices, side = (8, 4, 64) if small else (200, 60, 512)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), Sandbox(memory_mb=4096) as sandbox:
        warnings.simplefilter("ignore")
        files = write_series(Path(folder) / "native", slices, side, None)
        others: list[tuple[str, Work]] = [
            ("native: the same loop with pydicom's apply_rescale", lambda: rescaling_loop(files))
        ]
        others += peers(files, "native") if peers is not None else []
        found = _compared(files, "native", sandbox, repetitions, others, in_process=0.2, limited=0.3)
        for name, syntax in COMPRESSED.items():
            packed = write_series(Path(folder) / name, compressed_slices, side, syntax)
            found += _compared(packed, name, sandbox, repetitions, [], in_process=0.6, limited=0.6)
    return found


def _compared(
    files: Sequence[Path],
    kind: str,
    sandbox: Sandbox,
    repetitions: int,
    others: Sequence[tuple[str, Work]],
    *,
    in_process: float,
    limited: float,
) -> list[Row]:
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    ours, checked = f"{kind}: ours in process", f"{kind}: ours, in the limited child"
    works: list[tuple[str, Work]] = [
        (ours, lambda: read_series_in_process(files, digests)),
        (checked, lambda: sandbox.read_series(files, digests)),
        (f"{kind}: reading and hashing the bytes, one thread", lambda: [_digest(path) for path in files]),
        *others,
    ]
    baseline = (f"a pydicom loop, {len(files)} slices", lambda: pydicom_loop(files))
    return ratios(baseline, works, repetitions, {ours: in_process, checked: limited})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pydicom_loop(files: Sequence[Path]) -> NDArray[np.float32]:
    """What a careful script does: read, sort, decode, rescale in single precision, stack."""
    slices = sorted((pydicom.dcmread(path) for path in files), key=_height)
    planes = [one.pixel_array.astype(np.float32) * np.float32(one.RescaleSlope) for one in slices]
    return np.stack(planes) + np.float32(slices[0].RescaleIntercept)


def rescaling_loop(files: Sequence[Path]) -> NDArray[np.float32]:
    """The same with pydicom's own rescaling, which computes in double precision."""
    slices = sorted((pydicom.dcmread(path) for path in files), key=_height)
    return np.stack([apply_rescale(one.pixel_array, one) for one in slices]).astype(np.float32)


def _height(one: pydicom.Dataset) -> float:
    return float(one.ImagePositionPatient[2])


def write_series(folder: Path, slices: int, side: int, syntax: str | None) -> list[Path]:
    """One series of smooth, slightly noisy slices; native explicit little endian without a `syntax`."""
    folder.mkdir()
    series, study = uid.generate_uid(entropy_srcs=[folder.name]), uid.generate_uid(entropy_srcs=["study"])
    smooth = np.add.outer(np.hanning(side), np.hanning(side)) * 500.0
    files = []
    for number in range(slices):
        noise = np.random.default_rng(number).normal(0.0, 8.0, (side, side))
        one = _instance(number, series[:50], study, (smooth * (1 + number / slices) + noise).astype(np.int16))
        if syntax is not None:
            one.compress(syntax, generate_instance_uid=False)
        files.append(folder / f"{number:04d}.dcm")
        one.save_as(files[-1], enforce_file_format=True)
    return files


def _instance(number: int, series: str, study: str, pixels: NDArray[np.int16]) -> Any:
    one: Any = pydicom.Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = uid.MRImageStorage
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
    one.SeriesInstanceUID, one.StudyInstanceUID, one.Modality, one.PatientID = series, study, "MR", "P1"
    one.Rows, one.Columns = pixels.shape
    one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, number * 1.5]
    one.PixelSpacing, one.SliceThickness, one.InstanceNumber = [0.5, 0.5], 1.5, number + 1
    one.RescaleSlope, one.RescaleIntercept = 1, 0
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.PixelData = pixels.tobytes()
    return one
