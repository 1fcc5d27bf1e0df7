from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from pipeline.domain.case import Reason
from pipeline.domain.image_statistics import PIXEL_STATISTICS, intensity_histogram, pixel_statistics
from pipeline.domain.novelty import Detector, NoveltyReference
from pipeline.errors import DeferCase, HaltPipeline


def rows(n: int, seed: int, width: int = 6, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return generator.normal(size=(n, width)) @ mixing + shift


@pytest.fixture(scope="module")
def reference() -> NoveltyReference:
    return NoveltyReference.fit(
        {"histogram": rows(200, 0), "features": rows(200, 1, 12)},
        {"histogram": rows(60, 2), "features": rows(60, 3, 12)},
    )


def case(seed: int, parts: int = 1, shift: float = 0.0) -> dict[str, np.ndarray]:
    return {"histogram": rows(parts, seed), "features": rows(parts, seed + 1, 12, shift)}


def ranked(*held_out: float) -> Detector:
    return Detector(np.zeros((1, 1)), np.eye(1), np.array(held_out))


def test_distances_are_those_of_scikit_learn() -> None:
    train, held = rows(200, 0), rows(60, 2)
    fitted = NoveltyReference.fit({"a": train}, {"a": held}).detectors["a"]
    np.testing.assert_allclose(fitted.distances(held) ** 2, LedoitWolf().fit(train).mahalanobis(held), rtol=1e-8)
    np.testing.assert_allclose(fitted.held_out, np.sort(fitted.distances(held)))


@pytest.mark.parametrize(("distance", "p"), [(0.5, 1.0), (1.0, 1.0), (1.5, 0.8), (3.0, 0.6), (3.5, 0.4), (4.0, 0.4)])
def test_a_p_value_is_the_share_at_least_as_far_with_the_case_itself(distance: float, p: float) -> None:
    assert ranked(1.0, 2.0, 3.0, 4.0).p_value(distance) == pytest.approx(p)


def test_ties_count_as_at_least_as_far() -> None:
    assert ranked(1.0, 2.0, 2.0, 2.0, 9.0).p_value(2.0) == pytest.approx(5 / 6)


def test_beyond_the_farthest_the_p_value_goes_on_falling() -> None:
    # Mean excess of the two farthest over the third: (3 + 5) / 2 - 2 = 2.
    detector = ranked(1.0, 2.0, 3.0, 5.0)
    assert detector.p_value(5.0) == pytest.approx(0.4)
    assert detector.p_value(5.0 + 1e-9) == pytest.approx(0.2)
    assert detector.p_value(7.0) == pytest.approx(0.2 * math.exp(-1))
    assert 0.0 <= detector.p_value(1e9) < 1e-9


def test_held_out_distances_without_spread_leave_no_tail() -> None:
    assert ranked(2.0, 2.0, 2.0).p_value(2.1) == 0.0


def test_p_values_never_rise_with_distance() -> None:
    detector = Detector(np.zeros((1, 1)), np.eye(1), np.sort(np.random.default_rng(0).gamma(3, size=80)))
    found = [detector.p_value(d) for d in np.linspace(0, 30, 500)]
    assert (np.diff(found) <= 0).all()
    assert all(0.0 <= p <= 1.0 for p in found)


def test_a_familiar_study_is_not_novel(reference: NoveltyReference) -> None:
    found = reference.p_values(case(10), level=0.02)
    assert found.combined > 0.02
    assert found.fired == ()
    assert [name for name, _ in found.p_values] == ["features", "histogram"]


def test_a_shifted_study_is_novel_and_names_the_detector(reference: NoveltyReference) -> None:
    found = reference.p_values(case(10, shift=30.0), level=0.02)
    assert found.combined < 0.001
    assert found.fired == ("features",)


def test_the_combination_is_the_rank_of_the_smallest_p_value_among_those_of_held_out_studies() -> None:
    """Three held-out studies: at 1, 2, 3 under one detector and 3, 1, 2 under the other; a fourth at 9 and 0."""
    held = {"a.value": np.array([[1.0], [2.0], [3.0], [9.0]]), "b.value": np.array([[3.0], [1.0], [2.0], [0.0]])}
    found = NoveltyReference.fit({}, held)
    assert found.together[0] == pytest.approx(-math.log(3 / 4))  # the second study: two of three others as far
    beyond = math.exp(-(3 - 2) / 1.5) / 4  # the first: beyond 0, 1 and 2, whose two farthest exceed the third by 1.5
    assert np.abs(found.together + math.log(beyond)).min() < 1e-12
    smallest = found.p_values({"a.value": [[0.5]], "b.value": [[2.5]]})
    assert min(p for _, p in smallest.p_values) == pytest.approx(0.4)
    assert smallest.combined == pytest.approx((1 + sum(s >= -math.log(0.4) for s in found.together)) / 5)


def test_detectors_that_say_the_same_cost_nothing() -> None:
    train, held = rows(300, 0), rows(80, 2)
    alone = NoveltyReference.fit({"a": train}, {"a": held})
    thrice = NoveltyReference.fit({"a": train, "b": train, "c": train}, {"a": held, "b": held, "c": held})
    for seed in range(20):
        part = rows(1, 50 + seed, shift=seed / 3)
        assert thrice.p_values({"a": part, "b": part, "c": part}).combined == pytest.approx(
            alone.p_values({"a": part}).combined
        )


@pytest.mark.parametrize("kind", ["direction", "neighbours"])
def test_features_of_unit_length_do_not_see_their_scale_and_plain_distances_do(kind: str) -> None:
    train, held = 5 + rows(200, 0), 5 + rows(60, 2)
    found = NoveltyReference.fit({"a": train, f"a.{kind}": train}, {"a": held, f"a.{kind}": held})
    louder = dict(found.p_values({"a": 40 * held[:1], f"a.{kind}": 40 * held[:1]}).p_values)
    same = dict(found.p_values({"a": held[:1], f"a.{kind}": held[:1]}).p_values)
    assert louder[f"a.{kind}"] == pytest.approx(same[f"a.{kind}"])
    assert louder["a"] < 1e-3 < same["a"]


def test_with_classes_the_distance_is_to_the_nearest_class_mean() -> None:
    """Two far classes: between them is strange only where the classes are known."""
    classes = np.arange(200) % 2
    train = rows(200, 0) + 60.0 * classes[:, None]
    held = rows(60, 2) + 60.0 * (np.arange(60) % 2)[:, None]
    between = {"a": rows(1, 5, shift=30.0)}
    assert NoveltyReference.fit({"a": train}, {"a": held}, train_labels=classes).p_values(between).combined < 0.01
    assert NoveltyReference.fit({"a": train}, {"a": held}).p_values(between).combined > 0.2


def test_the_tenth_neighbour_is_what_scikit_learn_finds() -> None:
    train, held = rows(300, 0), rows(60, 2)
    found = NoveltyReference.fit({"a.neighbours": train}, {"a.neighbours": held}).detectors["a.neighbours"]
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    there = held / np.linalg.norm(held, axis=1, keepdims=True)
    distances, _ = NearestNeighbors(n_neighbors=10).fit(unit).kneighbors(there)
    np.testing.assert_allclose(found.distances(held), distances[:, -1], atol=1e-7)


def test_pixel_statistics_are_free_of_gain_and_offset_and_see_what_is_wrong() -> None:
    image = np.random.default_rng(0).gamma(2, size=(24, 24))
    image[:4] = 0.0
    plain = pixel_statistics(image)
    assert plain.shape == (len(PIXEL_STATISTICS),)
    np.testing.assert_allclose(pixel_statistics(image * 512 + 9), plain, atol=1e-9)
    named = dict(zip(PIXEL_STATISTICS, pixel_statistics(np.minimum(image, 1.0)), strict=True))
    assert named["at_maximum"] > 0.4
    smooth = dict(zip(PIXEL_STATISTICS, pixel_statistics(gaussian_filter(image, 3)), strict=True))
    assert smooth["sharpness"] < 0.2 * dict(zip(PIXEL_STATISTICS, plain, strict=True))["sharpness"]


def test_pixel_statistics_of_a_constant_image_are_finite() -> None:
    assert np.isfinite(pixel_statistics(np.full((8, 8), 3.0))).all()


def test_nothing_but_training_and_held_out_familiar_images_can_be_given() -> None:
    assert set(inspect.signature(NoveltyReference.fit).parameters) == {
        "train",
        "held_out",
        "held_out_cases",
        "train_labels",
    }


def test_a_detector_fires_exactly_when_it_alone_would_make_the_study_novel(reference: NoveltyReference) -> None:
    for seed in range(40):
        shown = reference.p_values(case(seed, shift=seed / 4), level=0.05)
        assert bool(shown.fired) == (shown.combined <= 0.05)


def test_a_study_is_as_far_as_the_median_of_its_parts(reference: NoveltyReference) -> None:
    parts = case(12, parts=5)
    parts["features"][0] += 1000.0
    parts["features"][1] -= 1000.0
    middle = np.median(reference.detectors["features"].distances(parts["features"]))
    found = dict(reference.p_values(parts).p_values)
    assert found["features"] == reference.detectors["features"].p_value(float(middle))
    assert found["features"] > 0.001


def test_held_out_parts_can_be_held_as_cases() -> None:
    train, held = {"a": rows(100, 0)}, {"a": rows(40, 1)}
    cases = [f"case{i // 4}" for i in range(40)]
    parts, whole = NoveltyReference.fit(train, held), NoveltyReference.fit(train, held, held_out_cases=cases)
    distances = parts.detectors["a"].distances(held["a"])
    assert len(whole.detectors["a"].held_out) == 10
    np.testing.assert_allclose(
        whole.detectors["a"].held_out, np.sort([np.median(distances[i : i + 4]) for i in range(0, 40, 4)])
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_defer_the_case(reference: NoveltyReference, bad: float) -> None:
    parts = case(10, parts=3)
    parts["features"][1, 2] = bad
    with pytest.raises(DeferCase) as caught:
        reference.p_values(parts)
    assert caught.value.reason == Reason.UNCERTAINTY_INVALID


def test_features_of_another_network_defer_the_case(reference: NoveltyReference) -> None:
    for parts in (
        {"histogram": rows(1, 0)},
        {**case(0), "more": rows(1, 0)},
        {**case(0), "features": rows(1, 0, 5)},
        {**case(0), "features": np.zeros((0, 12))},
        {**case(0), "features": np.zeros(12)},
    ):
        with pytest.raises(DeferCase):
            reference.p_values(parts)


def test_a_reference_survives_as_plain_arrays(reference: NoveltyReference) -> None:
    arrays = reference.to_arrays()
    assert all(a.dtype == np.float64 for a in arrays.values())
    names = [f"{n}.{p}" for n in ("features", "histogram") for p in ("centres", "precision", "held_out")]
    assert sorted(arrays) == sorted([*names, "together"])
    again = NoveltyReference.from_arrays(arrays)
    assert again.p_values(case(5), 0.02) == reference.p_values(case(5), 0.02)


def test_arrays_that_form_no_reference_are_refused(reference: NoveltyReference) -> None:
    arrays = reference.to_arrays()
    for broken in (
        {},
        {k: v for k, v in arrays.items() if k != "features.centres"},
        {k: v for k, v in arrays.items() if k != "together"},
        {**arrays, "together": arrays["together"][1:]},
        {**arrays, "together": arrays["together"][::-1]},
        {**arrays, "stray": np.zeros(3)},
        {**arrays, "features.centres": np.zeros((1, 3))},
        {**arrays, "features.precision": np.full((12, 12), np.nan)},
        {**arrays, "features.held_out": arrays["features.held_out"][::-1]},
        {**arrays, "features.held_out": np.zeros(0)},
    ):
        with pytest.raises(HaltPipeline, match="novelty reference"):
            NoveltyReference.from_arrays(broken)


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ({}, {}),
        ({"a": rows(9, 0)}, {"b": rows(9, 0)}),
        ({"a": rows(2, 0)}, {"a": rows(9, 0)}),
        ({"a": rows(9, 0)}, {"a": rows(2, 0)}),
        ({"a": rows(9, 0)}, {"a": rows(9, 0, 5)}),
        ({"a": rows(9, 0)}, {"a": np.full((9, 6), np.nan)}),
        ({"a": np.ones((9, 6))}, {"a": rows(9, 0)}),
    ],
)
def test_features_that_cannot_carry_a_detector_are_refused(
    train: dict[str, np.ndarray], held: dict[str, np.ndarray]
) -> None:
    with pytest.raises(HaltPipeline, match="novelty"):
        NoveltyReference.fit(train, held)


