from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.special import logit
from scipy.stats import spearmanr
from torch import Tensor, nn

from models import saliency
from models.networks import build_network
from models.resampling import grid_affine
from models.saliency import LOOKS, Attribution, attribute, draw, log_odds
from models.sampling import Ensemble
from models.seeded_dropout import pass_seed
from models.transforms import prepare
from pipeline.domain.drawn_map import MapKind
from pipeline.domain.volume import Volume
from pipeline.protocol import Sampling, TriageProtocol
from tests.unit.test_predictor import predictor_of, protocol_of, volume_of
from tests.unit.test_sampling import protocol_of as protocol_of_family
from tests.unit.test_transforms import STACKS, affine_of, asking

SIDE = 16
LESION = (slice(4, 8), slice(9, 13))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def linear_network(weight: np.ndarray, bias: float, rate: float) -> nn.Module:
    """Two logits of a 2-D image: zero, and dropped-out voxels times `weight` plus `bias`."""
    head = nn.Linear(weight.size, 2)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.weight[1] = torch.from_numpy(weight.ravel()).float()
        head.bias[1] = bias
    return nn.Sequential(nn.Flatten(), nn.Dropout(rate), head)


def image(seed: int, parts: int = 1) -> Tensor:
    return torch.randn((parts, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))


def test_log_odds_pool_findings_against_the_rest() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    assert float(log_odds(p.log(), (1, 2))) == pytest.approx(0.0, abs=1e-12)
    assert float(log_odds(p.log(), (2,))) == pytest.approx(logit(0.2))


def test_the_map_of_linear_networks_adds_up_to_the_log_odds_that_triage_sampled() -> None:
    rng = np.random.default_rng(3)
    parts = image(1).abs()  # with weights above zero nothing in the map is turned round
    weights = [rng.random((SIDE, SIDE)), rng.random((SIDE, SIDE))]
    biases = (0.7, -0.4)
    ensemble = Ensemble([linear_network(w / 50, b, 0.3) for w, b in zip(weights, biases, strict=True)], LOOKS)
    found = attribute(ensemble, parts, "case", (1,))
    log_p = ensemble.sample(parts, "case").log_probabilities[:, :, 0]
    odds = log_p[..., 1] - log_p[..., 0]
    assert found.saliency.sum() == pytest.approx(odds.mean() - np.mean(biases), rel=1e-5)


def test_the_uncertainty_is_the_deviation_over_looks_worked_out_by_hand() -> None:
    weight = np.zeros((SIDE, SIDE))
    weight[7, 8] = 2.0
    parts = image(2)
    value = float(parts[0, 0, 7, 8])
    rates = (0.3, 0.6)
    ensemble = Ensemble([linear_network(weight * (1 + m), 0.0, rate) for m, rate in enumerate(rates)], LOOKS)
    looks = []
    for member, rate in enumerate(rates):
        for number in range(LOOKS):
            stream = torch.Generator().manual_seed(pass_seed("case", member, number))
            kept = torch.rand((1, SIDE * SIDE), generator=stream).reshape(SIDE, SIDE)[7, 8] >= rate
            looks.append(2.0 * (1 + member) * value * float(kept) / (1.0 - rate))
    assert len(set(looks)) > 2
    spike = np.zeros(SIDE)
    spike[8] = 1.0
    peak = gaussian_filter1d(spike, 1.0)[8] ** 2  # what a blur leaves of a single voxel
    found = attribute(ensemble, parts, "case", (1,))
    assert found.saliency[0, 7, 8] == pytest.approx(abs(np.mean(looks)) * peak, rel=1e-5)
    assert found.uncertainty[0, 7, 8] == pytest.approx(np.std(looks) * peak, rel=1e-5)
    assert np.unravel_index(found.saliency[0].argmax(), (SIDE, SIDE)) == (7, 8)


