"""How the three anatomical planes are cut from a volume: which of its axes run across, down and through each of them.

Cut planes are turned as they are read everywhere: the patient's right on the left of axial and coronal images, the face
on the left of sagittal ones, the head at the top. The acquired plane stays as it was acquired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NAMES: Final = ("sagittal", "coronal", "axial")  #: by the patient axis through the plane
_ACROSS: Final = ((1, 1), (0, 1), (0, 1))  #: patient axis and direction from left to right, LPS
_DOWN: Final = ((2, -1), (2, -1), (1, 1))  #: and from top to bottom
_DIRECTIONS: Final = (("R", "L"), ("A", "P"), ("F", "H"))  #: towards lower and higher x, y, z of the LPS frame
_OBLIQUE: Final = 0.8  #: least cosine for an edge to carry one letter


@dataclass(frozen=True, kw_only=True)
class Course:
    """One axis (0 slices, 1 rows, 2 columns) of a volume, run along from its start or from its end."""

    axis: int
    forwards: bool


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One way to look through a volume; `edges` are the letters at the left, right, top and bottom edge."""

    name: str
    across: Course
    down: Course
    through: Course
    edges: tuple[str, str, str, str]


def three_planes(affine: NDArray[np.float64]) -> tuple[Plane, ...]:
    """The acquired plane and the two others; none where two axes of the volume lie nearest the same patient axis."""
    nearest = [int(np.argmax(np.abs(affine[:3, axis]))) for axis in range(3)]
    if sorted(nearest) != [0, 1, 2]:
        return ()
    acquired = Plane(
        name=_NAMES[nearest[0]],
        across=Course(axis=2, forwards=True),
        down=Course(axis=1, forwards=True),
        through=Course(axis=0, forwards=True),
        edges=edges(affine),
    )
    others = (_cut(affine, nearest, through) for through in (2, 1, 0) if through != nearest[0])
    return (acquired, *others)


def _cut(affine: NDArray[np.float64], nearest: list[int], through: int) -> Plane:
    across, down = _course(affine, nearest, *_ACROSS[through]), _course(affine, nearest, *_DOWN[through])
    return Plane(
        name=_NAMES[through],
        across=across,
        down=down,
        through=_course(affine, nearest, through, 1),
        edges=(*_letters(_step(affine, across)), *_letters(_step(affine, down))),
    )


def _course(affine: NDArray[np.float64], nearest: list[int], patient: int, direction: int) -> Course:
    axis = nearest.index(patient)
    return Course(axis=axis, forwards=bool(affine[patient, axis] * direction > 0))


def _step(affine: NDArray[np.float64], course: Course) -> NDArray[np.float64]:
    step: NDArray[np.float64] = affine[:3, course.axis] * (1 if course.forwards else -1)
    return step


def edges(affine: NDArray[np.float64]) -> tuple[str, str, str, str]:
    """The patient directions at the left, right, top and bottom edge of a slice drawn with rows downwards (LPS)."""
    return (*_letters(affine[:3, 2]), *_letters(affine[:3, 1]))


def _letters(step: NDArray[np.float64]) -> tuple[str, str]:
    """Letters at the start and the end of a direction; empty where it is oblique."""
    length = float(np.linalg.norm(step))
    axis = int(np.argmax(np.abs(step)))
    if not length or abs(step[axis]) < _OBLIQUE * length:
        return "", ""
    lower, higher = _DIRECTIONS[axis]
    return (lower, higher) if step[axis] > 0 else (higher, lower)
