"""What may run a network besides plain PyTorch, and that it never changes an answer unnoticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet, ResNet
from torch import Tensor, fx, nn

import models.member
from models.backend_choice import TOLERANCE, Chooser, Search
from models.backends import Backend, Builder
from models.cut_network import CutNetwork
from models.dropout_placement import place_dropout
from models.head_product import gaussian_passes, masked_product
from models.member import Member
from models.networks import build_network
from models.sampling import Ensemble
from models.seeded_dropout import pass_seed
from pipeline.domain.case import Reason
from pipeline.domain.uncertainty import PosteriorSamples, decompose
from pipeline.errors import DeferCase, HaltPipeline
from pipeline.protocol import Dropout, Sampling, load_protocol

PLACEMENTS = ("head", "last_stage", "every_block")
SEEDS = tuple(pass_seed("case", 0, number) for number in range(5))
FAST = (Backend.ONNXRUNTIME, Backend.OPENVINO)


def a_network(placement: str = "last_stage", dimensions: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = DenseNet(dimensions, 1, 3, init_features=4, growth_rate=4, block_config=(1, 2)).eval()
    place_dropout(network, Dropout.model_validate({"placement": placement, "rate": 0.3}), dimensions)
    return network


def noise(dimensions: int = 2, parts: int = 2, size: int = 32) -> Tensor:
    return torch.randn((parts, 1, *(size,) * dimensions), generator=torch.Generator().manual_seed(5))


def agree(member: Member, parts: Tensor) -> bool:
    plain = member.plain_passes(parts, SEEDS)
    return bool((member.passes(parts, SEEDS) - plain).abs().max() <= TOLERANCE["cpu"] * max(1.0, plain.abs().max()))


def run_by(ensemble: Ensemble, parts: Tensor) -> tuple[str, str]:
    (report,) = ensemble.check(parts.shape[2:])
    return report.prefix, report.suffix


def plain_is_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.backend_choice.seconds", lambda runs, _: [[2.0], *([1.0] for _ in runs[1:])])


@pytest.mark.parametrize("backend", [b for b in Backend if b is not Backend.COMPILED])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_back_end_gives_the_plain_loops_passes(
    backend: Backend, placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_is_slowest(monkeypatch)
    ensemble = Ensemble([a_network(placement)], 5, search=Search(allowed=(backend,)))
    used = run_by(ensemble, noise())
    assert used == (backend, "product" if placement == "head" else backend)
    assert agree(ensemble._members[0], noise(parts=3))
    off = ensemble.without_dropout(noise(parts=3))
    assert np.allclose(off, Ensemble([a_network(placement)], 5).without_dropout(noise(parts=3)), atol=1e-4)


@pytest.mark.parametrize("name", ["brain-tumour-mr", "brain-tumour-slice"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_shipped_networks_on_the_engine_give_the_plain_loops_passes(name: str, placement: str) -> None:
    protocol = load_protocol(name)
    network = protocol.network.model_copy(
        update={"dropout": Dropout.model_validate({"placement": placement, "rate": 0.2})}
    )
    built = build_network(protocol.model_copy(update={"network": network})).eval()
    size = protocol.preprocessing.size[3 - network.dimensions :]
    ensemble = Ensemble([built], 5, search=Search(allowed=FAST))
    parts = torch.randn((2, 1, *size), generator=torch.Generator().manual_seed(3))
    (report,) = ensemble.check(size)
    assert report.cut
    assert agree(ensemble._members[0], parts)


def test_a_back_end_that_answers_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder.build

    def wrong(self: Builder, backend: Backend, piece: Any) -> Any:
        run = build(self, backend, piece)
        return lambda *inputs: tuple(value + 0.01 for value in run(*inputs))

    monkeypatch.setattr(Builder, "build", wrong)
    ensemble = Ensemble([a_network()], 5, search=Search(allowed=FAST))
    assert run_by(ensemble, noise()) == (Backend.EAGER, Backend.EAGER)
    assert agree(ensemble._members[0], noise())


class Twofold(nn.Module):
    """A piece with two outputs."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images * 2.0, images + 1.0


