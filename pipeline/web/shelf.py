"""The images of a case for the viewer: from the verified bytes, through the limited child, never a lossy preview.

A series that does not form a volume is still shown, instance by instance, with the reason: what the model could not use
a clinician may well be able to read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.rendering import display_values
from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.series_selection import select_series, series_of
from pipeline.domain.study import InstanceHeader
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase
from pipeline.protocol import TriageProtocol
from pipeline.store.blobs import BlobStore
from pipeline.store.json_values import header_from

KEPT_BYTES = 512 * 2**20  #: of display values kept ready
_DIRECTIONS = (("R", "L"), ("A", "P"), ("F", "H"))  #: towards lower and higher x, y, z of the LPS frame
_OBLIQUE = 0.8  #: least cosine for an edge to carry one letter


@dataclass(frozen=True, kw_only=True)
class SeriesEntry:
    """One series of a study: how it is called, its instances, and whether the protocol's rule names it."""

    words: str
    headers: tuple[InstanceHeader, ...]
    digests: tuple[str, ...]
    chosen: bool

    @property
    def frames(self) -> int:
        """Images the instances announce."""
        return sum(header.number_of_frames for header in self.headers)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stack:
    """What the viewer draws: uint16 `values` (D, H, W); intensity = slope * value + intercept.

    `edges` are the patient directions at the left, right, top and bottom edge ('' where unknown), `aspect` the height
    of a pixel over its width, `notes` sentences about what is not shown.
    """

    values: NDArray[np.uint16]
    slope: float
    intercept: float
    window_centre: float
    window_width: float
    aspect: float
    edges: tuple[str, str, str, str]
    modality: str
    notes: tuple[str, ...]


def series_entries(images: Sequence[tuple[str, Mapping[str, Any]]], protocol: TriageProtocol) -> list[SeriesEntry]:
    """The series of a study, those that the protocol reads first; `images` are digests and stored headers."""
    digests: dict[str, str] = {}
    headers: list[InstanceHeader] = []
    for digest, stored in images:
        header = header_from(stored)
        digests[header.sop_instance_uid] = digest
        if header.rows and header.columns:
            headers.append(header)
    selected = select_series(headers, protocol.series, modality=protocol.scope.modality)
    chosen = {series[0].series_instance_uid for series in selected.series}
    entries = [
        SeriesEntry(
            words=_words(series),
            headers=series,
            digests=tuple(digests[header.sop_instance_uid] for header in series),
            chosen=series[0].series_instance_uid in chosen,
        )
        for series in series_of(headers)
    ]
    return sorted(entries, key=lambda entry: (not entry.chosen, -entry.frames))


def _words(series: Sequence[InstanceHeader]) -> str:
    first = series[0]
    number = "" if first.series_number is None else f"{first.series_number}: "
    return f"{number}{first.series_description or first.modality or 'series'}"


class ImageShelf:
    """Display values by sealed revision and series, the least recently used going first."""

    def __init__(self, sandbox: Sandbox, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._sandbox = sandbox
        self._kept_bytes = kept_bytes
        self._stacks: OrderedDict[tuple[str, ...], Stack] = OrderedDict()
        self._lock = threading.Lock()

    def stack(self, entry: SeriesEntry, blobs: BlobStore) -> Stack:
        """The images of one series; raises DeferCase when not one of them can be shown.

        The digests are the key, so what is shown is always what was received.
        """
        with self._lock:
            known = self._stacks.get(entry.digests)
            if known is not None:
                self._stacks.move_to_end(entry.digests)
                return known
        made = self._make(entry, blobs)
        with self._lock:
            self._stacks[entry.digests] = made
            while len(self._stacks) > 1 and sum(s.values.nbytes for s in self._stacks.values()) > self._kept_bytes:
                self._stacks.popitem(last=False)
        return made

    def _make(self, entry: SeriesEntry, blobs: BlobStore) -> Stack:
        def read(digests: Sequence[str]) -> Volume:
            return self._sandbox.read_series([blobs.path(digest) for digest in digests], digests)

        try:
            return _stack_of(read(entry.digests), entry, ())
        except DeferCase as whole:
            return _one_by_one(entry, read, whole)


def _one_by_one(entry: SeriesEntry, read: Callable[[Sequence[str]], Volume], whole: DeferCase) -> Stack:
    """Every instance that can be read by itself, those of the commonest matrix size in one stack."""
    shown: dict[tuple[int, ...], list[Volume]] = {}
    for digest in entry.digests:
        try:
            volume = read([digest])
        except DeferCase:
            continue
        shown.setdefault(volume.voxels.shape[1:], []).append(volume)
    if not shown:
        raise whole
    volumes = max(shown.values(), key=len)
    loose = replace(volumes[0], voxels=np.concatenate([volume.voxels for volume in volumes]), sources=())
    notes = [f"These images do not form one volume ({whole.detail}). They are shown one by one, by image number."]
    missing = entry.frames - loose.voxels.shape[0]
    if missing > 0:
        notes.append(f"{missing} of {entry.frames} images of this series cannot be shown.")
    return _stack_of(loose, entry, tuple(notes))


def _stack_of(volume: Volume, entry: SeriesEntry, notes: tuple[str, ...]) -> Stack:
    display = display_values(volume)
    _, height, width = volume.spacing
    orientations = {header.image_orientation for header in entry.headers}
    known = None not in orientations and (not notes or len(orientations) == 1)
    return Stack(
        values=display.values,
        slope=display.slope,
        intercept=display.intercept,
        window_centre=display.window_centre,
        window_width=display.window_width,
        aspect=height / width if width > 0 and height > 0 else 1.0,
        edges=edges(volume.affine) if known else ("", "", "", ""),
        modality=entry.headers[0].modality or "",
        notes=notes,
    )


def edges(affine: NDArray[np.float64]) -> tuple[str, str, str, str]:
    """The patient directions at the left, right, top and bottom edge of a slice drawn with rows downwards (LPS)."""
    left, right = _ends(affine[:3, 2])
    top, bottom = _ends(affine[:3, 1])
    return left, right, top, bottom


def _ends(step: NDArray[np.float64]) -> tuple[str, str]:
    """Letters at the start and the end of a direction; empty where it is oblique."""
    length = float(np.linalg.norm(step))
    axis = int(np.argmax(np.abs(step)))
    if not length or abs(step[axis]) < _OBLIQUE * length:
        return "", ""
    lower, higher = _DIRECTIONS[axis]
    return (lower, higher) if step[axis] > 0 else (higher, lower)
