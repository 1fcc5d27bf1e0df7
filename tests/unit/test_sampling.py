from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models.member
from models.networks import build_network
from models.sampling import Ensemble
from models.seeded_dropout import SeededDropout, make_seeded, pass_seed, passes_seeded
from models.splitting import Split
from pipeline.domain.uncertainty import PosteriorSamples
from pipeline.errors import DeferCase, HaltPipeline
from pipeline.protocol import Sampling, TriageProtocol, load_protocol

BLOCKS = ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25", "r1_k3_s22_e6_i24_o40_se0.25"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet": ("DenseNet", {"init_features": 4, "growth_rate": 4, "block_config": [1, 2]}),
    "resnet_basic": ("ResNet", {"block": "basic", "layers": [1, 1, 1, 2], "block_inplanes": [4, 4, 8, 8]}),
    "resnet_bottleneck": (
        "ResNet",
        {"block": "bottleneck", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8], "shortcut_type": "A"},
    ),
    "efficientnet": ("EfficientNet", {"blocks_args_str": BLOCKS, "width_coefficient": 0.25, "image_size": 32}),
    "senet": ("SEResNet50", {"layers": [1, 1, 1, 1], "inplanes": 8, "reduction": 8}),
    "vit": ("ViT", {"patch_size": 16, "hidden_size": 12, "mlp_dim": 16, "num_layers": 4, "num_heads": 2}),
}
KINDS = [
    pytest.param(family, dimensions, marks=pytest.mark.slow if (family, dimensions) == ("senet", 3) else ())
    for family in FAMILIES
    for dimensions in (2, 3)
]
PASSES = 5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def protocol_of(family: str, placement: str, dimensions: int = 2) -> TriageProtocol:
    name, arguments = FAMILIES[family]
    shipped = load_protocol("brain-tumour-slice").model_dump(mode="json")
    shipped["network"] |= {
        "name": name,
        "dimensions": dimensions,
        "arguments": arguments,
        "dropout": {"placement": placement, "rate": 0.3},
        "members": 2,
        "passes": PASSES,
    }
    shipped["preprocessing"]["size"] = [1 if dimensions == 2 else 32, 32, 32]
    return TriageProtocol.model_validate(shipped)


def networks_of(family: str, placement: str, dimensions: int = 2, members: int = 2) -> list[nn.Module]:
    torch.manual_seed(7)
    protocol = protocol_of(family, placement, dimensions)
    return [build_network(protocol) for _ in range(members)]


def images(parts: int, dimensions: int = 2, seed: int = 3) -> Tensor:
    return torch.randn(parts, 1, *([32] * dimensions), generator=torch.Generator().manual_seed(seed))


def small() -> Ensemble:
    return Ensemble(networks_of("resnet_basic", "every_block"), PASSES)


class Tiny(nn.Module):
    """A linear network of four inputs whose forward a test can break."""

    def __init__(self, seed: int = 0, dropout: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(16, 8)
        self.dropout = nn.Dropout(0.5) if dropout is None else dropout
        self.last = nn.Linear(8, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))

    def forward(self, shown: Tensor) -> Tensor:
        return self.last(self.dropout(self.first(shown.flatten(1))))


class Untraceable(Tiny):
    def forward(self, shown: Tensor) -> Tensor:
        hidden = self.first(shown.flatten(1))
        return self.last(self.dropout(hidden if float(hidden.sum()) > -1e9 else -hidden))


class RandomElsewhere(Tiny):
    def forward(self, shown: Tensor) -> Tensor:
        return super().forward(shown + torch.rand_like(shown))