def twofold_run(*, later_output: float = 1.0, later_row_count: float = 1.0) -> Any:
    """What a back end makes of `Twofold`: times a factor in the second output, or where several rows come at once."""

    def run(images: Tensor) -> tuple[Tensor, ...]:
        first, second = Twofold()(images)
        factor = later_row_count if len(images) > 1 else 1.0
        return first * factor, second * later_output

    return run


@pytest.mark.parametrize("place", ["later_output", "later_row_count"])
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_back_end_with_an_answer_that_is_no_number_does_not_agree(
    place: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece, chooser = fx.symbolic_trace(Twofold()), Chooser(Search(), "piece", (noise(),))
    monkeypatch.setattr(Builder, "build", lambda *_: twofold_run())
    assert chooser._agreeing(Backend.FOLDED, piece) is not None
    monkeypatch.setattr(Builder, "build", lambda *_: twofold_run(**{place: factor}))
    assert chooser._agreeing(Backend.FOLDED, piece) is None


def test_an_engine_that_answers_no_number_for_a_lone_image_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = CutNetwork.before

    def lost_when_alone(self: CutNetwork, images: Tensor, *, observe: bool = False) -> Any:
        found = before(self, images, observe=observe)
        if self.prefix_by != Backend.EAGER and len(images) == 1:
            found.values[0].fill_(float("nan"))
        return found

    plain_is_slowest(monkeypatch)
    search = Search(allowed=(Backend.FOLDED,))
    assert run_by(Ensemble([a_network()], 5, search=search), noise())[0] == Backend.FOLDED
    monkeypatch.setattr(CutNetwork, "before", lost_when_alone)
    assert run_by(Ensemble([a_network()], 5, search=search), noise())[0] == Backend.EAGER


def test_an_engine_that_goes_wrong_only_as_a_whole_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = CutNetwork.before

    def shifted(self: CutNetwork, images: Tensor, *, observe: bool = False) -> Any:
        found = before(self, images, observe=observe)
        if self.prefix_by != Backend.EAGER:
            found.values[0].add_(0.1)
        return found

    monkeypatch.setattr(CutNetwork, "before", shifted)
    plain_is_slowest(monkeypatch)
    ensemble = Ensemble([a_network()], 5, search=Search(allowed=(Backend.FOLDED,)))
    assert run_by(ensemble, noise()) == (Backend.EAGER, Backend.EAGER)


def test_a_back_end_that_cannot_be_built_costs_nothing_but_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise SystemError("no such instruction")

    monkeypatch.setattr(Builder, "build", broken)
    ensemble = Ensemble([a_network()], 5, search=Search())
    assert run_by(ensemble, noise()) == (Backend.EAGER, Backend.EAGER)
    assert (
        ensemble.engine == "torch " + torch.__version__ + ", torch " + torch.__version__ or "eager" in ensemble.engine
    )


def test_every_member_runs_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_is_slowest(monkeypatch)
    networks = [a_network(seed=seed) for seed in range(3)]
    ensemble = Ensemble(networks, 5, search=Search(allowed=(Backend.ONNXRUNTIME,)))
    ensemble.check((32, 32))
    assert all(agree(member, noise()) for member in ensemble._members)


def test_the_choice_is_remembered_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "engine.json"
    search = Search(allowed=(Backend.FOLDED, Backend.FROZEN), memory=memory)
    first = run_by(Ensemble([a_network()], 5, search=search), noise())
    known = json.loads(memory.read_text("utf-8"))
    assert {entry["backend"] for entry in known.values()} <= set(Backend)

    def never(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr("models.backend_choice.seconds", never)
    assert run_by(Ensemble([a_network(seed=1)], 5, search=search), noise()) == first


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"%s": {"backend": "abacus", "ratio": 0.1}}'])
def test_a_memory_that_makes_no_sense_is_measured_anew(tmp_path: Path, content: str) -> None:
    memory = tmp_path / "engine.json"
    search = Search(allowed=(Backend.FOLDED,), memory=memory)
    run_by(Ensemble([a_network()], 5, search=search), noise())
    keys = list(json.loads(memory.read_text("utf-8")))
    memory.write_text(content % keys[0] if "%s" in content else content, "utf-8")
    ensemble = Ensemble([a_network()], 5, search=search)
    run_by(ensemble, noise())
    assert agree(ensemble._members[0], noise())
    assert set(keys) <= set(json.loads(memory.read_text("utf-8")))


def test_a_memory_whose_folder_is_not_there_makes_none(tmp_path: Path) -> None:
    search = Search(allowed=(Backend.FOLDED,), memory=tmp_path / "home" / "engine.json")
    run_by(Ensemble([a_network()], 5, search=search), noise())
    assert not (tmp_path / "home").exists()


def test_a_memory_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    search = Search(allowed=(Backend.FOLDED,), memory=tmp_path / "file" / "engine.json")
    ensemble = Ensemble([a_network()], 5, search=search)
    run_by(ensemble, noise())
    assert agree(ensemble._members[0], noise())


def mutual_information(logits: Tensor) -> np.ndarray:
    samples = torch.log_softmax(logits.double(), dim=-1).numpy()[None]
    return decompose(PosteriorSamples(samples)).mi_dropout


def test_sixty_four_moment_points_come_nearer_to_twenty_thousand_masks_than_fifty_masks_do() -> None:
    """Root-mean-square errors of the mutual information over 40 cases of one image, 512 features, rate 0.2, fixed seed."""
    chance = torch.Generator().manual_seed(11)
    head = nn.Linear(512, 2)
    with torch.no_grad():
        head.weight.copy_(torch.randn(2, 512, generator=chance) * 0.02)
        head.bias.zero_()
    features = torch.rand(40, 512, generator=chance)

    def masks(count: int) -> Tensor:
        return (torch.rand(count, 512, generator=chance) >= 0.2).float() / 0.8

    with torch.no_grad():
        truth = mutual_information(masked_product(head, features, masks(20_000)))
        few = [mutual_information(masked_product(head, features, masks(50))) for _ in range(5)]
        alone = [[gaussian_passes(head, one[None], 0.2, 64, seed) for one in features] for seed in range(5)]
    points = [np.concatenate([mutual_information(logits) for logits in cases]) for cases in alone]
    by_masks, by_points = (float(np.sqrt(np.mean([(one - truth) ** 2 for one in made]))) for made in (few, points))
    assert float(truth.mean()) > 0.001
    assert by_points < 0.00025
    assert by_points < by_masks / 3


def test_fewer_moment_points_are_the_beginning_of_more() -> None:
    head, features = nn.Linear(16, 3), noise(parts=2)[:, 0, 0, :16]
    with torch.no_grad():
        many, few = (gaussian_passes(head, features, 0.3, count, 7) for count in (40, 10))
    assert torch.equal(many[:10], few)


def test_moments_are_those_of_the_masks() -> None:
    """Mean and covariance of a head of 32 features against their closed form, by 2^14 points."""
    torch.manual_seed(2)
    head, features, rate = nn.Linear(32, 2), torch.rand(1, 32), 0.25
    with torch.no_grad():
        made = gaussian_passes(head, features, rate, 2**14, 3)[:, 0].double()
        rows = (head.weight * features).double()
        assert torch.allclose(made.mean(0), head(features)[0].double(), atol=1e-3)
        assert torch.allclose(torch.cov(made.T), rate / (1 - rate) * rows @ rows.T, rtol=0.02, atol=1e-4)


def test_moments_are_refused_where_dropout_is_not_in_the_head() -> None:
    Ensemble([a_network("head")], 5, sampling=Sampling.MOMENTS).check((32, 32))
    with pytest.raises(HaltPipeline, match="placement to head"):
        Ensemble([a_network("last_stage")], 5, sampling=Sampling.MOMENTS).check((32, 32))


def test_a_protocol_with_moments_needs_dropout_in_the_head() -> None:
    content = load_protocol("brain-tumour-mr").model_dump(mode="json")
    content["network"] |= {"sampling": "moments", "dropout": {"placement": "last_stage", "rate": 0.2}}
    with pytest.raises(ValueError, match="last layer only"):
        type(load_protocol("brain-tumour-mr")).model_validate(content)
    content["network"]["dropout"]["placement"] = "head"
    assert type(load_protocol("brain-tumour-mr")).model_validate(content).network.sampling is Sampling.MOMENTS


class Cramped(nn.Module):
    """A network for which memory runs out when more than `room` rows come at once."""

    def __init__(self, network: nn.Module, room: int) -> None:
        super().__init__()
        self.network, self.room = network, room

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        made: Tensor = self.network(images)
        return made


def test_when_memory_runs_out_chunks_get_smaller_and_no_pass_is_lost() -> None:
    plain, parts = Ensemble([a_network()], 6), noise(parts=7)
    cramped = Ensemble([Cramped(a_network(), 2)], 6)
    made = cramped.sample(parts, "case").log_probabilities
    assert made.shape == (1, 6, 7, 3)
    assert np.allclose(made, plain.sample(parts, "case").log_probabilities, atol=1e-5)


def test_a_case_that_fits_in_no_way_goes_to_a_clinician() -> None:
    with pytest.raises(DeferCase, match="does not fit into memory") as caught:
        Ensemble([Cramped(a_network(), 0)], 6).sample(noise(), "case")
    assert caught.value.reason == Reason.NOT_ANALYSED


def test_memory_that_runs_out_after_the_cut_makes_smaller_batches_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Ensemble([a_network()], 12)
    expected = whole.sample(noise(), "case").log_probabilities
    after, seen = CutNetwork.after, []

    def cramped(self: CutNetwork, boundaries: Any, seeds: Any, *, rows: int) -> Tensor:
        seen.append(rows)
        if rows > 4:
            raise MemoryError
        return after(self, boundaries, seeds, rows=rows)

    monkeypatch.setattr(CutNetwork, "after", cramped)
    assert np.allclose(whole.sample(noise(), "case").log_probabilities, expected, atol=1e-6)
    assert seen[:4] == [models.member._ROWS["cpu"] // 2**halved for halved in range(4)]


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = Ensemble([a_network()], 4)
    ensemble.sample(noise(), "case")

    def broken(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(CutNetwork, "after", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        ensemble.sample(noise(), "case")


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_chunks_change_no_sample_on_an_engine(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = Ensemble([a_network()], 7, search=Search(allowed=(Backend.ONNXRUNTIME,)))
    expected = ensemble.sample(noise(parts=3), "case").log_probabilities
    for member in ensemble._members:
        monkeypatch.setattr(member, "_most_rows", rows)
    assert np.allclose(ensemble.sample(noise(parts=3), "case").log_probabilities, expected, atol=1e-6)


def test_three_dimensional_residual_networks_are_run_too() -> None:
    torch.manual_seed(4)
    network = ResNet(
        "basic", [1, 1, 1, 1], [4, 4, 8, 8], spatial_dims=3, n_input_channels=1, num_classes=2, conv1_t_size=3
    ).eval()
    place_dropout(network, Dropout.model_validate({"placement": "last_stage", "rate": 0.3}), 3)
    ensemble = Ensemble([network], 5, search=Search(allowed=FAST))
    ensemble.check((32, 32, 32))
    assert agree(ensemble._members[0], noise(3))
