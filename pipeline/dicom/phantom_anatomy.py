"""The heads of phantom patients: the MNI152 template, individually deformed.

The anatomy is the ICBM 152 non-linear symmetric template (2009) that ships inside the nilearn package; it is read
from there at run time and is not part of this project. Its notice: Copyright (C) 1993-2004 Louis Collins, McConnell
Brain Imaging Centre, Montreal Neurological Institute, McGill University. Permission to use, copy, modify, and
distribute this software and its documentation for any purpose and without fee is hereby granted, provided that the
above copyright notice appear in all copies. The authors and McGill University make no representations about the
suitability of this software for any purpose. It is provided "as is" without express or implied warranty.

One average anatomy and one lesion model serve to test the pipeline and to show what uncertainty does; phantoms
support no clinical claim.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

TISSUES = ("white", "grey", "fluid", "bone", "soft")

_TEMPLATE_MM = 2.0
_SLICE_PROFILE_MM = 1.5  #: standard deviation of a 5 mm slice profile
_FLUID_MM, _BONE_MM, _SKIN_MM = 2.5, 8.0, 13.0  #: outer borders as distances from the brain
_WAVES = 14
_HEAD_CENTRE = np.array([0.0, -18.0, 16.0])  #: RAS mm, about which heads are scaled
_VENTRICLES = np.array([0.0, -14.0, 16.0])
_EYES = ((-33.0, 62.0, -38.0), (33.0, 62.0, -38.0))
_EYE_MM = 12.0


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on `key` alone, so that no phantom depends on the order of making."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@dataclass(frozen=True, eq=False)
class HeadTemplate:
    """Tissue fractions `tissues` (5, X, Y, Z) in the order of `TISSUES`; `affine` (4, 4) from index to RAS mm.

    `lesion_sites` (K, 3) are the RAS mm positions in deep white matter where a lesion may sit.
    """

    tissues: Array
    affine: NDArray[np.float64]
    lesion_sites: Array

    def to_index(self, points: Array) -> Array:
        """RAS mm (3, ...) to fractional template index (3, ...)."""
        origin = self.affine[:3, 3].astype(np.float32).reshape((3,) + (1,) * (points.ndim - 1))
        return (points - origin) / np.float32(_TEMPLATE_MM)

    def sample(self, image: Array, points: Array) -> Array:
        """`image` (X, Y, Z) interpolated linearly at RAS mm `points` (3, ...)."""
        return ndimage.map_coordinates(image, self.to_index(points), np.float32, order=1, mode="nearest")


@cache
def head_template() -> HeadTemplate:
    """The template with skull and scalp made around it, loaded once per process (some seconds)."""
    from nilearn import datasets  # noqa: PLC0415 - takes seconds to import

    brain_image = datasets.load_mni152_template(resolution=2)
    grey, white = (
        np.clip(np.asarray(load(resolution=2).dataobj, dtype=np.float32), 0, 1)
        for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    brain = ndimage.binary_fill_holes(np.asarray(brain_image.dataobj) > 0.05)
    affine = np.asarray(brain_image.affine, dtype=np.float64)
    tissues = _wrap_head(brain, grey, white, _millimetres(brain.shape, affine))
    blurred = ndimage.gaussian_filter1d(tissues, _SLICE_PROFILE_MM / _TEMPLATE_MM, axis=3)
    return HeadTemplate(np.ascontiguousarray(blurred), affine, _lesion_sites(brain, white, affine))


def _millimetres(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Array:
    grid = np.indices(shape, dtype=np.float32) * np.float32(_TEMPLATE_MM)
    return grid + affine[:3, 3].astype(np.float32)[:, None, None, None]


def _wrap_head(brain: NDArray[np.bool_], grey: Array, white: Array, place: Array) -> Array:
    from_brain = _distance(brain)
    silhouette = np.maximum.accumulate(brain[:, :, ::-1], axis=2)[:, :, ::-1]  # the face and neck below the brain
    skin = _within(_distance(silhouette), _SKIN_MM)
    inside, skull = _within(from_brain, _FLUID_MM), _within(from_brain, _BONE_MM)
    fluid = np.clip(inside - grey - white, 0, 1)
    grey, white, fluid = (tissue * inside / np.maximum(grey + white + fluid, 1e-3) for tissue in (grey, white, fluid))
    soft = skin * (1 - skull) * _muscle(brain.shape)
    for eye in _EYES:
        ball = _within(_distance_to(place, eye), _EYE_MM) * (1 - skull)
        fluid, soft = fluid + ball, soft * (1 - ball)
    soft *= 1 - _within(_distance_to(place, (0.0, 62.0, -52.0)) * 0.8, 14.0)  # the nasal cavity
    return np.stack([white, grey, fluid, np.clip(skull - inside, 0, 1), soft]).astype(np.float32)


def _distance(mask: NDArray[np.bool_]) -> Array:
    outside = ndimage.distance_transform_edt(~mask)
    return np.asarray(np.asarray(outside) * _TEMPLATE_MM, dtype=np.float32)


def _distance_to(place: Array, centre: tuple[float, float, float]) -> Array:
    offset = place - np.array(centre, dtype=np.float32)[:, None, None, None]
    return np.asarray(np.sqrt((offset**2).sum(axis=0)))


def _within(distance: Array, limit: float) -> Array:
    return np.asarray(np.clip((limit - distance) / _TEMPLATE_MM + 0.5, 0, 1), dtype=np.float32)


def _muscle(shape: tuple[int, ...]) -> Array:
    noise = ndimage.gaussian_filter(generator("muscle").standard_normal(shape).astype(np.float32), 2.0)
    return np.asarray(np.clip(0.75 + 0.22 * noise / noise.std(), 0.2, 1.3), dtype=np.float32)


def _lesion_sites(brain: NDArray[np.bool_], white: Array, affine: NDArray[np.float64]) -> Array:
    depth = np.asarray(ndimage.distance_transform_edt(brain)) * _TEMPLATE_MM
    index = np.argwhere((white > 0.6) & (depth > 8.0))
    place = index * _TEMPLATE_MM + affine[:3, 3]
    lateral = np.abs(place[:, 0]) > 12.0
    supratentorial = (place[:, 2] > -14.0) & (place[:, 2] < 58.0)
    return np.asarray(place[lateral & supratentorial], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """How one patient's head differs from the template: axis scales, smooth waves (mm) and ventricle size.

    `frequencies` (K, 3) are in radians per mm, `amplitudes` (K, 3) in mm, `phases` (K,) in radians.
    """

    scales: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    phases: NDArray[np.float64]
    amplitudes: NDArray[np.float64]
    ventricles: float

    def to_template(self, points: Array) -> Array:
        """Patient RAS mm (3, ...) to the template position (3, ...) whose tissue lies there."""
        flat = points.reshape(3, -1).astype(np.float64)
        angles = self.frequencies @ flat + self.phases[:, None]
        moved = (flat - _HEAD_CENTRE[:, None]) / self.scales[:, None] + _HEAD_CENTRE[:, None]
        moved += self.amplitudes.T @ np.cos(angles)
        moved -= self._ventricle_pull(moved)
        return np.asarray(moved.reshape(points.shape), dtype=np.float32)

    def _ventricle_pull(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        offset = place - _VENTRICLES[:, None]
        weight = np.exp(-((offset / np.array([[24.0], [40.0], [22.0]])) ** 2).sum(axis=0) / 2)
        return np.asarray(self.ventricles * weight * offset)


def draw_anatomy(rng: np.random.Generator, age: float) -> Anatomy:
    """A random head; ventricles widen with `age` in years."""
    direction = rng.standard_normal((_WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wavelength = rng.uniform(55.0, 150.0, _WAVES)
    return Anatomy(
        scales=rng.uniform(0.94, 1.05, 3),
        frequencies=direction * (2 * np.pi / wavelength)[:, None],
        phases=rng.uniform(0, 2 * np.pi, _WAVES),
        amplitudes=rng.standard_normal((_WAVES, 3)) * (wavelength / 150.0)[:, None] * 0.9,
        ventricles=float(np.clip(0.005 * (age - 45) + rng.normal(0, 0.08), -0.2, 0.4)),
    )
