from __future__ import annotations

import math

import pytest
import torch

from models.networks import build_network
from models.train import EpochRecord, TrainedMember, train_member
from models.transforms import augment
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol, load_protocol

SIZE = 16


def small_protocol(**training: object) -> TriageProtocol:
    protocol = load_protocol("brain-tumour-slice")
    network = protocol.network.model_copy(
        update={
            "name": "ResNet",
            "members": 2,
            "passes": 4,
            "arguments": {
                "block": "basic",
                "layers": [1, 1, 1, 1],
                "block_inplanes": [4, 4, 8, 8],
                "no_max_pool": True,
            },
        }
    )
    trained = {"epochs": 6, "batch_size": 8, "learning_rate": 0.01, "patience": 6, "augment": False} | training
    return protocol.model_copy(
        update={
            "network": network,
            "preprocessing": protocol.preprocessing.model_copy(update={"size": (1, SIZE, SIZE)}),
            "training": protocol.training.model_copy(update=trained),
        }
    )


def striped_images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright band whose height names the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.3 * torch.randn(count, 1, SIZE, SIZE, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[0, 5 * int(label) : 5 * int(label) + 4] += 1.5
    return images, labels


def train(protocol: TriageProtocol, *, member: int = 0, seed: int = 3, **more: object) -> TrainedMember:
    images, labels = striped_images(48, 1)
    tune_images, tune_labels = striped_images(12, 2)
    return train_member(protocol, images, labels, tune_images, tune_labels, member=member, seed=seed, **more)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_member_learns_what_the_images_show() -> None:
    trained = train(small_protocol(epochs=12, patience=12))
    assert trained.history[trained.best_epoch].tune_nll < 0.5 * math.log(3)
    assert trained.history[trained.best_epoch].tune_accuracy > 0.8


def test_every_epoch_is_told_once_and_in_order() -> None:
    told: list[EpochRecord] = []
    trained = train(small_protocol(), on_epoch=told.append)
    assert tuple(told) == trained.history
    assert [record.epoch for record in told] == list(range(len(told)))
    assert all(math.isfinite(record.train_nll) and record.seconds >= 0 for record in told)


def test_the_weights_kept_are_those_of_the_epoch_with_the_lowest_tune_nll() -> None:
    protocol = small_protocol()
    trained = train(protocol)
    losses = [record.tune_nll for record in trained.history]
    assert trained.best_epoch == losses.index(min(losses))
    network = build_network(protocol).eval()
    network.load_state_dict(trained.weights)
    tune_images, tune_labels = striped_images(12, 2)
    with torch.inference_mode():
        nll = torch.nn.functional.cross_entropy(network(tune_images), tune_labels)
    assert float(nll) == pytest.approx(min(losses), rel=1e-5)


def test_training_stops_when_patience_is_used_up() -> None:
    images, labels = striped_images(48, 1)
    tune_images, tune_labels = striped_images(12, 2)
    wrong = (tune_labels + 1) % 3
    protocol = small_protocol(epochs=40, patience=2)
    trained = train_member(protocol, images, labels, tune_images, wrong, member=0, seed=3)
    assert len(trained.history) == trained.best_epoch + 3 < 40


def test_the_same_seed_gives_the_same_weights() -> None:
    protocol = small_protocol(epochs=2, augment=True)
    assert same(train(protocol, threads=1).weights, train(protocol, threads=1).weights)


def test_members_differ_under_one_seed() -> None:
    protocol = small_protocol(epochs=1)
    assert not same(train(protocol, member=0).weights, train(protocol, member=1).weights)


def test_training_leaves_the_global_random_state_and_threads_as_they_were() -> None:
    torch.manual_seed(11)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(11)
    train(small_protocol(epochs=1), threads=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_dropout_is_active_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    inner = torch.nn.Dropout.forward

    def watched(self: torch.nn.Dropout, value: torch.Tensor) -> torch.Tensor:
        if value.device.type != "meta":
            seen.append(self.training and self.p > 0)
        return inner(self, value)

    monkeypatch.setattr(torch.nn.Dropout, "forward", watched)
    train(small_protocol(epochs=1))
    assert any(seen)  # in the training passes
    assert not all(seen)  # and not when the tune split is judged


def test_augmentation_changes_what_the_member_sees() -> None:
    images, _ = striped_images(4, 1)
    assert not torch.equal(augment(images.clone(), torch.Generator().manual_seed(0)), images)
    assert not same(
        train(small_protocol(epochs=1, augment=True)).weights, train(small_protocol(epochs=1, augment=False)).weights
    )


def test_a_batch_of_one_left_over_joins_the_batch_before_it() -> None:
    images, labels = striped_images(49, 1)  # six batches of eight and one image
    tune = striped_images(12, 2)
    trained = train_member(small_protocol(epochs=1), images, labels, *tune, member=0, seed=3)
    assert math.isfinite(trained.history[0].train_nll)


def test_a_loss_that_is_not_finite_stops_the_training_with_its_cure() -> None:
    images, labels = striped_images(48, 1)
    images[5, 0, 3, 3] = torch.nan
    with pytest.raises(HaltPipeline, match=r"loss is not finite; lower training\.learning_rate"):
        train_member(small_protocol(), images, labels, *striped_images(12, 2), member=0, seed=3)


def test_an_empty_split_is_refused() -> None:
    images, labels = striped_images(48, 1)
    with pytest.raises(HaltPipeline, match="split tune: 0 images"):
        train_member(small_protocol(), images, labels, images[:0], labels[:0], member=0, seed=3)


def test_a_class_without_an_image_is_refused() -> None:
    images, labels = striped_images(48, 1)
    kept = labels != 1
    with pytest.raises(HaltPipeline, match="no image of class glioma"):
        train_member(small_protocol(), images[kept], labels[kept], *striped_images(12, 2), member=0, seed=3)


@pytest.mark.gpu
def test_a_member_trains_on_cuda_in_mixed_precision() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    trained = train(small_protocol(), device="cuda")
    assert all(value.device.type == "cpu" for value in trained.weights.values())
    assert math.isfinite(trained.history[-1].tune_nll)


def noise(counts: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that say nothing of their class: the best answer to each is the class prior."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return torch.randn(len(labels), 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)), labels


def mean_answer(trained: TrainedMember, protocol: TriageProtocol, images: torch.Tensor) -> torch.Tensor:
    network = build_network(protocol).eval()
    network.load_state_dict(trained.weights)
    with torch.inference_mode():
        return torch.softmax(network(images), dim=1).mean(dim=0)


def test_classes_drawn_equally_often_leave_no_trace_in_the_answers() -> None:
    """Ten, twenty and seventy images without any clue: the answer is the natural prior and not a third each."""
    protocol = small_protocol(epochs=8, patience=8, balanced=True, learning_rate=0.003)
    images, labels = noise((20, 40, 140), 1)
    tune = noise((6, 12, 42), 2)
    trained = train_member(protocol, images, labels, *tune, member=0, seed=3)
    found = mean_answer(trained, protocol, tune[0])
    assert found.tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.08)
    assert trained.history[trained.best_epoch].tune_nll < 0.95  # entropy of the prior: 0.80; a third each costs 1.10


def test_without_the_correction_the_same_training_answers_a_third_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.train.prior_shift", lambda sampled, natural: 0.0 * sampled)
    protocol = small_protocol(epochs=8, patience=8, balanced=True, learning_rate=0.003)
    images, labels = noise((20, 40, 140), 1)
    trained = train_member(protocol, images, labels, *noise((6, 12, 42), 2), member=0, seed=3)
    assert max(mean_answer(trained, protocol, noise((6, 12, 42), 2)[0])) < 0.5


def test_a_training_of_a_few_steps_has_a_schedule_too() -> None:
    trained = train(small_protocol(epochs=1, batch_size=48))
    assert len(trained.history) == 1
