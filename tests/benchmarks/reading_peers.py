"""SimpleITK's and MONAI's readers, to be timed on the same series as ours (`pipeline.dicom.reading_speed`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.transforms import LoadImage

from pipeline.domain.interleaved import Work


def peer_readers(files: Sequence[Path], kind: str) -> list[tuple[str, Work]]:
    """SimpleITK's series reader and MONAI's loader with pydicom, to a float volume."""
    import SimpleITK

    def itk() -> object:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames([str(path) for path in files])
        return SimpleITK.GetArrayFromImage(reader.Execute()).astype(np.float32)

    load = LoadImage(reader="PydicomReader", image_only=True)
    return [(f"{kind}: SimpleITK", itk), (f"{kind}: MONAI PydicomReader", lambda: load(files[0].parent))]
