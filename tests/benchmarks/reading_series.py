"""A series of DICOM files to a sorted float volume with geometry: ours, through the limited child, and today's tools.

    python -m tests.benchmarks.reading_series [--slices 200] [--json]

The series are generated, the page cache is warm, and everything runs in turns in one process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import FileMetaDataset

from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.series_to_volume import read_series_in_process
from tests.benchmarks.interleaved import Row, Work, as_text, ratios

SIDE = 512
COMPRESSED = {
    "JPEG 2000": uid.JPEG2000Lossless,
    "JPEG-LS": uid.JPEGLSLossless,
    "RLE": uid.RLELossless,
}


def main() -> None:
    """Print the rows, or write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--compressed-slices", type=int, default=40)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = rows(asked.slices, asked.compressed_slices, asked.repetitions)
    sys.stdout.write(json.dumps([row.as_dict() for row in found], indent=1) + "\n" if asked.json else as_text(found))


def rows(slices: int = 200, compressed_slices: int = 40, repetitions: int = 5) -> list[Row]:
    """Native and compressed series, against a plain pydicom loop over the same files."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), Sandbox(memory_mb=4096) as sandbox:
        warnings.simplefilter("ignore")
        native = written(Path(folder) / "native", slices, None)
        found = compared(native, "native", sandbox, repetitions, in_process=0.2, sandboxed=0.3, peers=True)
        for name, syntax in COMPRESSED.items():
            files = written(Path(folder) / name, compressed_slices, syntax)
            found += compared(files, name, sandbox, repetitions, in_process=0.6, sandboxed=0.6)
    return found


def compared(
    files: list[Path],
    kind: str,
    sandbox: Sandbox,
    repetitions: int,
    *,
    in_process: float,
    sandboxed: float,
    peers: bool = False,
) -> list[Row]:
    """Ours and others on one series, against the loop."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    ours = f"{kind}: ours in process"
    limited = f"{kind}: ours, checked, in the limited child"
    works: list[tuple[str, Work]] = [
        (ours, lambda: read_series_in_process(files, digests)),
        (limited, lambda: sandbox.read_series(files, digests)),
    ]
    if peers:
        works += [
            (f"{kind}: plain read of the bytes", lambda: [path.read_bytes() for path in files]),
            *peer_readers(files, kind),
        ]
    return ratios(
        (f"a pydicom loop, {len(files)} slices", lambda: pydicom_loop(files)),
        works,
        repetitions,
        **{ours: in_process, limited: sandboxed},
    )


def pydicom_loop(files: list[Path]) -> np.ndarray:
    """What most scripts do: read, decode, rescale, sort, stack."""
    slices = sorted((pydicom.dcmread(path) for path in files), key=lambda one: float(one.ImagePositionPatient[2]))
    planes = [
        one.pixel_array.astype(np.float32) * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices
    ]
    return np.stack(planes)


def peer_readers(files: list[Path], kind: str) -> list[tuple[str, Callable[[], object]]]:
    """SimpleITK's series reader and MONAI's loader with pydicom."""
    import SimpleITK
    from monai.transforms import LoadImage

    def itk() -> object:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames([str(path) for path in files])
        return SimpleITK.GetArrayFromImage(reader.Execute()).astype(np.float32)

    load = LoadImage(reader="PydicomReader", image_only=True)
    return [(f"{kind}: SimpleITK", itk), (f"{kind}: MONAI PydicomReader", lambda: load(files[0].parent))]


def written(folder: Path, slices: int, syntax: str | None) -> list[Path]:
    """One series of smooth, slightly noisy slices; native explicit little endian without a `syntax`."""
    folder.mkdir()
    series, study = uid.generate_uid(entropy_srcs=[str(folder)]), uid.generate_uid(entropy_srcs=["study"])
    smooth = np.add.outer(np.hanning(SIDE), np.hanning(SIDE)) * 500.0
    files = []
    for number in range(slices):
        noise = np.random.default_rng(number).normal(0.0, 8.0, (SIDE, SIDE))
        one = _instance(number, series, study, (smooth * (1 + number / slices) + noise).astype(np.int16))
        if syntax is not None:
            one.compress(syntax)
        files.append(folder / f"{number:04d}.dcm")
        one.save_as(files[-1], enforce_file_format=True)
    return files


def _instance(number: int, series: str, study: str, pixels: np.ndarray) -> pydicom.Dataset:
    one = pydicom.Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = uid.MRImageStorage
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"[:64]
    one.SeriesInstanceUID, one.StudyInstanceUID, one.Modality, one.PatientID = series[:50], study[:60], "MR", "P1"
    one.Rows = one.Columns = SIDE
    one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, number * 1.5]
    one.PixelSpacing, one.SliceThickness, one.InstanceNumber = [0.5, 0.5], 1.5, number + 1
    one.RescaleSlope, one.RescaleIntercept = 1, 0
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{series[:50]}.{number + 1}"
    one.PixelData = pixels.tobytes()
    return one


if __name__ == "__main__":
    main()
