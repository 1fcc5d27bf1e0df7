"""Images of training and evaluation files as volumes: NIfTI and PNG here, DICOM through the reader that is given.

NIfTI and PNG carry too little about how they came to be for triage; they serve development only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.domain.case import Reason
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase

ReadDicom = Callable[[Path], Volume]

_NIFTI = (".nii", ".nii.gz")
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: From (d, h, w) to unit millimetres with columns to left, rows to posterior, slices to superior.
_AXIAL = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def load_volume(path: Path, read_dicom: ReadDicom) -> Volume:
    """The volume in a NIfTI or PNG file (by its ending), or in a DICOM file or folder (any other name).

    A PNG is one grey axial slice with unit spacing. Raises DeferCase(UNREADABLE) when the content cannot be used.
    """
    name = path.name.lower()
    try:
        if name.endswith(_NIFTI):
            return _nifti(path)
        if name.endswith(".png"):
            return _png(path)
    except Exception as error:  # parsers of foreign bytes fail in many ways, and none of them may stop a run
        raise DeferCase(
            Reason.UNREADABLE, f"an image file cannot be read ({type(error).__name__}); replace it or remove its row"
        ) from error
    return read_dicom(path)


def content_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or over the sorted digests of all files in a folder; hexadecimal."""
    if path.is_dir():
        digests = sorted(content_digest(entry) for entry in path.rglob("*") if entry.is_file())
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _nifti(path: Path) -> Volume:
    image = nibabel.load(path)
    voxels = np.asarray(image.get_fdata(dtype=np.float32))
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3:
        raise ValueError(f"a NIfTI image of one volume has 3 axes, got {voxels.ndim}")
    affine = np.asarray(_RAS_TO_LPS @ image.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
    return Volume(np.ascontiguousarray(voxels.transpose(2, 1, 0)), affine)


def _png(path: Path) -> Volume:
    with Image.open(path, formats=("PNG",)) as image:
        wide = image.mode.startswith("I")  # 16 bits per pixel; converting to 8 would cut them off
        grey: NDArray[np.float32] = np.asarray(image if wide else image.convert("L"), dtype=np.float32)
    return Volume(grey[None], _AXIAL.copy())