def test_a_part_counts_by_its_share_of_the_probability() -> None:
    weight = np.full((SIDE, SIDE), 0.01)
    ensemble = Ensemble([linear_network(weight, 0.0, 0.01)], 1)
    parts = torch.cat([torch.full((1, 1, SIDE, SIDE), value) for value in (0.5, 2.0)])
    both = attribute(ensemble, parts, "case", (1,))
    chances = np.exp(ensemble.sample(parts, "case").log_probabilities[0, 0, :, 1])
    for index in range(2):
        alone = attribute(ensemble, parts[index : index + 1], "case", (1,))
        expected = alone.saliency.sum() * chances[index] / chances.sum()
        assert both.saliency[index].sum() == pytest.approx(expected, rel=1e-5)


class Tiny(nn.Module):
    """Two convolutions and a head, named so that they can be randomised from the top down."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Conv2d(1, 8, 3, padding=1)
        self.high = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.relu(self.high(torch.relu(self.low(images))))
        return self.head(self.drop(seen.mean(dim=(2, 3))))


def with_lesion(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A bright block, somewhere, in every image labelled 1."""
    marked = images.clone()
    for index in labels.nonzero().ravel().tolist():
        row, column = torch.randint(0, SIDE - 4, (2,), generator=generator).tolist()
        marked[index, 0, row : row + 4, column : column + 4] += 2.5
    return marked


@pytest.fixture(scope="module")
def trained() -> list[Tiny]:
    """Two small networks that know a bright block from noise."""
    generator = torch.Generator().manual_seed(4)
    labels = (torch.arange(256) % 2).long()
    images = with_lesion(torch.randn((256, 1, SIDE, SIDE), generator=generator), labels, generator)
    networks = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Tiny()
            optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
            for _ in range(80):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(network(images), labels)
                loss.backward()
                optimiser.step()
        assert float(loss.detach()) < 0.2
        networks.append(network)
    return networks


def lesioned(seed: int = 9) -> Tensor:
    parts = image(seed)
    parts[(0, 0, *LESION)] += 2.5
    return parts


def share_inside(found: Attribution) -> float:
    return float(found.saliency[(0, *LESION)].sum() / found.saliency.sum())


def test_the_mass_lies_in_the_lesion_that_the_networks_learnt(trained: list[Tiny]) -> None:
    ensemble = Ensemble(trained, LOOKS)
    shares = [share_inside(attribute(ensemble, lesioned(seed), "case", (1,))) for seed in range(9, 19)]
    area = 16 / SIDE**2
    assert area == 0.0625
    assert np.median(shares) > 0.5


def randomised(networks: Sequence[Tiny], layers: Sequence[str], seed: int) -> list[Tiny]:
    lost = [copy.deepcopy(network) for network in networks]
    for index, network in enumerate(lost):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + index)
            for layer in layers:
                getattr(network, layer).reset_parameters()
    return lost


def test_the_map_goes_when_the_weights_go(trained: list[Tiny]) -> None:
    """Adebayo et al. 2018: weights randomised from the top down; a map made of the input alone would stay as it is."""
    told = {seed: attribute(Ensemble(trained, LOOKS), lesioned(seed), "case", (1,)) for seed in range(9, 17)}
    likeness, shares = [], []
    for layers in (("head",), ("head", "high"), ("head", "high", "low")):
        lost = {seed: Ensemble(randomised(trained, layers, 10 * seed), LOOKS) for seed in told}
        maps = {seed: attribute(lost[seed], lesioned(seed), "case", (1,)) for seed in told}
        ranks = [spearmanr(told[seed].saliency.ravel(), maps[seed].saliency.ravel()).statistic for seed in told]
        likeness.append(float(np.mean(ranks)))
        shares.append(float(np.median([share_inside(one) for one in maps.values()])))
    assert likeness[0] < 0.9
    assert likeness[-1] < 0.5
    assert shares[-1] < 0.6 * np.median([share_inside(one) for one in told.values()])


def state_of(ensemble: Ensemble) -> list[object]:
    with ensemble.alone() as members:
        return [
            [
                (member.network.training, [d.streams for d in member.dropouts]),
                [(p.requires_grad, p.grad) for p in member.network.parameters()],
                [value.clone().tolist() for value in member.network.state_dict().values()],
            ]
            for member in members
        ]


