"""From the files of one series to one `Volume`: verified bytes, regular geometry, intensities in place.

Colour is refused rather than turned into luminance: colour series are captures, overlays and maps, whose grey level
means nothing that the network was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom import attributes
from pipeline.dicom.intensities import intensities
from pipeline.dicom.parsing import ParsedInstance, parse
from pipeline.dicom.pixel_checks import decode
from pipeline.dicom.pixel_description import PixelDescription, describe_pixels
from pipeline.dicom.plane import FramePlane, planes
from pipeline.dicom.quality import quality_findings
from pipeline.dicom.sop_classes import MR, PLANAR
from pipeline.dicom.stacking import Stack, lone_plane, stack
from pipeline.domain.case import Reason
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, RejectInstance

MAX_VOXELS: Final = 2**28  #: of one volume: 1 GiB of float32
MAX_SERIES_BYTES: Final = 768 * 2**20  #: of all files of one series together

Allocate = Callable[[tuple[int, int, int]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class _Source:
    """One verified file: its data set, what it says about its pixels and frames, and the digest of its bytes."""

    instance: ParsedInstance
    description: PixelDescription
    planes: list[FramePlane]
    digest: str


def read_series_in_process(
    paths: Sequence[Path], digests: Sequence[str] | None = None, *, allocate: Allocate | None = None
) -> Volume:
    """The volume of one series, read in this process: for trusted local files, and inside the sandbox's child.

    `digests` are the SHA-256 digests that the files must have, in the order of `paths`; `allocate` gives the zeroed
    float32 array (D, H, W) that the voxels are written to. Raises DeferCase.
    """
    if not paths:
        raise DeferCase(Reason.NO_SERIES, "the series holds no files")
    with attributes.quiet():
        try:
            sources = _sources(paths, digests)
            return _volume(sources, allocate or _zeros)
        except RejectInstance as refusal:
            raise DeferCase(Reason.UNREADABLE, f"{refusal.reason}: {refusal.detail}") from None
        except (DeferCase, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  a library boundary: the type is told, its text may hold values
            raise DeferCase(Reason.UNREADABLE, f"the series cannot be read ({type(error).__name__})") from None


def _zeros(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.zeros(shape, dtype=np.float32)


def _sources(paths: Sequence[Path], digests: Sequence[str] | None) -> list[_Source]:
    if digests is not None and len(digests) != len(paths):
        raise DeferCase(Reason.UNREADABLE, "the manifest and the files differ in number")
    sources, total = [], 0
    for index, path in enumerate(paths):
        data = _verified(path, None if digests is None else digests[index])
        total += len(data[0])
        if total > MAX_SERIES_BYTES:
            raise DeferCase(Reason.UNREADABLE, f"the series is larger than {MAX_SERIES_BYTES // 2**20} MiB")
        sources.append(_source(*data))
    return sources


def _verified(path: Path, digest: str | None) -> tuple[bytes, str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DeferCase(Reason.UNREADABLE, f"a file cannot be opened ({type(error).__name__})") from None
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise DeferCase(Reason.UNREADABLE, "the bytes of an instance are not those that were received")
    return data, found


def _source(data: bytes, digest: str) -> _Source:
    instance = parse(data)
    if instance.problem:
        raise instance.problem
    description = describe_pixels(instance.dataset)
    return _Source(instance, description, planes(instance.dataset, description.frames), digest)


def _volume(sources: Sequence[_Source], allocate: Allocate) -> Volume:
    _refuse_unsuitable(sources)
    stacked = _stacked(sources)
    shape = (len(stacked.order), sources[0].description.rows, sources[0].description.columns)
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise DeferCase(Reason.UNREADABLE, "the volume has too many voxels")
    voxels = allocate(shape)
    _fill(voxels, sources, stacked)
    digests = [source.digest for source in sources for _ in source.planes]
    names = tuple(digests[frame] for frame in stacked.order)
    magnetic = attributes.text(sources[0].instance.dataset, "SOPClassUID") in MR
    return Volume(voxels, stacked.affine, names, quality_findings(voxels, magnetic=magnetic))


def _refuse_unsuitable(sources: Sequence[_Source]) -> None:
    first = sources[0].description
    series = {attributes.text(source.instance.dataset, "SeriesInstanceUID") for source in sources}
    if len(series) > 1:
        raise DeferCase(Reason.IRREGULAR_GEOMETRY, "the files belong to more than one series")
    for source in sources:
        found = source.description
        if found.samples != 1 or found.photometric == "PALETTE COLOR":
            raise DeferCase(Reason.UNREADABLE, "colour images hold no intensities that the model could read")
        if (found.rows, found.columns) != (first.rows, first.columns):
            raise DeferCase(Reason.IRREGULAR_GEOMETRY, "slices differ in matrix size")
        if found.photometric != first.photometric:
            raise DeferCase(Reason.IRREGULAR_GEOMETRY, "slices differ in photometric interpretation")
        if "MOSAIC" in attributes.texts(source.instance.dataset, "ImageType"):
            raise DeferCase(Reason.IRREGULAR_GEOMETRY, "an image is a mosaic of slices")


def _stacked(sources: Sequence[_Source]) -> Stack:
    every = [plane for source in sources for plane in source.planes]
    sop_class = attributes.text(sources[0].instance.dataset, "SOPClassUID")
    if len(every) == 1 and sop_class in PLANAR:
        return lone_plane(every[0])
    return stack(every)


def _fill(voxels: NDArray[np.float32], sources: Sequence[_Source], stacked: Stack) -> None:
    """Write every frame to its slice, and count them against manifest and depth."""
    slice_of = {frame: depth for depth, frame in enumerate(stacked.order)}
    written, start = 0, 0
    for source in sources:
        description, values = decode(source.instance)
        for index, plane in enumerate(source.planes):
            target = voxels[slice_of[start + index]]
            intensities(values[index], plane, description, source.instance.dataset, out=target)
            written += 1
        start += len(source.planes)
    if not written == start == voxels.shape[0] == len(stacked.order):
        raise DeferCase(Reason.UNREADABLE, "fewer slices were decoded than the series lists")
