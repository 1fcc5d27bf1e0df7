from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, RetryLater
from pipeline.store.blobs import BlobStore
from pipeline.store.json_values import header_json
from pipeline.web import shelf as shelf_module
from pipeline.web.shelf import ImageShelf, SeriesEntry, series_entries
from pipeline.web.unreadable_series import UnreadableSeries
from tests.reading_room_cases import mr_series, protocol


def affine(d: tuple[float, ...], h: tuple[float, ...], w: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    made = np.eye(4)
    made[:3, 0], made[:3, 1], made[:3, 2] = d, h, w
    return made


class Reader:
    """Stands in for the sandbox: a volume of one value per file, or a refusal."""

    def __init__(self, refused: Sequence[str] = (), shapes: dict[str, tuple[int, int]] | None = None) -> None:
        self.calls = 0
        self._refused, self._shapes = set(refused), shapes or {}

    def read_series(self, _: Sequence[Path], digests: Sequence[str]) -> Volume:
        self.calls += 1
        if self._refused.intersection(digests) or (len(digests) > 1 and self._shapes):
            raise DeferCase("UNREADABLE", "planted")
        height, width = self._shapes.get(digests[0], (4, 4))
        voxels = np.stack([np.full((height, width), int(d, 16) % 97, dtype=np.float32) for d in digests])
        return Volume(voxels, affine((0, 0, 5), (0, 2, 0), (1, 0, 0)), tuple(digests))


def entry(files: Sequence[bytes], blobs: BlobStore) -> SeriesEntry:
    (only,) = series_entries([(blobs.put(one), header_json(inspect_instance(one))) for one in files], protocol())
    return only


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_tall_pixels_keep_their_aspect(blobs: BlobStore) -> None:
    stack = ImageShelf(cast("Sandbox", Reader())).stack(entry(mr_series(), blobs), blobs)
    assert stack.aspect == 2.0
    assert stack.notes == ()


def test_one_unreadable_image_is_counted_and_the_others_are_shown(blobs: BlobStore) -> None:
    series = entry(mr_series(), blobs)
    stack = ImageShelf(cast("Sandbox", Reader(refused=series.digests[:1]))).stack(series, blobs)
    assert stack.values.shape == (2, 4, 4)
    assert "1 of 3 images" in stack.notes[1]


def test_of_several_matrix_sizes_the_commonest_is_shown_and_the_rest_counted(blobs: BlobStore) -> None:
    series = entry(mr_series(), blobs)
    reader = Reader(shapes={series.digests[0]: (8, 8)})
    stack = ImageShelf(cast("Sandbox", reader)).stack(series, blobs)
    assert stack.values.shape == (2, 4, 4)
    assert "1 of 3 images" in stack.notes[1]


def test_a_series_without_any_readable_image_says_why(blobs: BlobStore) -> None:
    series = entry(mr_series(), blobs)
    with pytest.raises(DeferCase, match="planted"):
        ImageShelf(cast("Sandbox", Reader(refused=series.digests))).stack(series, blobs)


def test_the_shelf_keeps_what_fits_and_forgets_the_least_recently_used(blobs: BlobStore) -> None:
    first, second, third = (entry(mr_series(), blobs) for _ in range(3))
    reader = Reader()
    shelf = ImageShelf(cast("Sandbox", reader), kept_bytes=2 * 3 * 4 * 4 * 2)  # two stacks of 3 x 4 x 4 uint16
    for series in (first, second, first, third, first):
        shelf.stack(series, blobs)
    assert reader.calls == 3
    shelf.stack(second, blobs)
    assert reader.calls == 4


def test_the_series_that_the_protocol_reads_comes_first(blobs: BlobStore) -> None:
    scout, axial = mr_series(slices=1, description="SCOUT"), mr_series(slices=5)
    images = [(blobs.put(one), header_json(inspect_instance(one))) for one in (*scout, *axial)]
    entries = series_entries(images, protocol())
    assert [(e.words, e.frames, e.chosen) for e in entries] == [("3: AX T1", 5, True), ("3: SCOUT", 1, False)]


class Gated(Reader):
    """A sandbox that holds back one series until it is let go."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self.held, self.began, self.gate = held, threading.Event(), threading.Event()

    def read_series(self, paths: Sequence[Path], digests: Sequence[str]) -> Volume:
        if self.held in digests:
            self.began.set()
            assert self.gate.wait(30)
        return super().read_series(paths, digests)


def test_two_who_ask_for_one_series_wait_for_one_reading(blobs: BlobStore) -> None:
    series = entry(mr_series(), blobs)
    reader = Gated(series.digests[0])
    shelf = ImageShelf(cast("Sandbox", reader))
    with ThreadPoolExecutor(2) as people:
        first = people.submit(shelf.stack, series, blobs)
        assert reader.began.wait(30)
        second = people.submit(shelf.stack, series, blobs)
        reader.gate.set()
        assert first.result(30) is second.result(30)
    assert reader.calls == 1


def test_a_slow_series_does_not_hold_up_another(blobs: BlobStore) -> None:
    slow, quick = entry(mr_series(), blobs), entry(mr_series(), blobs)
    reader = Gated(slow.digests[0])
    shelf = ImageShelf(cast("Sandbox", reader))
    with ThreadPoolExecutor(2) as people:
        waiting = people.submit(shelf.stack, slow, blobs)
        assert reader.began.wait(30)
        assert people.submit(shelf.stack, quick, blobs).result(30).values.shape == (3, 4, 4)
        assert not waiting.done()
        reader.gate.set()
        waiting.result(30)


def test_a_series_that_was_read_ahead_is_not_read_again(blobs: BlobStore) -> None:
    series = entry(mr_series(), blobs)
    reader = Gated(series.digests[0])
    shelf = ImageShelf(cast("Sandbox", reader))
    shelf.warm(series, blobs)
    assert reader.began.wait(30)
    shelf.warm(series, blobs)
    reader.gate.set()
    assert shelf.stack(series, blobs).values.shape == (3, 4, 4)
    assert reader.calls == 1


def test_reading_ahead_that_fails_is_told_to_whoever_asks(blobs: BlobStore) -> None:
    series = entry(mr_series(), blobs)
    shelf = ImageShelf(cast("Sandbox", Reader(refused=series.digests)))
    shelf.warm(series, blobs)
    with pytest.raises(DeferCase, match="planted"):
        shelf.stack(series, blobs)
    with pytest.raises(DeferCase, match="planted"):
        shelf.stack(series, blobs)


def test_a_length_is_known_only_where_every_loose_image_tells_the_same(blobs: BlobStore) -> None:
    series = entry(mr_series(), blobs)
    whole = ImageShelf(cast("Sandbox", Reader())).stack(series, blobs)
    assert whole.pixel_mm == (2.0, 1.0)
    assert whole.affine is not None
    loose = Reader(shapes={series.digests[0]: (4, 4)})
    alike = ImageShelf(cast("Sandbox", loose)).stack(series, blobs)
    assert (alike.pixel_mm, alike.affine) == ((2.0, 1.0), None)
    other = replace(series, headers=(replace(series.headers[0], pixel_spacing=(9.0, 9.0)), *series.headers[1:]))
    assert ImageShelf(cast("Sandbox", loose)).stack(other, blobs).pixel_mm is None
    silent = replace(series, headers=(replace(series.headers[0], pixel_spacing=None), *series.headers[1:]))
    assert ImageShelf(cast("Sandbox", Reader())).stack(silent, blobs).pixel_mm is None


def test_only_so_many_wait_for_images_and_the_others_are_told_to_ask_later(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf_module, "MOST_WAITING", 2)
    slow, ready = entry(mr_series(), blobs), entry(mr_series(), blobs)
    reader = Gated(slow.digests[0])
    shelf = ImageShelf(cast("Sandbox", reader))
    shelf.stack(ready, blobs)
    with ThreadPoolExecutor(2) as people:
        waiting = [people.submit(shelf.stack, slow, blobs) for _ in range(2)]
        assert reader.began.wait(30)
        while shelf._places._value:  # until the second has its place too
            threading.Event().wait(0.001)
        with pytest.raises(RetryLater):
            shelf.stack(slow, blobs)
        assert shelf.stack(ready, blobs).values.shape == (3, 4, 4)
        reader.gate.set()
        assert waiting[0].result(30) is waiting[1].result(30)
    assert shelf.stack(slow, blobs).values.shape == (3, 4, 4)


def test_a_refused_series_is_read_again_after_a_minute_and_not_before(blobs: BlobStore) -> None:
    series, seconds = entry(mr_series(), blobs), [100.0]
    reader = Reader(refused=series.digests)
    shelf = ImageShelf(cast("Sandbox", reader), seconds=lambda: seconds[0])
    for moment in (100.0, 159.9, 160.0):
        seconds[0] = moment
        with pytest.raises(DeferCase, match="planted"):
            shelf.stack(series, blobs)
    assert reader.calls == 2 * 4  # the series and each of its three images, twice


def test_only_the_last_refusals_are_remembered() -> None:
    known = UnreadableSeries(lambda: 0.0)
    for number in range(65):
        known.note((str(number),), DeferCase("UNREADABLE", "planted"))
    assert ("0",) not in known
    assert ("1",) in known
    known.refuse(("0",))
    with pytest.raises(DeferCase, match="UNREADABLE: planted"):
        known.refuse(("64",))


def test_only_so_many_series_wait_to_be_read_ahead(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "MOST_AHEAD", 2)
    series = [entry(mr_series(), blobs) for _ in range(4)]
    reader = Gated(series[0].digests[0])
    shelf = ImageShelf(cast("Sandbox", reader))
    for one in series[:3]:
        shelf.warm(one, blobs)
    reader.gate.set()
    shelf._ahead.shutdown(wait=True)
    assert reader.calls == 2
