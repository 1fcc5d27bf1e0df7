from __future__ import annotations

from datetime import date
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from models.feature_watch import DEPTHS
from models.looks import look
from models.networks import build_network
from models.novelty_features import case_features
from models.predictor import ReleasePredictor
from models.sampling import Ensemble
from models.summary import summarise
from models.transforms import prepare
from pipeline.domain.evidence import Policy
from pipeline.domain.novelty import NoveltyReference
from pipeline.domain.stopping import Stop
from pipeline.domain.uncertainty import PosteriorSamples
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase
from pipeline.protocol import TriageProtocol, load_protocol

AXIAL = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def protocol_of(dimensions: int = 2) -> TriageProtocol:
    shipped = load_protocol("brain-tumour-slice").model_dump(mode="json")
    shipped["network"] |= {
        "name": "DenseNet",
        "dimensions": dimensions,
        "arguments": {"init_features": 4, "growth_rate": 4, "block_config": [1, 2]},
        "members": 2,
        "passes": 4,
    }
    shipped["preprocessing"] = {
        "spacing_mm": [None, None, None],
        "size": [1 if dimensions == 2 else 16, 24, 24],
    }
    return TriageProtocol.model_validate(shipped)


def volume_of(seed: int, slices: int = 3) -> Volume:
    voxels = np.random.default_rng(seed).gamma(2.0, 50.0, size=(slices, 30, 30)).astype(np.float32)
    return Volume(voxels, AXIAL)


def predictor_of(dimensions: int = 2) -> ReleasePredictor:
    protocol = protocol_of(dimensions)
    torch.manual_seed(0)
    ensemble = Ensemble([build_network(protocol) for _ in range(2)], 4)
    parts = [prepare(volume_of(seed), protocol.preprocessing, protocol.network.dimensions) for seed in range(16)]
    train = [case_features(ensemble, one) for one in parts[:8]]
    held = [look(ensemble, one, f"held {i}").features for i, one in enumerate(parts[8:])]
    novelty = NoveltyReference.fit(
        {name: np.concatenate([row[name] for row in train]) for name in train[0]},
        {name: np.concatenate([row[name] for row in held]) for name in held[0]},
    )
    policy = Policy(
        release_digest="d" * 64,
        protocol_digest=protocol.digest,
        members=2,
        passes=4,
        routine_below=None,
        priority_above=None,
        mutual_information_limit=1.0,
        novelty_level=0.05,
        certificate_expires=date(2027, 1, 1),
        sampling="fixed",
    )
    release: Any = SimpleNamespace(
        digest="d" * 64, protocol=protocol, temperature=0.5, policy=policy, novelty=novelty, stopping=None
    )
    return ReleasePredictor(release, ensemble)


def samples_by_hand() -> PosteriorSamples:
    """Two members, two passes, one part, three classes."""
    p = np.array([[[0.6, 0.3, 0.1], [0.4, 0.5, 0.1]], [[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]])
    return PosteriorSamples(np.log(p)[:, :, None, :])


def test_the_summary_pools_first_and_then_applies_one_temperature() -> None:
    found = summarise(samples_by_hand(), 0.5, protocol_of(), stop=Stop.BUDGET)
    pooled = np.array([0.35, 0.55, 0.10])  # means over members and passes
    squared = pooled**2  # a temperature of one half squares and renormalises
    np.testing.assert_allclose(found.probabilities, squared / squared.sum(), rtol=1e-12)
    assert found.route_score == pytest.approx(0.3025 / (0.1225 + 0.3025 + 0.01))
    first, second = np.array([0.5, 0.4, 0.1]) ** 2, np.array([0.2, 0.7, 0.1]) ** 2
    np.testing.assert_allclose(found.member_scores, [first[1] / first.sum(), second[1] / second.sum()], rtol=1e-12)
    assert (found.members, found.passes) == (2, 2)
    assert found.classes == ("meningioma", "glioma", "pituitary")


def test_the_entropies_are_those_of_the_samples_and_add_up() -> None:
    found = summarise(samples_by_hand(), 0.5, protocol_of(), stop=Stop.BUDGET)
    pooled = np.array([0.35, 0.55, 0.10])
    assert found.predictive_entropy == pytest.approx(-(pooled * np.log(pooled)).sum())
    assert found.predictive_entropy == pytest.approx(
        found.expected_entropy + found.mi_dropout + found.mi_member, abs=1e-12
    )


def test_parts_are_averaged_within_each_pass_before_anything_else() -> None:
    p = np.array([[[[0.9, 0.05, 0.05], [0.1, 0.85, 0.05]]]])
    found = summarise(PosteriorSamples(np.log(p)), 1.0, protocol_of(), stop=Stop.BUDGET)
    np.testing.assert_allclose(found.probabilities, [0.5, 0.45, 0.05], rtol=1e-12)
    # Averaging parts is not disagreement: one pass of one member knows no mutual information.
    assert (found.mi_dropout, found.mi_member) == (0.0, 0.0)


def test_samples_that_are_not_finite_are_deferred() -> None:
    broken = np.log(np.full((1, 1, 2, 3), 1 / 3))
    broken[0, 0, 1, 0] = np.nan
    with pytest.raises(DeferCase):
        summarise(PosteriorSamples(broken), 1.0, protocol_of(), stop=Stop.BUDGET)


def test_a_case_of_slices_is_analysed_as_one() -> None:
    predictor = predictor_of()
    found = predictor.analyse("a" * 64, [volume_of(50), volume_of(51, slices=2)])
    assert found.depths == (1, 1, 1, 1, 1)
    assert (found.uncertainty.members, found.uncertainty.passes) == (2, 4)
    assert sum(found.uncertainty.probabilities) == pytest.approx(1.0)
    assert 0.0 <= found.uncertainty.route_score <= 1.0
    assert {name for name, _ in found.novelty.p_values} == {
        "histogram",
        "pixels",
        "entropy.value",
        *(f"{depth}{kind}" for depth in DEPTHS for kind in ("", ".direction", ".neighbours")),
    }
    assert found == predictor.analyse("a" * 64, [volume_of(50), volume_of(51, slices=2)])
    assert found.uncertainty != predictor.analyse("b" * 64, [volume_of(50), volume_of(51, slices=2)]).uncertainty


def test_a_volume_is_one_part_whose_depth_is_its_slices() -> None:
    assert predictor_of(3).analyse("a" * 64, [volume_of(50, slices=7)]).depths == (7,)


def test_an_image_of_another_kind_looks_novel() -> None:
    predictor = predictor_of()
    familiar = predictor.analyse("a" * 64, [volume_of(60)])
    chequered = (np.indices((3, 30, 30)).sum(axis=0) % 2).astype(np.float32)
    other = predictor.analyse("a" * 64, [Volume(chequered, AXIAL)])
    assert other.novelty.combined < 0.05 < familiar.novelty.combined
    assert "histogram" in other.novelty.fired


def test_a_case_without_a_series_is_deferred() -> None:
    with pytest.raises(DeferCase) as caught:
        predictor_of().analyse("a" * 64, [])
    assert caught.value.reason == "NO_SERIES"


def test_the_predictor_names_what_decides_its_results() -> None:
    predictor = predictor_of()
    assert predictor.release_digest == "d" * 64
    assert predictor.protocol_digest == protocol_of().digest
    assert predictor.policy.members == 2
    assert {"torch", "monai", "device", "processor", "threads"} <= predictor.fingerprint.keys()
    assert all(isinstance(value, str) for value in predictor.fingerprint.values())
