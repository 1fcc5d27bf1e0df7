from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase
from pipeline.store.blobs import BlobStore
from pipeline.store.json_values import header_json
from pipeline.web.shelf import ImageShelf, SeriesEntry, edges, series_entries
from tests.reading_room_cases import mr_series, protocol


def affine(d: tuple[float, ...], h: tuple[float, ...], w: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    made = np.eye(4)
    made[:3, 0], made[:3, 1], made[:3, 2] = d, h, w
    return made


@pytest.mark.parametrize(
    ("h", "w", "expected"),
    [
        ((0, 1, 0), (1, 0, 0), ("R", "L", "A", "P")),  # axial, radiological
        ((0, 1, 0), (-1, 0, 0), ("L", "R", "A", "P")),  # mirrored
        ((0, 0, -1), (1, 0, 0), ("R", "L", "H", "F")),  # coronal
        ((0, 0, -1), (0, 1, 0), ("A", "P", "H", "F")),  # sagittal
        ((0, 1, 0), (1, 0, 1), ("", "", "A", "P")),  # 45 degrees: no letter is honest
        ((0, 1, 0), (0, 0, 0), ("", "", "A", "P")),
    ],
)
def test_the_edges_name_patient_directions_in_lps(
    h: tuple[float, ...], w: tuple[float, ...], expected: tuple[str, ...]
) -> None:
    assert edges(affine((0, 0, 5), h, w)) == expected


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