TINY_IMAGES = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("family", "dimensions"), KINDS)
@pytest.mark.parametrize("placement", ["head", "last_stage", "every_block"])
def test_the_cut_network_gives_the_plain_loops_samples(family: str, placement: str, dimensions: int) -> None:
    ensemble = Ensemble(networks_of(family, placement, dimensions), PASSES)
    before = [{k: v.clone() for k, v in m.network.state_dict().items()} for m in ensemble._members]
    parts = images(2, dimensions)

    samples, features = ensemble.examine(parts, "case")

    report = ensemble.split_report
    assert [(r.cut, r.tiled) for r in report] == [(True, True)] * 2
    assert max(r.difference for r in report) < 1e-4
    for index, member in enumerate(ensemble._members):
        with torch.inference_mode():
            plain = member.plain_passes(parts, [pass_seed("case", index, t) for t in range(PASSES)])
        expected = torch.log_softmax(plain.double(), dim=-1).numpy()
        np.testing.assert_allclose(samples.log_probabilities[index], expected, atol=2e-5)
        assert not any(m.training for m in member.network.modules())
        assert all(torch.equal(v, before[index][k]) for k, v in member.network.state_dict().items())
    assert len(np.unique(samples.log_probabilities[0, :, 0, 0])) > 1
    assert set(features) == {"penultimate", "shallow", "early"}
    again = ensemble.features(parts)
    assert all(np.allclose(features[depth], again[depth], atol=1e-5) for depth in again)
    assert all(values.shape[0] == 2 and values.ndim == 2 for values in again.values())


def test_the_same_case_repeats_exactly_and_another_key_differs() -> None:
    parts = images(2)
    first, again = small().sample(parts, "a"), small().sample(parts, "a")
    np.testing.assert_array_equal(first.log_probabilities, again.log_probabilities)
    assert not np.array_equal(first.log_probabilities, small().sample(parts, "b").log_probabilities)


def test_members_and_passes_have_their_own_masks() -> None:
    seeds = {pass_seed("k", member, number) for member in range(20) for number in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_torchs_global_generator_is_neither_used_nor_moved() -> None:
    ensemble, parts = small(), images(1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = ensemble.sample(parts, "a").log_probabilities
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, ensemble.sample(parts, "a").log_probabilities)


def test_two_threads_may_share_an_ensemble() -> None:
    ensemble = small()
    shown = [images(1, seed=seed) for seed in range(6)]
    alone = [ensemble.examine(parts, str(i))[0].log_probabilities for i, parts in enumerate(shown)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: ensemble.examine(shown[i], str(i))[0].log_probabilities, range(6)))
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_case_does_not_depend_on_the_cases_before_it() -> None:
    busy = small()
    busy.sample(images(3, seed=9), "someone else")
    alone = small().sample(images(1), "a").log_probabilities
    np.testing.assert_array_equal(busy.sample(images(1), "a").log_probabilities, alone)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_part_gives_the_same_samples_alone_and_among_others(dimensions: int) -> None:
    ensemble = Ensemble(networks_of("resnet_basic", "every_block", dimensions), PASSES)
    parts = images(3, dimensions)
    together = ensemble.sample(parts, "a").log_probabilities
    for index in range(3):
        alone = ensemble.sample(parts[index : index + 1], "a").log_probabilities
        np.testing.assert_allclose(together[:, :, index : index + 1], alone, atol=1e-5)


def test_a_pass_does_not_depend_on_how_many_others_are_made() -> None:
    ensemble, parts = small(), images(1)
    few = ensemble.sample(parts, "a", passes=3).log_probabilities
    many = ensemble.sample(parts, "a", passes=70).log_probabilities
    assert many.shape == (2, 70, 1, 3)
    np.testing.assert_allclose(many[:, :3], few, atol=1e-5)


def test_more_parts_than_fit_at_once_give_what_each_gives() -> None:
    ensemble, parts = small(), images(70)
    all_parts, features = ensemble.examine(parts, "a")
    last = ensemble.sample(parts[69:], "a").log_probabilities
    assert all_parts.log_probabilities.shape == (2, PASSES, 70, 3)
    np.testing.assert_allclose(all_parts.log_probabilities[:, :, 69:], last, atol=1e-5)
    assert all(len(values) == 70 for values in features.values())


