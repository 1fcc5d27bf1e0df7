"""Image acquisition of phantoms: a slice plan, what the scanner makes of the head, and what goes wrong in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.phantom_anatomy import Anatomy, Array, head_template
from pipeline.dicom.phantom_lesions import Lesion, paint, push_aside
from pipeline.dicom.phantom_scanners import Scanner

_COARSE = 5  #: voxels between the points at which the deformation is computed; linear in between
_CENTRE = np.array([0.0, 18.0, 16.0])  #: LPS mm, the middle of the head


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular grid (D, H, W) in LPS millimetres: `origin` (3,), `steps` (3, 3) whose columns step along d, h, w."""

    shape: tuple[int, int, int]
    origin: NDArray[np.float64]
    steps: NDArray[np.float64]

    @property
    def orientation(self) -> list[float]:
        """ImageOrientationPatient: direction of increasing column index, then of increasing row index."""
        columns = self.steps / np.linalg.norm(self.steps, axis=0)
        return [float(value) for value in (*columns[:, 2], *columns[:, 1])]

    def position(self, index: int) -> list[float]:
        """ImagePositionPatient of slice `index`, mm."""
        return [float(value) for value in self.origin + index * self.steps[:, 0]]

    def points(self, d: NDArray[np.float64], h: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
        """LPS mm (3, len(d), len(h), len(w)) at fractional indices along each axis."""
        steps = self.steps[:, :, None, None, None]
        along = steps[:, 0] * d[:, None, None] + steps[:, 1] * h[None, :, None] + steps[:, 2] * w[None, None, :]
        return np.asarray(along + self.origin[:, None, None, None])


@dataclass(frozen=True, eq=False)
class Acquisition:
    """Stored pixel values (D, H, W) of one series, from feet to head, and `lesion` the mask of its solid part."""

    scanner: Scanner
    geometry: Geometry
    pixels: NDArray[np.uint16]
    lesion: NDArray[np.bool_]


def plan_slices(scanner: Scanner, rng: np.random.Generator) -> Geometry:
    """Axial slices tilted as the scanner does, a little different each time."""
    turn = _rotation(scanner.tilt + rng.normal(0, 1.5), rng.normal(0, 1.0), rng.normal(0, 1.0))
    shape = (scanner.slices, scanner.matrix, scanner.matrix)
    return _centred(turn[:, ::-1], shape, (scanner.spacing, scanner.pixel, scanner.pixel))


def plan_scout() -> Geometry:
    """Three sagittal localizer slices, rows running down and columns to the back."""
    axes = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    return _centred(axes, (3, 64, 64), (20.0, 4.0, 4.0))


def _centred(axes: NDArray[np.float64], shape: tuple[int, int, int], mm: tuple[float, float, float]) -> Geometry:
    steps = axes * np.array(mm)
    return Geometry(shape, _CENTRE - steps @ ((np.array(shape) - 1) / 2), steps)


def _rotation(about_x: float, about_y: float, about_z: float) -> NDArray[np.float64]:
    turn = np.eye(3)
    for axis, degrees in enumerate((about_x, about_y, about_z)):
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        one, two = [(1, 2), (2, 0), (0, 1)][axis]
        plane = np.eye(3)
        plane[one, one], plane[two, two], plane[one, two], plane[two, one] = cosine, cosine, -sine, sine
        turn = plane @ turn
    return turn


@dataclass(frozen=True, eq=False)
class Pose:
    """How the head lies in the scanner: rotation (3, 3) and shift (3,), LPS mm."""

    turn: NDArray[np.float64]
    shift: NDArray[np.float64]


def draw_pose(rng: np.random.Generator) -> Pose:
    """A head laid down a little differently each time."""
    return Pose(_rotation(*rng.normal(0, 2.5, 3)), rng.normal(0, 3.0, 3))


def acquire(
    scanner: Scanner,
    geometry: Geometry,
    anatomy: Anatomy,
    lesion: Lesion | None,
    *,
    pose: Pose,
    rng: np.random.Generator,
    moving: bool = False,
) -> Acquisition:
    """The series that `scanner` makes of the head; with `moving`, ruined by motion during the acquisition."""
    place = _template_places(geometry, anatomy, pose)
    signal, mask = _ideal_signal(scanner, place, lesion, rng)
    signal *= _shading(geometry.shape, scanner.shading, rng)
    if moving:
        signal = ghost(signal, rng)
    return Acquisition(scanner, geometry, _digitise(scanner, _with_noise(scanner, signal, rng), rng), mask)


def _template_places(geometry: Geometry, anatomy: Anatomy, pose: Pose) -> Array:
    axes = [np.arange(geometry.shape[0], dtype=np.float64)]
    axes += [np.linspace(0, size - 1, (size - 1) // _COARSE + 2) for size in geometry.shape[1:]]
    lps = geometry.points(*axes).reshape(3, -1)
    head = pose.turn.T @ (lps - pose.shift[:, None] - _CENTRE[:, None]) + _CENTRE[:, None]
    ras = (head * np.array([[-1.0], [-1.0], [1.0]])).astype(np.float32)
    coarse = anatomy.to_template(ras).reshape((3, *(len(axis) for axis in axes)))
    rows, columns = (_interpolation(axis, size) for axis, size in zip(axes[1:], geometry.shape[1:], strict=True))
    return np.ascontiguousarray(rows @ coarse @ columns.T, dtype=np.float32)


def _interpolation(axis: NDArray[np.float64], size: int) -> Array:
    units = np.eye(len(axis))
    return np.stack([np.interp(np.arange(size), axis, unit) for unit in units], axis=1).astype(np.float32)


def _ideal_signal(
    scanner: Scanner, place: Array, lesion: Lesion | None, rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    template = head_template()
    weights = (np.array(scanner.signals) * rng.normal(1.0, 0.03, 5)).astype(np.float32)
    if scanner.modality == "CT":
        weights = np.array(scanner.signals, dtype=np.float32)
    image = np.tensordot(weights, template.tissues, axes=1)
    if lesion is None:
        return template.sample(image, place), np.zeros(place.shape[1:], dtype=np.bool_)
    signal = template.sample(image, push_aside(lesion, place))
    return signal, paint(lesion, template, signal, place, solid=scanner.tumour, oedema=scanner.oedema)


def _shading(shape: tuple[int, int, int], strength: float, rng: np.random.Generator) -> Array:
    field = np.zeros(shape, dtype=np.float32)
    for axis, size in enumerate(shape):
        along = np.linspace(-1, 1, size)
        curve = rng.normal(0, strength) * along + rng.normal(0, strength) * (along**2 - 1 / 3)
        field += curve.astype(np.float32).reshape([-1 if axis == other else 1 for other in range(3)])
    return np.asarray(np.exp(field))


def ghost(signal: Array, rng: np.random.Generator) -> Array:
    """`signal` (D, H, W) (rows along h) as a patient leaves it who nods at every breath and moves on half way."""
    size = signal.shape[1]
    lines = np.arange(size)
    nod = 5.0 * np.sin(2 * np.pi * lines / rng.uniform(3.2, 4.8) + rng.uniform(0, 6))
    nod += np.where(lines > rng.integers(size // 3, size // 2), rng.choice([-6.0, 6.0]), 0.0)
    nod += rng.normal(0, 1.5, size)
    phase = np.exp(-2j * np.pi * np.fft.fftshift(np.fft.fftfreq(size)) * nod)
    spectrum = np.fft.fftshift(np.fft.fft(signal, axis=1), axes=1) * phase[:, None]
    moved = np.abs(np.fft.ifft(np.fft.ifftshift(spectrum, axes=1), axis=1))
    return moved.astype(np.float32)


def _with_noise(scanner: Scanner, signal: Array, rng: np.random.Generator) -> Array:
    real = signal + np.float32(scanner.noise) * rng.standard_normal(signal.shape, dtype=np.float32)
    if scanner.modality == "CT":
        return real
    imaginary = np.float32(scanner.noise) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.asarray(np.hypot(real, imaginary))


def _digitise(scanner: Scanner, signal: Array, rng: np.random.Generator) -> NDArray[np.uint16]:
    gain = scanner.gain * (1.0 if scanner.modality == "CT" else rng.uniform(0.8, 1.25))
    stored = np.rint(signal * np.float32(gain / (scanner.slope or 1.0)))
    return np.asarray(np.clip(stored, 0, 2**scanner.bits_stored - 1), dtype=np.uint16)


def knee(scanner: Scanner, rng: np.random.Generator) -> Acquisition:
    """A leg through the knee, made of ellipses: an axial series of another body part from the same scanner."""
    geometry = plan_slices(replace(scanner, tilt=0.0), rng)
    axes = [np.linspace(-1, 1, size) for size in geometry.shape]
    d, h, w = np.meshgrid(*axes, indexing="ij", sparse=True)
    width = rng.uniform(0.5, 0.6)
    leg = np.hypot(h / (width * 1.05), w / width)
    signal: NDArray[np.float64] = np.select([leg < 0.82, leg < 1.0], [0.30, 0.85], 0.0) * np.ones(geometry.shape)
    for side in (-1.0, 1.0):
        bone = np.hypot(h + 0.08, w - side * 0.19 * (1 - 0.5 * np.abs(d))) / (0.16 + 0.06 * np.exp(-8 * d**2))
        signal = np.select([bone < 0.85, bone < 1.0], [0.72, 0.05], signal)
    patella = np.hypot((h + 0.42) / 0.6, w) / np.maximum(0.17 - 0.25 * np.abs(d - 0.2), 0.01)
    ideal = np.where(patella < 1.0, 0.68, signal).astype(np.float32)
    ideal *= _shading(geometry.shape, scanner.shading, rng)
    pixels = _digitise(scanner, _with_noise(scanner, ideal, rng), rng)
    return Acquisition(scanner, geometry, pixels, np.zeros(geometry.shape, dtype=np.bool_))
