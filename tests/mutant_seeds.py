"""Sound files to break: phantoms in every encoding that can be written here, and real files where they lie at hand."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.dicom.phantom_plan import StudyOrder
from pipeline.dicom.phantoms import make_study
from tests.dicom_files import a_head, a_slice, to_bytes

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "dicom" / "files"
#: Small, and of every encoding and kind: native, run lengths and each JPEG; CT, CR, MR, several frames, captures.
REAL_NAMES = (
    "explicit_le/MR_small.dcm", "explicit_le/CT_small.dcm", "implicit_le/MR_small_implicit.dcm",
    "deflated/image_dfl.dcm", "enhanced/emri_small.dcm", "rle/MR_small_RLE.dcm", "rle/emri_small_RLE.dcm",
    "rle/SC_rgb_rle_16bit.dcm", "jpeg_baseline/JPEGBaseline_1s_1f_u_08_08.dcm", "jpeg_lossless_sv1/JPEG-LL.dcm",
    "jpeg_ls/MR_small_jpeg_ls_lossless.dcm", "jpeg_ls/emri_small_jpeg_ls_lossless.dcm",
    "jpeg2000_lossless/MR_small_jp2klossless.dcm", "jpeg2000_lossless/emri_small_jpeg_2k_lossless.dcm",
    "jpeg2000/JPEG2000.dcm", "jpeg2000/RG3_J2KI.dcm", "other_modalities/dx_image.dcm",
)  # fmt: skip


def phantom_series(folder: Path, patient: int = 9002) -> list[bytes]:
    """The slices of a phantom without tumour, by InstanceNumber; one scanner made 9002 and another one 9001."""
    order = StudyOrder(patient=patient, study=1, finding=False, split=None, defect=None)
    study = make_study(folder, order, seed=3)
    slices = [path for path in study.files if path.parent == study.series_folder]
    return [path.read_bytes() for path in slices]


def made_seeds(folder: Path) -> dict[str, bytes]:
    """One phantom slice, and small pictures, in each encoding by name."""
    slice_ = phantom_series(folder)[9]
    pictures = to_bytes(_several_frames())
    return {"explicit": slice_} | {
        "implicit": recoded(slice_, ImplicitVRLittleEndian),
        "deflated": recoded(slice_, DeflatedExplicitVRLittleEndian),
        "rle": recoded(slice_, RLELossless),
        "jpeg_ls": recoded(slice_, JPEGLSLossless),
        "jpeg_2000": recoded(slice_, JPEG2000Lossless),
        "ct": to_bytes(_tomogram()),
        "frames": pictures,
        "frames_rle": recoded(pictures, RLELossless),
        "frames_jpeg_2000": recoded(pictures, JPEG2000Lossless),
    }


@cache
def real_seeds() -> dict[str, bytes]:
    """Real files by name; none where the folder is absent."""
    return {name: (REAL / name).read_bytes() for name in REAL_NAMES} if REAL.is_dir() else {}


def recoded(data: bytes, syntax: str) -> bytes:
    """An uncompressed file in another transfer syntax."""
    dataset = dcmread(io.BytesIO(data))
    if UID(syntax).is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    return to_bytes(dataset, syntax)


def _tomogram() -> Dataset:
    dataset = a_slice(a_head(1)[0].astype(np.int16), SOPClassUID=CTImageStorage, Modality="CT", **_LONG_UIDS)
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    return dataset


def _several_frames() -> Dataset:
    """An enhanced MR image of four frames (PS3.3 A.36.2) with its functional groups."""
    dataset = a_slice(a_head(4), SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=4, **_LONG_UIDS)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = dataset.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = dataset.PixelSpacing, dataset.SliceThickness
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [_frame(place) for place in range(4)]
    return dataset


def _frame(place: int) -> Dataset:
    group, position = Dataset(), Dataset()
    position.ImagePositionPatient = [-10, -20, 5 * place]
    group.PlanePositionSequence = [position]
    return group


_LONG_UIDS = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), "2.25." + "3" * 36)