def test_a_lone_volume_goes_through_in_company_and_gives_its_own_answer() -> None:
    ensemble = Ensemble(networks_of("densenet", "last_stage", 3), PASSES)
    volume = images(1, 3)
    samples, features = ensemble.examine(volume, "a")
    assert samples.log_probabilities.shape == (2, PASSES, 1, 3)
    assert {values.shape[0] for values in features.values()} == {1}
    with torch.inference_mode():
        member = ensemble._members[1]
        plain = member.plain_passes(volume, [pass_seed("a", 1, t) for t in range(PASSES)])
        bare = member.network(volume)
    np.testing.assert_allclose(samples.log_probabilities[1], torch.log_softmax(plain.double(), -1), atol=1e-5)
    np.testing.assert_allclose(
        ensemble.without_dropout(volume)[1], torch.log_softmax(bare.double(), -1).numpy(), atol=1e-5
    )


def test_masks_are_the_generators_draws_scaled_and_shared_by_the_parts_of_a_pass() -> None:
    dropout = SeededDropout(0.25, channel_wise=True)
    rows = torch.ones(6, 5, 2, 2)
    with passes_seeded([dropout], [11, 12]):
        out = dropout(rows)
    for place, seed in enumerate((11, 12)):
        draws = torch.rand((1, 5, 1, 1), generator=torch.Generator().manual_seed(seed))
        expected = torch.where(draws >= 0.25, 4 / 3, 0.0).expand(3, 5, 2, 2)
        torch.testing.assert_close(out[3 * place : 3 * place + 3], expected)
    assert torch.equal(dropout(rows), rows)


def test_masks_keep_the_mean_and_the_variance_of_bernoulli_dropout() -> None:
    dropout = SeededDropout(0.3, channel_wise=False)
    with passes_seeded([dropout], [pass_seed("mean", 0, 0)]):
        out = dropout(torch.ones(1, 200_000))
    assert abs(float(out.mean()) - 1.0) < 4 * (0.3 / 0.7 / 200_000) ** 0.5
    assert float(out.var()) == pytest.approx(0.3 / 0.7, rel=0.02)


def test_the_networks_handed_in_stay_as_they_were() -> None:
    network = networks_of("densenet", "last_stage", members=1)[0].train()
    kinds = [type(m) for m in network.modules()]
    Ensemble([network], 2).sample(images(1), "a")
    assert [type(m) for m in network.modules()] == kinds
    assert all(m.training for m in network.modules())


def test_a_network_that_cannot_be_traced_runs_the_plain_loop_and_says_so() -> None:
    ensemble = Ensemble([Untraceable(0), Untraceable(1)], PASSES)
    samples, features = ensemble.examine(TINY_IMAGES, "a")
    assert [(r.cut, r.tiled) for r in ensemble.split_report] == [(False, False)] * 2
    assert "plain loop: the network cannot be traced" in ensemble.split_report[0].detail
    traced = Ensemble([Tiny(0), Tiny(1)], PASSES)
    np.testing.assert_allclose(samples.log_probabilities, traced.sample(TINY_IMAGES, "a").log_probabilities, atol=1e-5)
    np.testing.assert_allclose(features["penultimate"], traced.features(TINY_IMAGES)["penultimate"], atol=1e-5)
    assert set(features) == {"penultimate"}


class _Off(nn.Module):
    def __init__(self, suffix: nn.Module, only_when_tiled: bool) -> None:
        super().__init__()
        self.suffix = suffix
        self.only_when_tiled = only_when_tiled

    def forward(self, *boundary: Tensor) -> Tensor:
        wrong = not self.only_when_tiled or len(boundary[0]) > 2
        return self.suffix(*boundary) + (0.01 if wrong else 0.0)


