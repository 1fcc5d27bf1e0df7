"""Reading DICOM for training and evaluation, in this process: these files are our own and not the network's."""

from __future__ import annotations

from pathlib import Path

from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.domain.volume import Volume


def read_dicom(path: Path) -> Volume:
    """The volume of a DICOM file, or of a folder that holds one series. Raises DeferCase."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return read_series_in_process(files)
