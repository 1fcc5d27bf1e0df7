"""The images of a case for the viewer: from the verified bytes, through the limited child, never a lossy preview.

A series that does not form a volume is still shown, instance by instance, with the reason: what the model could not use
a clinician may well be able to read.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.rendering import display_values
from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.series_selection import select_series, series_of
from pipeline.domain.study import InstanceHeader
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, RetryLater, SecondreadError
from pipeline.protocol import TriageProtocol
from pipeline.store.blobs import BlobStore
from pipeline.store.json_values import header_from
from pipeline.web.reslicing import edges
from pipeline.web.unreadable_series import UnreadableSeries

MOST_WAITING = 16  #: requests; more would take the threads that the rest of the room works with
MOST_AHEAD = 8  #: series that wait to be read ahead
KEPT_BYTES = 512 * 2**20  #: of display values kept ready


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
    of a pixel over its width, `pixel_mm` its height and width where every image tells them, `notes` sentences about what
    is not shown. `affine` (4, 4), from index (d, h, w) to LPS mm, is there only for a volume whose place is known.
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
    pixel_mm: tuple[float, float] | None = None
    affine: NDArray[np.float64] | None = None


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

    def __init__(
        self, sandbox: Sandbox, *, kept_bytes: int = KEPT_BYTES, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._sandbox = sandbox
        self._kept_bytes = kept_bytes
        self._stacks: OrderedDict[tuple[str, ...], Stack] = OrderedDict()
        self._awaited: dict[tuple[str, ...], Future[Stack]] = {}
        self._unreadable = UnreadableSeries(seconds)
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._places_ahead = threading.BoundedSemaphore(MOST_AHEAD)
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shelf")

    def stack(self, entry: SeriesEntry, blobs: BlobStore) -> Stack:
        """The images of one series; raises DeferCase when not one of them can be shown, RetryLater when too many wait.

        The digests are the key, so what is shown is always what was received. Who asks for a series that is being read
        waits for it; series are read without holding up those that are ready.
        """
        with self._lock:
            known = self._known(entry.digests)
        if known is not None:
            return known
        if not self._places.acquire(blocking=False):
            raise RetryLater("many images are being read at this moment; ask again")
        try:
            return self._awaited_or_read(entry, blobs)
        finally:
            self._places.release()

    def _known(self, key: tuple[str, ...]) -> Stack | None:
        self._unreadable.refuse(key)
        if key in self._stacks:
            self._stacks.move_to_end(key)
        return self._stacks.get(key)

    def _awaited_or_read(self, entry: SeriesEntry, blobs: BlobStore) -> Stack:
        with self._lock:
            known = self._known(entry.digests)
            if known is not None:
                return known
            awaited = self._awaited.get(entry.digests)
            if awaited is None:
                mine = self._awaited[entry.digests] = Future()
        return awaited.result() if awaited is not None else self._read(entry, blobs, mine)

    def warm(self, entry: SeriesEntry, blobs: BlobStore) -> None:
        """Have a series read ahead of the first request for it, whatever becomes of it; not where many wait already."""
        with self._lock:
            if any(entry.digests in known for known in (self._stacks, self._awaited, self._unreadable)):
                return
        if self._places_ahead.acquire(blocking=False):
            self._ahead.submit(self._attempt, entry, blobs)

    def _attempt(self, entry: SeriesEntry, blobs: BlobStore) -> None:
        try:
            with suppress(SecondreadError, OSError):
                self.stack(entry, blobs)
        finally:
            self._places_ahead.release()

    def _read(self, entry: SeriesEntry, blobs: BlobStore, told: Future[Stack]) -> Stack:
        try:
            made = self._make(entry, blobs)
        except BaseException as error:
            with self._lock:
                del self._awaited[entry.digests]
                if isinstance(error, DeferCase):
                    self._unreadable.note(entry.digests, error)
            told.set_exception(error)
            raise
        with self._lock:
            del self._awaited[entry.digests]
            self._keep(entry.digests, made)
        told.set_result(made)
        return made

    def _keep(self, key: tuple[str, ...], made: Stack) -> None:
        self._stacks[key] = made
        while len(self._stacks) > 1 and sum(s.values.nbytes for s in self._stacks.values()) > self._kept_bytes:
            self._stacks.popitem(last=False)

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
    known = _is_told({header.image_orientation for header in entry.headers}, notes)
    measured = _is_told({header.pixel_spacing for header in entry.headers}, notes)
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
        pixel_mm=(height, width) if measured else None,
        affine=volume.affine if known and measured and not notes and volume.voxels.shape[0] > 1 else None,
    )


def _is_told(values: set[Any], notes: Sequence[str]) -> bool:
    """Whether every image tells it; images that are shown one by one must also agree."""
    return None not in values and (not notes or len(values) == 1)