@pytest.mark.parametrize("only_when_tiled", [True, False])
def test_a_cut_that_differs_from_the_network_is_found_and_not_used(
    only_when_tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = models.member.split_at_dropout

    def wrong(network: nn.Module) -> Split:
        split = right(network)
        assert isinstance(split, Split)
        return Split(split.prefix, _Off(split.suffix, only_when_tiled), "cut wrongly")

    expected = Ensemble([Tiny(0)], PASSES).sample(TINY_IMAGES[:1], "a").log_probabilities
    monkeypatch.setattr(models.member, "split_at_dropout", wrong)
    ensemble = Ensemble([Tiny(0)], PASSES)
    samples = ensemble.sample(TINY_IMAGES[:1], "a")
    np.testing.assert_allclose(samples.log_probabilities, expected, atol=1e-5)
    report = ensemble.split_report[0]
    assert (report.cut, report.tiled) == (only_when_tiled, False)
    assert only_when_tiled or "differ by 0.01" in report.detail


def test_a_network_that_is_random_outside_its_dropout_is_refused() -> None:
    with pytest.raises(HaltPipeline, match="random outside its dropout"):
        Ensemble([RandomElsewhere()], 2).sample(TINY_IMAGES, "a")


def test_a_network_without_active_dropout_is_refused() -> None:
    with pytest.raises(HaltPipeline, match="no dropout is active"):
        Ensemble([Tiny(0, nn.Dropout(0.0))], 2)


def test_dropout_that_changes_nothing_is_refused() -> None:
    network = Tiny(0)
    nn.init.zeros_(network.last.weight)
    with pytest.raises(HaltPipeline, match="the same output"):
        Ensemble([network], 2).sample(TINY_IMAGES, "a")


def test_a_dropout_that_cannot_be_seeded_is_refused() -> None:
    with pytest.raises(HaltPipeline, match="AlphaDropout at dropout cannot be seeded"):
        make_seeded(Tiny(0, nn.AlphaDropout(0.2)))


def test_channel_wise_dropout_of_three_dimensions_is_found() -> None:
    seeded = make_seeded(nn.Sequential(nn.Dropout3d(0.2), nn.Dropout2d(0.2), nn.Dropout(0.2)))
    assert [d.channel_wise for d in seeded] == [True, True, False]


def test_two_members_with_the_same_weights_are_refused() -> None:
    with pytest.raises(HaltPipeline, match="members 0 and 2 have the same weights"):
        Ensemble([Tiny(0), Tiny(1), Tiny(0)], 2)


def test_an_ensemble_without_members_is_refused() -> None:
    with pytest.raises(HaltPipeline, match="at least one network"):
        Ensemble([], 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_defer_the_case(value: float) -> None:
    broken = Tiny(1)
    with torch.no_grad():
        broken.first.weight[0, 0] = value
    ensemble = Ensemble([Tiny(0), broken], 3)
    with pytest.raises(DeferCase) as caught:
        ensemble.examine(TINY_IMAGES, "a")
    assert caught.value.reason == "UNCERTAINTY_INVALID"
    with pytest.raises(DeferCase):
        Ensemble([broken], 3).features(TINY_IMAGES)


def test_an_image_that_is_not_finite_defers_the_case() -> None:
    parts = images(2)
    parts[1, 0, 5, 5] = float("nan")
    with pytest.raises(DeferCase, match="not finite"):
        small().sample(parts, "a")


def test_parts_of_a_wrong_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match="parts have axes"):
        small().sample(torch.zeros(2, 3, 32, 32), "a")


def test_without_dropout_no_pass_is_random() -> None:
    network = Tiny(0)
    ensemble = Ensemble([network], 2)
    with torch.inference_mode():
        expected = functional.log_softmax(network.eval()(TINY_IMAGES).double(), dim=-1).numpy()
    np.testing.assert_allclose(ensemble.without_dropout(TINY_IMAGES)[0], expected, atol=1e-6)


def _release(weights: list[dict[str, Tensor]], protocol: TriageProtocol) -> Any:
    return SimpleNamespace(
        protocol=protocol,
        members=tuple(Path(f"{i}") for i in range(len(weights))),
        weights=lambda i: weights[i],
        folder=Path("bundle"),
    )


def test_a_releases_ensemble_is_the_trained_networks_and_is_checked_at_load() -> None:
    networks = networks_of("densenet", "last_stage")
    protocol = protocol_of("densenet", "last_stage")
    state = torch.get_rng_state()
    ensemble = Ensemble.load(_release([n.state_dict() for n in networks], protocol))
    assert torch.equal(state, torch.get_rng_state())
    assert [r.cut for r in ensemble.split_report] == [True, True]
    assert (ensemble.members, ensemble.passes) == (2, PASSES)
    expected = Ensemble(networks, PASSES).sample(images(2), "a")
    np.testing.assert_array_equal(ensemble.sample(images(2), "a").log_probabilities, expected.log_probabilities)


def test_weights_of_another_network_are_refused() -> None:
    weights = [n.state_dict() for n in networks_of("densenet", "last_stage")]
    with pytest.raises(HaltPipeline, match="the weights of member 0 do not fit"):
        Ensemble.load(_release(weights, protocol_of("resnet_basic", "last_stage")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_cpus_samples_within_the_precision_of_autocast() -> None:
    networks, parts = networks_of("resnet_basic", "last_stage"), images(2)
    there = Ensemble(networks, PASSES, "cuda").sample(parts, "a").log_probabilities
    here = Ensemble(networks, PASSES, "cpu").sample(parts, "a").log_probabilities
    np.testing.assert_allclose(np.exp(there), np.exp(here), atol=0.05)


@pytest.mark.parametrize("placement", ["head", "last_stage", "every_block"])
def test_adaptive_passes_are_the_first_passes_of_the_whole_budget(placement: str) -> None:
    networks = networks_of("resnet_basic", placement)
    ensemble = Ensemble(networks, 6, sampling=Sampling.ADAPTIVE)
    fixed = Ensemble(networks, 6).sample(images(2), "case")
    whole, _ = ensemble.examine(images(2), "case")
    stopped, _ = ensemble.examine(images(2), "case", lambda seen: 4 if seen.passes >= 4 else None)
    assert (stopped.passes, whole.passes) == (4, 6)
    np.testing.assert_array_equal(stopped.log_probabilities, whole.log_probabilities[:, :4])
    np.testing.assert_allclose(whole.log_probabilities, fixed.log_probabilities, atol=1e-5)  # batched otherwise


def test_adaptive_sampling_asks_after_blocks_that_grow_by_half_and_keeps_the_rounds_that_suffice() -> None:
    asked: list[int] = []

    def after(enough: int, seen: PosteriorSamples) -> int | None:
        asked.append(seen.passes)
        return enough if seen.passes >= enough else None

    ensemble = Ensemble(networks_of("resnet_basic", "last_stage"), 11, sampling=Sampling.ADAPTIVE)
    found, _ = ensemble.examine(images(1), "case", partial(after, 5))
    assert (asked, found.passes) == ([4, 6], 5)
    asked.clear()
    found, _ = ensemble.examine(images(1), "case", partial(after, 99))
    assert (asked, found.passes) == ([4, 6, 9, 11], 11)


def test_the_deterministic_part_runs_once_however_many_rounds_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = Ensemble(networks_of("resnet_basic", "last_stage"), 6, sampling=Sampling.ADAPTIVE)
    ensemble.sample(images(1), "warm")
    runs: list[int] = []
    for member, piece in zip(ensemble._members, ("observer", "prefix"), strict=True):
        once = getattr(member.split, piece)
        before = once.forward
        monkeypatch.setattr(
            once, "forward", lambda *x, before=before, index=member.index: runs.append(index) or before(*x)
        )
    ensemble.examine(images(1), "case", lambda seen: None)
    assert runs == [0, 1]


def test_sampling_that_is_off_is_one_look_without_dropout() -> None:
    networks = networks_of("resnet_basic", "last_stage")
    found, _ = Ensemble(networks, 6, sampling=Sampling.OFF).examine(images(2), "case")
    assert found.passes == 1
    np.testing.assert_array_equal(found.log_probabilities[:, 0], Ensemble(networks, 6).without_dropout(images(2)))


def test_a_fixed_budget_is_made_whatever_a_rule_would_say() -> None:
    found, _ = Ensemble(networks_of("resnet_basic", "last_stage"), 6).examine(images(1), "case", lambda seen: True)
    assert found.passes == 6
