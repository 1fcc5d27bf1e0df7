from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.web.reslicing import Course, Plane, edges, three_planes


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


AXIAL = affine((0, 0, 5), (0, 2, 0), (1, 0, 0))
SAGITTAL_LEFT_FIRST = affine((-4, 0, 0), (0, 0, -1), (0, 1, 0))
CORONAL_BACK_FIRST = affine((0, -3, 0), (0, 0, -1), (1, 0, 0))
PRONE_AXIAL = affine((0, 0, -5), (0, -1, 0), (-1, 0, 0))


def seen(plane: Plane, volume: np.ndarray[Any, np.dtype[np.int64]], k: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The image of a plane, cut by NumPy instead of the browser."""

    def run(course: Course) -> slice:
        return slice(None) if course.forwards else slice(None, None, -1)

    order = volume.transpose(plane.through.axis, plane.down.axis, plane.across.axis)
    turned = order[run(plane.through), run(plane.down), run(plane.across)]
    return turned[k]  # type: ignore[no-any-return]


@pytest.mark.parametrize("where", [AXIAL, SAGITTAL_LEFT_FIRST, CORONAL_BACK_FIRST, PRONE_AXIAL])
def test_cut_planes_are_turned_as_they_are_read_everywhere(where: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    shape = (3, 4, 5)
    index = np.indices(shape).reshape(3, -1)
    places = (where[:3, :3] @ index).reshape(3, *shape)  # the patient coordinates of every voxel
    acquired, *others = three_planes(where)
    assert (acquired.across.axis, acquired.down.axis, acquired.through.axis) == (2, 1, 0)
    assert {plane.name for plane in (acquired, *others)} == {"axial", "coronal", "sagittal"}
    wanted = {"axial": (0, 1, 1, 1), "coronal": (0, 1, 2, -1), "sagittal": (1, 1, 2, -1)}
    letters = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}
    for plane in others:
        across, right, down, below = wanted[plane.name]
        image = [seen(plane, places[axis], 0) for axis in range(3)]
        assert (np.diff(image[across], axis=1) * right > 0).all()
        assert (np.diff(image[down], axis=0) * below > 0).all()
        assert "".join(plane.edges) == letters[plane.name]


def test_a_volume_that_lies_between_two_directions_has_no_planes() -> None:
    assert three_planes(affine((0, 0, 1), (1, 0.9, 0), (1, -0.9, 0))) == ()
