"""From the files of one series to one `Volume`: verified bytes, regular geometry, intensities in place.

Colour is refused rather than turned into luminance: colour series are captures, overlays and maps, whose grey level
means nothing that the network was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom import attributes
from pipeline.dicom.decoders import lets_others_run
from pipeline.dicom.intensities import Extremes, intensities
from pipeline.dicom.quality import quality_findings
from pipeline.dicom.series_file import SeriesFile, open_header, stored_pixels, verify
from pipeline.dicom.side_by_side import free_cores, shares, side_by_side
from pipeline.dicom.sop_classes import MR, PLANAR
from pipeline.dicom.stacking import Stack, lone_plane, stack
from pipeline.domain.case import Reason
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, RejectInstance

MAX_VOXELS: Final = 2**28  #: of one volume: 1 GiB of float32
MAX_SERIES_BYTES: Final = 768 * 2**20  #: of all files of one series together
MOST_AT_ONCE: Final = 32 * 2**20  #: decoded bytes of one file beyond which files are decoded one after the other
LEAST_FOR_THREADS: Final = 2**20  #: voxels; below, starting threads costs more than they gain

Allocate = Callable[[tuple[int, int, int]], NDArray[np.float32]]


def read_series_in_process(
    paths: Sequence[Path],
    digests: Sequence[str] | None = None,
    *,
    allocate: Allocate | None = None,
    threads: int | None = None,
) -> Volume:
    """The volume of one series, read in this process: for trusted local files, and inside the sandbox's child.

    `digests` are the SHA-256 digests that the files must have, in the order of `paths`; `allocate` gives the
    float32 array (D, H, W) of which every voxel is written; `threads` read and decode side by side (all free cores when
    None) and change nothing in what comes out. Raises DeferCase.
    """
    if not paths:
        raise DeferCase(Reason.NO_SERIES, "the series holds no files")
    with attributes.quiet():
        try:
            files, stacked = _opened(paths, digests)
            return _volume(files, stacked, allocate or _zeros, free_cores() if threads is None else threads)
        except RejectInstance as refusal:
            raise DeferCase(Reason.UNREADABLE, f"{refusal.reason}: {refusal.detail}") from None
        except (DeferCase, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  a library boundary: the type is told, its text may hold values
            raise DeferCase(Reason.UNREADABLE, f"the series cannot be read ({type(error).__name__})") from None


def _zeros(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.zeros(shape, dtype=np.float32)


def _opened(paths: Sequence[Path], digests: Sequence[str] | None) -> tuple[list[SeriesFile], Stack]:
    if digests is not None and len(digests) != len(paths):
        raise DeferCase(Reason.UNREADABLE, "the manifest and the files differ in number")
    expected: Sequence[str | None] = [None] * len(paths) if digests is None else digests
    try:
        files = _headers(paths, expected)
        _refuse_unsuitable(files)
        return files, _stacked(files)
    except (RejectInstance, DeferCase):
        # Headers are read before digests are compared: bytes that are not those received are the first thing to tell.
        for path, digest in zip(paths, digests or (), strict=False):
            verify(path, digest)
        raise


def _headers(paths: Sequence[Path], digests: Sequence[str | None]) -> list[SeriesFile]:
    files, total = [], 0
    for path, digest in zip(paths, digests, strict=True):
        total += path.stat().st_size if path.is_file() else 0
        if total > MAX_SERIES_BYTES:
            raise DeferCase(Reason.UNREADABLE, f"the series is larger than {MAX_SERIES_BYTES // 2**20} MiB")
        files.append(open_header(path, digest))
    return files


def _volume(files: Sequence[SeriesFile], stacked: Stack, allocate: Allocate, threads: int) -> Volume:
    shape = (len(stacked.order), files[0].description.rows, files[0].description.columns)
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise DeferCase(Reason.UNREADABLE, "the volume has too many voxels")
    voxels = allocate(shape)
    written = _fill(voxels, files, stacked, threads if prod(shape) >= LEAST_FOR_THREADS else 1)
    in_order = [written[frame] for frame in stacked.order]
    extremes = np.array([frame.extremes for frame in in_order], dtype=np.float32)
    magnetic = attributes.text(files[0].instance.dataset, "SOPClassUID") in MR
    quality = quality_findings(voxels, magnetic=magnetic, extremes=extremes, threads=threads)
    return Volume(voxels, stacked.affine, tuple(frame.digest for frame in in_order), quality)


def _refuse_unsuitable(files: Sequence[SeriesFile]) -> None:
    first = files[0].description
    series = {attributes.text(file.instance.dataset, "SeriesInstanceUID") for file in files}
    if len(series) > 1:
        raise DeferCase(Reason.IRREGULAR_GEOMETRY, "the files belong to more than one series")
    for file in files:
        found = file.description
        if found.samples != 1 or found.photometric == "PALETTE COLOR":
            raise DeferCase(Reason.UNREADABLE, "colour images hold no intensities that the model could read")
        if (found.rows, found.columns) != (first.rows, first.columns):
            raise DeferCase(Reason.IRREGULAR_GEOMETRY, "slices differ in matrix size")
        if found.photometric != first.photometric:
            raise DeferCase(Reason.IRREGULAR_GEOMETRY, "slices differ in photometric interpretation")
        if found.encoding != first.encoding:
            raise DeferCase(Reason.IRREGULAR_GEOMETRY, "slices differ in how their values are stored")
        if "MOSAIC" in attributes.texts(file.instance.dataset, "ImageType"):
            raise DeferCase(Reason.IRREGULAR_GEOMETRY, "an image is a mosaic of slices")


def _stacked(files: Sequence[SeriesFile]) -> Stack:
    every = [plane for file in files for plane in file.planes]
    if len({plane.rescale_stated for plane in every}) > 1:
        raise DeferCase(Reason.IRREGULAR_GEOMETRY, "some slices lack a rescale that others have")
    sop_class = attributes.text(files[0].instance.dataset, "SOPClassUID")
    if len(every) == 1 and sop_class in PLANAR:
        return lone_plane(every[0])
    return stack(every)


@dataclass(frozen=True)
class _Written:
    """One frame that was written to its slice: the digest of its file, its lowest and highest intensity."""

    digest: str
    extremes: Extremes


def _fill(voxels: NDArray[np.float32], files: Sequence[SeriesFile], stacked: Stack, threads: int) -> list[_Written]:
    """Write every frame to its slice, and count them against manifest and depth; in the order of files and frames."""
    slice_of = {frame: depth for depth, frame in enumerate(stacked.order)}
    starts = list(accumulate((len(file.planes) for file in files), initial=0))

    def run(places: range) -> list[_Written]:
        """Several files by one thread, which reads native ones to the same room."""
        room = bytearray(max((files[place].size for place in places if files[place].head), default=0))
        return [frame for place in places for frame in filled(files[place], starts[place], room)]

    def filled(file: SeriesFile, start: int, room: bytearray) -> list[_Written]:
        values, digest = stored_pixels(file, room, threads if len(files) == 1 else 1)

        def placed(frames: range) -> list[_Written]:
            return [
                _Written(digest, _placed(voxels[slice_of[start + frame]], file, values[frame], frame))
                for frame in frames
            ]

        runs = shares(len(file.planes), threads if len(files) == 1 else 1)
        return [frame for part in side_by_side(placed, runs, threads) for frame in part]

    at_once = threads if all(_may_share_time(file) for file in files) else 1
    written = [frame for part in side_by_side(run, shares(len(files), at_once), at_once) for frame in part]
    if not len(written) == starts[-1] == voxels.shape[0] == len(stacked.order):
        raise DeferCase(Reason.UNREADABLE, "fewer slices were decoded than the series lists")
    return written


def _may_share_time(file: SeriesFile) -> bool:
    small = file.description.decoded_bytes <= MOST_AT_ONCE
    return small and (bool(file.head) or lets_others_run(file.instance.transfer_syntax_uid))


def _placed(target: NDArray[np.float32], file: SeriesFile, stored: NDArray[Any], frame: int) -> Extremes:
    return intensities(stored, file.planes[frame], file.description, file.instance.dataset, out=target)