def test_drawing_leaves_the_ensemble_and_the_random_numbers_as_they_were(trained: list[Tiny]) -> None:
    ensemble, parts = Ensemble(trained, LOOKS), image(3, parts=2)
    before, sampled, drawn = state_of(ensemble), ensemble.sample(parts, "case"), torch.get_rng_state()
    attribute(ensemble, parts, "other", (1,))
    assert state_of(ensemble) == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert ensemble.sample(parts, "case").log_probabilities.tobytes() == sampled.log_probabilities.tobytes()


def test_drawing_that_fails_on_the_way_leaves_no_mask_behind(trained: list[Tiny]) -> None:
    ensemble, parts = Ensemble(trained, LOOKS), image(3)
    sampled = ensemble.sample(parts, "case")
    with pytest.raises(IndexError):
        attribute(ensemble, parts, "case", (7,))
    assert ensemble.sample(parts, "case").log_probabilities.tobytes() == sampled.log_probabilities.tobytes()


def test_the_same_case_gives_the_same_map_whatever_was_drawn_between(trained: list[Tiny]) -> None:
    ensemble = Ensemble(trained, LOOKS)
    first = attribute(ensemble, lesioned(), "case", (1,))
    attribute(ensemble, image(4, parts=3), "other", (1,))
    again = attribute(ensemble, lesioned(), "case", (1,))
    assert first.saliency.tobytes() == again.saliency.tobytes()
    assert first.uncertainty.tobytes() == again.uncertainty.tobytes()
    other = attribute(ensemble, lesioned(), "another key", (1,))
    assert other.uncertainty.tobytes() != first.uncertainty.tobytes()


