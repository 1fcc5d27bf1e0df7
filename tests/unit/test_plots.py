import math

import pytest

from pipeline.domain.oversight_figures import share, summarise_waits
from pipeline.web.lead_plots import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Waits,
    bar_widths,
    nice_top,
    shares,
    stacked_columns,
    waiting_curves,
)


@pytest.mark.parametrize(("largest", "top"), [(0, 1), (1, 1), (3, 4), (7, 8), (10, 10), (11, 20), (55, 60), (101, 200)])
def test_an_axis_ends_at_the_next_round_number(largest, top):
    assert nice_top(largest) == top


def test_the_blocks_of_a_column_stand_on_each_other_and_have_the_height_of_their_counts():
    plot = stacked_columns(
        [("a", [1, 3]), ("b", [0, 2])], ["low", "high"], width=LEFT + RIGHT + 200, height=TOP + BOTTOM + 100
    )

    low, high, alone = plot.blocks
    assert (low.height, high.height, alone.height) == (25, 75, 50)  # an axis to 4 over 100 units
    assert low.y + low.height == plot.floor
    assert high.y + high.height == pytest.approx(low.y)
    assert high.y == TOP
    assert alone.x == LEFT + 100 + 12
    assert [tick.label for tick in plot.y_ticks] == ["0", "2", "4"]


def test_no_column_draws_nothing_and_fails_nothing():
    assert stacked_columns([], ["low"]).blocks == ()
    assert shares([]).whiskers == ()
    assert waiting_curves([]).curves == ()
    assert bar_widths([]) == ()
    assert bar_widths([0.0, 0.0]) == (0.0, 0.0)


def test_a_share_stands_between_the_ends_of_its_interval_and_one_of_nothing_is_not_drawn():
    plot = shares([("a", 0.5, 0.25, 0.75), ("b", None, None, None)], height=TOP + BOTTOM + 100)

    (whisker,) = plot.whiskers
    assert (whisker.y, whisker.low, whisker.high) == (TOP + 50, TOP + 75, TOP + 25)


def test_a_curve_of_waits_rises_by_one_step_an_item_and_its_limit_stands_at_its_minutes():
    width, height = LEFT + RIGHT + 100, TOP + BOTTOM + 100
    plot = waiting_curves([Waits(kind="p2", label="High", minutes=[60.0, 1.0], limit=60.0)], width=width, height=height)

    (curve,) = plot.curves
    end = LEFT + 100
    assert curve.path == f"M{LEFT} {TOP + 100}H{LEFT}V{TOP + 50}H{end}V{TOP}H{end}"
    assert curve.limit == end


def test_a_wait_of_ten_minutes_lies_at_the_logarithm_of_its_minutes():
    plot = waiting_curves([Waits(kind="p1", label="", minutes=[10.0], limit=60.0)], width=LEFT + RIGHT + 100)

    assert f"H{round(LEFT + 100 * math.log(10) / math.log(60), 1)}V" in plot.curves[0].path


def test_the_longest_bar_fills_its_width():
    assert bar_widths([5, 10, 0], width=200) == (100, 200, 0)


def test_the_99th_percentile_is_the_wait_that_99_of_100_do_not_exceed():
    found = summarise_waits([float(minutes) for minutes in range(1, 201)], still_open=3, over_limit=1)

    assert (found.n, found.mean, found.p99, found.longest) == (200, 100.5, 198, 200)
    assert summarise_waits([7.0], still_open=1, over_limit=0).p99 == 7
    assert summarise_waits([], still_open=0, over_limit=0).mean is None


def test_the_interval_of_a_share_is_wilsons():
    from scipy.stats import binomtest

    for part, n in ((0, 10), (3, 10), (10, 10), (37, 320)):
        found = share(part, n)
        wilson = binomtest(part, n).proportion_ci(method="wilson")
        assert found.low == pytest.approx(wilson.low, abs=1e-9)
        assert found.high == pytest.approx(wilson.high, abs=1e-9)
    assert share(0, 0).value is None
    with pytest.raises(ValueError, match="between"):
        share(3, 2)
