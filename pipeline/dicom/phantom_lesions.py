"""Lesions of phantom patients, graded by conspicuity from unmistakable down to truly ambiguous.

A faint lesion of a patient without tumour (a mimic) is drawn by the same rule as a tumour of that conspicuity, so that
no reader, human or network, can tell the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.phantom_anatomy import Array, HeadTemplate

_RIM_FROM = 0.45  #: conspicuity from which a lesion has a bright rim and a darker core
_WAVES = 6


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion at `centre` (3,), RAS mm of the template; lengths in mm, strengths as opacity 0 to 1.

    `frequencies` (K, 3), radians per mm, and `phases` (K,) make the outline irregular by the share `irregularity`.
    """

    conspicuity: float
    centre: Array
    radius: float
    opacity: float
    oedema: float
    oedema_reach: float
    rim: float
    irregularity: float
    frequencies: Array
    phases: Array


def draw_lesion(rng: np.random.Generator, template: HeadTemplate, conspicuity: float) -> Lesion:
    """A random lesion whose size, contrast, oedema and rim grow with `conspicuity` in (0, 1]."""
    radius = (9.0 + 16.0 * conspicuity) * rng.uniform(0.9, 1.1)
    direction = rng.standard_normal((_WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return Lesion(
        conspicuity=conspicuity,
        centre=template.lesion_sites[rng.integers(len(template.lesion_sites))],
        radius=radius,
        opacity=float(min(0.98, (0.14 + 1.2 * conspicuity**0.8) * rng.uniform(0.92, 1.08))),
        oedema=min(0.65, 0.9 * conspicuity),
        oedema_reach=radius * (1.0 + 0.8 * conspicuity),
        rim=max(0.0, conspicuity - _RIM_FROM) * 0.6,
        irregularity=rng.uniform(0.12, 0.26),
        frequencies=(direction * (2 * np.pi / (radius * rng.uniform(1.5, 3.4, (_WAVES, 1))))).astype(np.float32),
        phases=rng.uniform(0, 2 * np.pi, _WAVES).astype(np.float32),
    )


def push_aside(lesion: Lesion, place: Array) -> Array:
    """Template positions `place` (3, ...) with the lesion's mass effect: tissue is pressed away from its centre."""
    offset = place - _column(lesion.centre, place.ndim)
    width = 1.3 * lesion.radius + 8.0
    weight = np.exp(-(offset**2).sum(axis=0) / (2 * width**2))
    return np.asarray(place - 0.3 * lesion.conspicuity * weight * offset, dtype=np.float32)


def paint(
    lesion: Lesion, template: HeadTemplate, signal: Array, place: Array, *, solid: float, oedema: float
) -> NDArray[np.bool_]:
    """Paint the lesion into `signal` (D, H, W) in place, given the template RAS mm `place` (3, D, H, W) of each voxel.

    `solid` and `oedema` are the signals of tumour tissue and of oedema. Returns the mask of the solid part.
    """
    offset = place - _column(lesion.centre, place.ndim)
    squared = (offset**2).sum(axis=0)
    near = squared < (1.6 * lesion.oedema_reach) ** 2
    distance = np.sqrt(squared[near]) * _outline(lesion, offset[:, near])
    tissue = [template.sample(template.tissues[index], place[:, near]) for index in (0, 1, 2)]
    brain, white = np.clip(sum(tissue), 0, 1), np.clip(tissue[0], 0, 1)
    inside = _ramp(lesion.radius - distance, 2.0) * brain
    around = _ramp(lesion.oedema_reach - distance, 3.0) * white * lesion.oedema
    shell = np.exp(-(((distance - 0.85 * lesion.radius) / (0.14 * lesion.radius)) ** 2))
    core = _ramp(0.6 * lesion.radius - distance, 2.5)
    tumour = solid * (1 + lesion.rim * (0.7 * shell - core))
    values = signal[near]
    values += around * (oedema - values)
    values += inside * lesion.opacity * (tumour - values)
    signal[near] = values
    mask = np.zeros(signal.shape, dtype=np.bool_)
    mask[near] = inside > 0.5
    return mask


def _outline(lesion: Lesion, offset: Array) -> Array:
    waves = np.cos(lesion.frequencies @ offset + lesion.phases[:, None]).sum(axis=0)
    return np.asarray(np.clip(1 + lesion.irregularity * waves * np.sqrt(2 / _WAVES), 0.6, 1.5), dtype=np.float32)


def _ramp(depth: Array, width: float) -> Array:
    return np.asarray(np.clip(depth / width + 0.5, 0, 1))


def _column(vector: Array, ndim: int) -> Array:
    return vector.reshape((3,) + (1,) * (ndim - 1))