def test_more_features_than_cases_still_make_a_detector() -> None:
    found = NoveltyReference.fit({"a": rows(20, 0, 200)}, {"a": rows(20, 1, 200)})
    assert found.p_values({"a": rows(1, 2, 200, shift=100.0)}).combined < 0.05


def test_the_histogram_is_of_unit_length_and_free_of_unit_and_offset() -> None:
    voxels = np.random.default_rng(0).gamma(2, size=(4, 20, 20))
    found = intensity_histogram(voxels)
    assert found.shape == (32,)
    assert (found**2).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(intensity_histogram(voxels * 1024 - 7), found)


def test_the_histogram_shows_inversion_noise_and_lack_of_contrast() -> None:
    voxels = np.random.default_rng(0).gamma(2, size=(4, 20, 20))
    plain = intensity_histogram(voxels)
    for other in (-voxels, np.random.default_rng(1).random(voxels.shape), np.full(voxels.shape, 3.0)):
        assert np.linalg.norm(intensity_histogram(other) - plain) > 0.3
    assert intensity_histogram(np.full(8, 3.0))[0] == 1.0


def test_a_few_wild_voxels_hardly_move_the_histogram() -> None:
    voxels = np.random.default_rng(0).gamma(2, size=(10, 20, 20))
    wild = voxels.copy()
    wild[0, 0, :10] = 1e6
    assert np.linalg.norm(intensity_histogram(wild) - intensity_histogram(voxels)) < 0.06
