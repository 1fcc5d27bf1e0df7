import numpy as np
import pytest

from pipeline.dicom.rendering import display_values
from pipeline.domain.volume import Volume


def volume(voxels):
    return Volume(np.asarray(voxels, dtype=np.float32), np.eye(4))


def intensities(shown):
    return shown.slope * shown.values.astype(np.float64) + shown.intercept


def test_whole_intensities_come_back_exactly_negative_ones_too():
    voxels = [[[-1000, -998], [0, 3071]]]
    shown = display_values(volume(voxels))
    assert shown.slope == 1.0
    assert shown.values.dtype == np.uint16
    assert intensities(shown).tolist() == voxels


def test_fractions_come_back_within_half_a_step_of_the_range():
    voxels = np.random.default_rng(0).uniform(-3, 7, (3, 5, 7))
    shown = display_values(volume(voxels))
    assert shown.values.shape == (3, 5, 7)
    assert np.abs(intensities(shown) - voxels.astype(np.float32)).max() <= shown.slope / 2 + 1e-9
    assert shown.slope == pytest.approx(np.ptp(voxels) / 65535, rel=1e-6)


def test_whole_intensities_beyond_sixteen_bits_use_every_step():
    shown = display_values(volume([[[0, 131070]]]))
    assert (shown.slope, shown.values.tolist()) == (2.0, [[[0, 65535]]])


def test_order_of_brightness_slices_rows_and_columns_is_kept():
    voxels = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(display_values(volume(voxels)).values, voxels)


def test_the_default_window_spans_the_named_percentiles():
    shown = display_values(volume(np.arange(1001).reshape(1, 7, 143)))
    assert shown.window_centre - shown.window_width / 2 == pytest.approx(10.0)
    assert shown.window_centre + shown.window_width / 2 == pytest.approx(995.0)


def test_a_constant_volume_is_shown_without_dividing_by_zero():
    shown = display_values(volume(np.full((1, 4, 4), 7)))
    assert intensities(shown).tolist() == np.full((1, 4, 4), 7).tolist()
    assert shown.window_width > 0
