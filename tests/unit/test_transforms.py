from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.resampling import canonical, resample
from models.transforms import augment, prepare
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase
from pipeline.protocol import Preprocessing

SPACING = (5.0, 2.0, 1.0)
#: Axial, coronal and sagittal stacks: the patient axis (0 L, 1 P, 2 S) and sign along (d, h, w).
STACKS = {
    "axial": ((2, 1), (1, 1), (0, 1)),
    "axial_from_above": ((2, -1), (1, 1), (0, 1)),
    "coronal": ((1, 1), (2, -1), (0, 1)),
    "sagittal": ((0, -1), (1, 1), (2, -1)),
}


def affine_of(axes: tuple[tuple[int, int], ...], spacing: tuple[float, ...] = SPACING) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for column, (axis, sign) in enumerate(axes):
        affine[axis, column] = sign * spacing[column]
    return affine


def axial(voxels: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(voxels.astype(np.float32), affine_of(STACKS["axial"], spacing))


def asking(
    size: tuple[int, int, int], spacing: tuple[float | None, ...] = (None, None, None), **more: object
) -> Preprocessing:
    return Preprocessing.model_validate({"spacing_mm": spacing, "size": size, **more})


@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_is_turned_to_axial_slices_without_interpolation(stack: str) -> None:
    axes = STACKS[stack]
    voxels = np.zeros((3, 4, 5), np.float32)
    voxels[1, 0, 3] = 1.0
    turned, spacing = canonical(Volume(voxels, affine_of(axes)))
    place_of = {axis: column for column, (axis, _) in enumerate(axes)}
    lengths, marked = (3, 4, 5), (1, 0, 3)
    expected_shape, expected_place, expected_spacing = [], [], []
    for axis in (2, 1, 0):  # slices to superior, rows to posterior, columns to left
        column = place_of[axis]
        sign = axes[column][1]
        expected_shape.append(lengths[column])
        expected_place.append(marked[column] if sign > 0 else lengths[column] - 1 - marked[column])
        expected_spacing.append(SPACING[column])
    assert turned.shape == tuple(expected_shape)
    assert tuple(int(i) for i in np.argwhere(turned)[0]) == tuple(expected_place)
    assert spacing == tuple(expected_spacing)


def test_an_oblique_stack_is_turned_to_its_nearest_axes() -> None:
    angle = np.deg2rad(30.0)
    affine = affine_of(STACKS["axial"], (1.0, 1.0, 1.0))
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    turned, _ = canonical(Volume(voxels, tilt @ affine))
    np.testing.assert_array_equal(turned, voxels)


@pytest.mark.parametrize("size", [(112, 64), (30, 41), (200, 300)])
def test_slices_are_resized_like_torchs_antialiased_interpolation(size: tuple[int, int]) -> None:
    voxels = np.random.default_rng(0).normal(size=(2, 97, 80)).astype(np.float32)
    grid, inside = resample(voxels, (1.0, 1.0, 1.0), (None, None, None), (2, *size))
    expected = functional.interpolate(torch.from_numpy(voxels)[None], size=size, mode="bilinear", antialias=True)
    assert torch.allclose(grid, expected[0], atol=1e-4)
    assert bool(inside.all())


def test_the_same_spacing_crops_around_the_centre() -> None:
    voxels = np.arange(6 * 8 * 10, dtype=np.float32).reshape(6, 8, 10)
    grid, inside = resample(voxels, (2.0, 1.0, 1.0), (2.0, 1.0, 1.0), (4, 4, 6))
    np.testing.assert_array_equal(grid.numpy(), voxels[1:5, 2:6, 2:8])
    assert bool(inside.all())


def test_twice_the_spacing_weighs_neighbours_by_a_widened_triangle() -> None:
    row = np.array([0.0, 0, 0, 1, 0, 0, 0, 0], np.float32)[None, None]
    grid, _ = resample(row, (1.0, 1.0, 1.0), (None, None, 2.0), (1, 1, 4))
    # Grid points lie at 0.5, 2.5, 4.5, 6.5; weights 1 - |distance| / 2, each row divided by its sum.
    np.testing.assert_allclose(grid[0, 0].numpy(), [0.0, 0.75 / 2, 0.25 / 2, 0.0], atol=1e-6)


def test_voxels_outside_the_volume_are_known_and_get_its_lowest_value() -> None:
    voxels = np.random.default_rng(1).uniform(10, 20, size=(4, 4, 4))
    _, inside = resample(voxels.astype(np.float32), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (4, 6, 4))
    assert inside.sum() == 64
    assert not inside[:, 0].any()
    assert not inside[:, 5].any()
    part = prepare(axial(voxels), asking((4, 6, 4), (1.0, 1.0, 1.0)), 3)
    assert bool((part[0, 0, :, 0] == part.min()).all())


def test_a_volume_is_one_part_and_its_slices_are_one_part_each() -> None:
    volume = axial(np.random.default_rng(2).uniform(size=(5, 20, 24)))
    whole = prepare(volume, asking((8, 16, 16)), 3)
    slices = prepare(volume, asking((1, 12, 14)), 2)
    assert (whole.shape, whole.dtype) == ((1, 1, 8, 16, 16), torch.float32)
    assert (slices.shape, slices.dtype) == ((5, 1, 12, 14), torch.float32)
    lone = prepare(axial(volume.voxels[2:3]), asking((1, 12, 14)), 2)
    torch.testing.assert_close(slices[2:3], lone)


def test_slices_stay_as_they_lie_for_two_dimensional_networks() -> None:
    voxels = np.random.default_rng(3).uniform(size=(3, 10, 12)).astype(np.float32)
    asked = asking((1, 10, 12))
    as_axial = prepare(axial(voxels), asked, 2)
    as_sagittal = prepare(Volume(voxels, affine_of(STACKS["sagittal"])), asked, 2)
    torch.testing.assert_close(as_axial, as_sagittal)


def test_foreground_has_mean_zero_and_deviation_one() -> None:
    voxels = np.zeros((1, 4, 4), np.float32)
    voxels[0, :2] = [[10, 12, 14, 16], [10, 12, 14, 16]]
    part = prepare(axial(voxels), asking((1, 4, 4), intensity_percentiles=(0, 100)), 2)[0, 0]
    deviation = np.std([10, 12, 14, 16])  # the foreground is what exceeds the mean, 6.5
    expected = (voxels[0] - 13.0) / deviation
    np.testing.assert_allclose(part.numpy(), expected, rtol=1e-6)


def test_gain_and_offset_of_the_scanner_change_nothing() -> None:
    voxels = np.random.default_rng(4).gamma(2.0, 100.0, size=(6, 20, 20))
    asked = asking((6, 16, 16))
    torch.testing.assert_close(
        prepare(axial(voxels), asked, 3), prepare(axial(3.7 * voxels + 50.0), asked, 3), atol=1e-4, rtol=1e-4
    )


def test_a_single_bright_voxel_is_clipped() -> None:
    voxels = np.random.default_rng(5).uniform(size=(1, 40, 40))
    asked = asking((1, 40, 40))
    plain = prepare(axial(voxels), asked, 2)
    voxels[0, 7, 7] = 1e6
    changed = (prepare(axial(voxels), asked, 2) - plain).abs()
    changed[0, 0, 7, 7] = 0.0
    assert float(changed.max()) < 0.1


@pytest.mark.parametrize("value", [0.0, 1.0, -1000.0, 4095.3])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_image_without_contrast_becomes_zeros(value: float, dimensions: int) -> None:
    size = (1, 8, 8) if dimensions == 2 else (4, 8, 8)
    part = prepare(axial(np.full((4, 9, 9), value)), asking(size), 2 if dimensions == 2 else 3)
    assert not part.any()


def test_an_image_of_two_values_stays_finite() -> None:
    voxels = np.zeros((1, 8, 8))
    voxels[0, 2:6, 2:6] = 1.0
    part = prepare(axial(voxels), asking((1, 8, 8)), 2)
    assert bool(torch.isfinite(part).all())
    assert float(part[0, 0, 4, 4]) == 0.0
    assert float(part[0, 0, 0, 0]) < -1.0


def test_a_volume_thinner_than_the_grids_step_is_deferred() -> None:
    with pytest.raises(DeferCase) as caught:
        prepare(axial(np.random.default_rng(6).uniform(size=(1, 9, 9))), asking((4, 9, 9), (7.0, 1.0, 1.0)), 3)
    assert caught.value.reason == "IRREGULAR_GEOMETRY"


@pytest.mark.parametrize("shape", [(6, 1, 20, 24), (4, 1, 8, 20, 24)])
def test_augmentation_follows_from_its_generator_and_moves_every_image(shape: tuple[int, ...]) -> None:
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    first = augment(batch, torch.Generator().manual_seed(5))
    assert first.shape == batch.shape
    assert torch.equal(first, augment(batch, torch.Generator().manual_seed(5)))
    other = augment(batch, torch.Generator().manual_seed(6))
    assert all(not torch.allclose(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("shape", [(64, 1, 33, 33), (64, 1, 9, 33, 33)])
def test_augmentation_mirrors_left_to_right_only_and_about_half_the_time(shape: tuple[int, ...]) -> None:
    batch = torch.zeros(shape)
    batch[..., :16, :10] = 1.0  # bright in front, on the patient's right
    out = augment(batch, torch.Generator().manual_seed(3))
    front, back = out[..., :12, :], out[..., 21:, :]
    assert bool((front.flatten(1).mean(1) > back.flatten(1).mean(1)).all())
    right = out[..., :9].flatten(1).mean(1) > out[..., -9:].flatten(1).mean(1)
    assert 16 <= int(right.sum()) <= 48