def test_how_parts_share_a_batch_shows_nowhere(trained: list[Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, parts = Ensemble(trained, LOOKS), image(5, parts=5)
    together = attribute(ensemble, parts, "case", (1,))
    for rows in (1, 2):
        monkeypatch.setattr(saliency, "_ROWS", {"cpu": rows})
        found = attribute(ensemble, parts, "case", (1,))
        np.testing.assert_allclose(found.saliency, together.saliency, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(found.uncertainty, together.uncertainty, rtol=1e-4, atol=1e-6)


def test_without_dropout_there_is_one_look_of_each_member(trained: list[Tiny]) -> None:
    alone = Ensemble(trained[:1], 1, sampling=Sampling.OFF)
    assert not attribute(alone, lesioned(), "case", (1,)).uncertainty.any()
    assert attribute(Ensemble(trained, 1, sampling=Sampling.OFF), lesioned(), "case", (1,)).uncertainty.any()


def test_no_half_a_map_is_made_when_the_time_is_up(trained: list[Tiny]) -> None:
    asked: list[int] = []

    def after_three() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(TimeoutError):
        attribute(Ensemble(trained, LOOKS), lesioned(), "case", (1,), out_of_time=after_three)
    assert len(asked) == 4


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_map_of_nothing_is_no_map(trained: list[Tiny], value: float) -> None:
    with pytest.raises(ValueError, match="not finite, or zero"):
        attribute(Ensemble(trained, LOOKS), torch.full((1, 1, SIDE, SIDE), value), "case", (1,))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("family", ["densenet", "resnet_basic", "efficientnet", "vit"])
def test_every_family_of_networks_can_be_drawn(family: str, dimensions: int) -> None:
    protocol = protocol_of_family(family, "head", dimensions)
    size = protocol.preprocessing.size[3 - dimensions :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ensemble = Ensemble([build_network(protocol)], 2)
    parts = torch.randn((1, 1, *size), generator=torch.Generator().manual_seed(0))
    found = attribute(ensemble, parts, "case", protocol.finding_indices, looks=2)
    assert found.saliency.shape == (1, *size)
    assert found.saliency.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_devices_draw_the_same_map(trained: list[Tiny]) -> None:
    here = attribute(Ensemble(trained, LOOKS), lesioned(), "case", (1,))
    there = attribute(Ensemble(trained, LOOKS, "cuda"), lesioned(), "case", (1,))
    np.testing.assert_allclose(there.saliency, here.saliency, rtol=0.02, atol=0.02 * here.saliency.max())


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_affine_puts_the_grid_where_the_image_was(stack: str, dimensions: int) -> None:
    affine = affine_of(STACKS[stack])
    affine[:3, 3] = (-40.0, 25.0, 310.0)
    voxels = np.zeros((24, 36, 60), np.float32)
    marked = (15, 12, 41)
    voxels[tuple(slice(i - 1, i + 2) for i in marked)] = 1.0
    volume = Volume(voxels, affine)
    size, spacing = ((20, 40, 44), (6.0, 1.7, 3.0)) if dimensions == 3 else ((1, 31, 50), (None, None, None))
    preprocessing = asking(size, spacing, intensity_percentiles=(0, 100))
    parts = prepare(volume, preprocessing, dimensions)[:, 0]  # type: ignore[arg-type]
    grid = (parts[0] if dimensions == 3 else parts).numpy().astype(np.float64)
    grid = grid - grid.min(axis=(1, 2) if dimensions == 2 else None, keepdims=True)
    centre = [
        float((np.arange(n) * grid.sum(axis=tuple({0, 1, 2} - {k}))).sum() / grid.sum())
        for k, n in enumerate(grid.shape)
    ]
    placed = grid_affine(volume, preprocessing, dimensions) @ np.array([*centre, 1.0])  # type: ignore[arg-type]
    truth = affine @ np.array([*marked, 1.0])
    np.testing.assert_allclose(placed[:3], truth[:3], atol=0.6)  # a tenth of the coarsest step


def drawn(protocol: TriageProtocol, volumes: Sequence[Volume]) -> tuple[Sequence[Tensor], Attribution]:
    each = [prepare(v, protocol.preprocessing, protocol.network.dimensions) for v in volumes]
    count = sum(len(parts) for parts in each)
    ramp = np.linspace(0.0, 2.0, count * 24 * 24).reshape(count, 24, 24)
    return each, Attribution(saliency=ramp, uncertainty=ramp / 4)


def test_maps_of_slices_stand_in_their_order_on_one_scale() -> None:
    protocol, volumes = protocol_of(2), [volume_of(0, slices=3), volume_of(1, slices=2)]
    each, found = drawn(protocol, volumes)
    maps = draw(protocol, volumes, each, found)
    assert [(m.series, m.kind) for m in maps] == [(s, k) for s in (0, 1) for k in MapKind]
    assert [m.values.shape for m in maps] == [(3, 24, 24)] * 3 + [(2, 24, 24)] * 3
    shown = {(m.series, m.kind): m for m in maps}
    assert shown[1, MapKind.SALIENCY].values.max() == 255
    assert shown[1, MapKind.UNCERTAINTY].values.max() == 64  # 255 / 4
    assert shown[0, MapKind.SALIENCY].full_scale == shown[1, MapKind.UNCERTAINTY].full_scale == 2.0
    seen = shown[0, MapKind.INPUT].values
    assert (seen.min(), seen.max()) == (0, 255)


def test_the_predictor_draws_a_volume_on_its_own_grid() -> None:
    predictor = predictor_of(3)
    maps = predictor.maps("case", [volume_of(3, slices=20)], lambda: False)
    assert [m.kind for m in maps] == list(MapKind)
    assert {m.values.shape for m in maps} == {(16, 24, 24)}
    assert max(int(m.values.max()) for m in maps[:2]) == 255
    with pytest.raises(TimeoutError):
        predictor.maps("case", [volume_of(3, slices=20)], lambda: True)


def test_drawing_changes_nothing_in_what_the_predictor_says() -> None:
    predictor, volumes = predictor_of(2), [volume_of(40)]
    before = predictor.analyse("case", volumes)
    predictor.maps("case", volumes, lambda: False)
    assert predictor.analyse("case", volumes) == before
