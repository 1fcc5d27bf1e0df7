from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from models import fitting
from models.dataset import LabelledImage
from models.fitting import fit_release
from models.networks import build_network
from models.predictor import ReleasePredictor
from models.preparation import PreparedImage, data_digest, group_cases, one_case_each, training_tensors
from models.release import Release
from models.sampling import Ensemble
from models.summary import summarise
from models.train import TrainedMember, train_member
from pipeline.domain.certificate import gated_scores
from pipeline.domain.stopping import Stop
from pipeline.errors import HaltPipeline
from pipeline.protocol import Sampling, TriageProtocol, load_protocol

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
SIZE = 16
COUNTS = {"train": 24, "tune": 12, "certify": 15}  # patients, each with two slices


@cache
def protocol() -> TriageProtocol:
    """The slice protocol with a network of a few thousand weights and limits that a dozen patients can meet."""
    shipped = load_protocol("brain-tumour-slice")
    network = shipped.network.model_copy(
        update={
            "name": "ResNet",
            "members": 2,
            "passes": 4,
            "sampling": Sampling.FIXED,
            "arguments": {"block": "basic", "layers": [1] * 4, "block_inplanes": [4, 4, 8, 8], "no_max_pool": True},
        }
    )
    training = shipped.training.model_copy(
        update={"epochs": 8, "batch_size": 8, "learning_rate": 0.01, "augment": False}
    )
    limits = {"alpha": 0.55, "alpha_priority": 0.5, "delta": 0.2, "novelty_level": 0.01}
    return shipped.model_copy(
        update={
            "network": network,
            "training": training,
            "preprocessing": shipped.preprocessing.model_copy(update={"size": (1, SIZE, SIZE)}),
            "limits": shipped.limits.model_copy(update=limits | {"mutual_information_quantile": 1.0}),
        }
    )


def slices(split: str, patients: int, seed: int) -> tuple[PreparedImage, ...]:
    """Two noisy slices per patient, with a bright band whose height names the class."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for number in range(2 * patients):
        patient, target = number // 2, number // 2 % 3
        part = 0.3 * torch.randn(1, 1, SIZE, SIZE, generator=generator)
        part[0, 0, 5 * target : 5 * target + 4] += 1.5
        row = LabelledImage(
            path=Path(f"{split}{number}.png"),
            name=f"{split}{number}.png",
            label=protocol().class_names[target],
            patient=f"{split}-{patient}",
            split=split,
        )
        images.append(PreparedImage(row=row, key=f"{split}{number:03d}", parts=part, target=target))
    return tuple(images)


@cache
def images() -> Mapping[str, tuple[PreparedImage, ...]]:
    return {split: slices(split, count, seed) for seed, (split, count) in enumerate(COUNTS.items())}


@cache
def members() -> tuple[TrainedMember, ...]:
    train, tune = training_tensors(images()["train"]), training_tensors(images()["tune"])
    return tuple(train_member(protocol(), *train, *tune, member=m, seed=5, threads=1) for m in range(2))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return fit_release(
        protocol(), members(), images(), folder=tmp_path_factory.mktemp("fit") / "release", created_at=NOW
    )


def test_the_release_holds_what_was_fitted(release: Release) -> None:
    loaded = Release.load(release.folder, release.digest)
    assert 0.05 < loaded.temperature < 12
    assert set(loaded.novelty.detectors) >= {"histogram", "penultimate"}
    assert loaded.meta["data"] == {split: data_digest(found) for split, found in images().items()}
    assert loaded.meta["metrics"]["tune_accuracy"] > 0.8
    assert loaded.policy.certificate_expires == date(2027, 11, 23)


def test_the_certificate_counts_one_case_per_certify_patient(release: Release) -> None:
    routine, priority = release.certificates["routine"], release.certificates["priority"]
    assert routine.patients == COUNTS["certify"]
    assert (routine.positives, priority.positives) == (5, 10)  # every third patient is a glioma
    assert routine.delta == pytest.approx(protocol().limits.delta / 2)
    assert (routine.alpha, priority.alpha) == (0.55, 0.5)


def test_what_is_certified_is_what_triage_deploys(release: Release) -> None:
    """The counts of the certificate, made again through the predictor that triage calls."""
    predictor = ReleasePredictor(release)
    cases = one_case_each(group_cases(images()["certify"], protocol()))
    scores, information, novelty, positive = [], [], [], []
    for case in cases:
        samples, _ = predictor._ensemble.examine(case.parts, case.key)
        said = summarise(samples, release.temperature, protocol(), stop=Stop.BUDGET)
        features = fitting.look(predictor._ensemble, case.parts, case.key).features
        scores.append(said.route_score)
        information.append(said.mutual_information)
        novelty.append(release.novelty.p_values(features).combined)
        positive.append(case.target in protocol().finding_indices)
    gated = gated_scores(
        scores,
        information,
        novelty,
        mutual_information_limit=release.policy.mutual_information_limit,
        novelty_level=release.policy.novelty_level,
        side="routine",
    )
    rungs = release.certificates["routine"].rungs
    assert [r.k for r in rungs] == [int((gated[np.array(positive)] <= r.threshold).sum()) for r in rungs]


def test_fitting_twice_gives_one_digest(release: Release, tmp_path: Path) -> None:
    again = fit_release(protocol(), members(), images(), folder=tmp_path / "again", created_at=NOW)
    assert again.digest == release.digest


def test_wrong_certify_labels_cost_the_threshold(release: Release, tmp_path: Path) -> None:
    shuffled = tuple(
        replace(image, target=(image.target + 1) % 3 if image.target is not None else None)
        for image in images()["certify"]
    )
    found = fit_release(protocol(), members(), {**images(), "certify": shuffled}, folder=tmp_path / "r", created_at=NOW)
    right, wrong = (one.certificates["routine"] for one in (release, found))
    assert right.certified
    assert right.threshold is not None
    assert wrong.threshold is None or wrong.threshold < right.threshold
    rung = next(i for i, one in enumerate(right.rungs) if one.threshold == right.threshold)
    assert right.rungs[rung].k == 0 < wrong.rungs[rung].k


def test_one_patient_in_tune_and_certify_is_refused(tmp_path: Path) -> None:
    leaked = tuple(
        replace(image, row=replace(image.row, patient=image.row.patient.replace("certify", "tune")))
        for image in images()["certify"]
    )
    with pytest.raises(HaltPipeline, match="patients stand in both the tune and the certify split"):
        fit_release(protocol(), members(), {**images(), "certify": leaked}, folder=tmp_path / "r", created_at=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["train", "tune", "certify"])
def test_a_missing_split_is_named(tmp_path: Path, split: str) -> None:
    without = {name: found for name, found in images().items() if name != split}
    with pytest.raises(HaltPipeline, match=f"split {split} has no image"):
        fit_release(protocol(), members(), without, folder=tmp_path / "r", created_at=NOW)


def test_two_equal_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HaltPipeline, match="same weights"):
        fit_release(protocol(), [members()[0]] * 2, images(), folder=tmp_path / "r", created_at=NOW)


def test_a_member_that_says_nan_is_refused(tmp_path: Path) -> None:
    broken = {name: value.clone() for name, value in members()[1].weights.items()}
    next(value for name, value in broken.items() if name.endswith("fc.weight") or "fc" in name)[:] = torch.nan
    with pytest.raises(HaltPipeline, match="not finite on the tune split; train it again"):
        fit_release(
            protocol(),
            [members()[0], replace(members()[1], weights=broken)],
            images(),
            folder=tmp_path / "r",
            created_at=NOW,
        )


def test_a_certify_case_that_cannot_be_judged_is_never_cleared(tmp_path: Path) -> None:
    broken = tuple(
        replace(image, parts=torch.full_like(image.parts, torch.nan)) if image.row.patient == "certify-1" else image
        for image in images()["certify"]
    )
    found = fit_release(protocol(), members(), {**images(), "certify": broken}, folder=tmp_path / "r", created_at=NOW)
    routine = found.certificates["routine"]
    assert routine.positives == 5  # patient 1 is a glioma and stays in the denominator


def test_progress_is_told_for_tune_and_certify(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fit_release(
        protocol(), members(), images(), folder=tmp_path / "r", created_at=NOW, on_progress=lambda *a: told.append(a)
    )
    assert ("calibrate", 12, 12) in told
    assert told[-1] == ("certify", 15, 15)


def test_slices_of_a_patient_are_one_case_whatever_their_order() -> None:
    tune = images()["tune"]
    cases = group_cases(tune, protocol())
    assert len(cases) == COUNTS["tune"]
    assert all(case.parts.shape == (2, 1, SIZE, SIZE) for case in cases)
    turned = group_cases(tuple(reversed(tune)), protocol())
    assert [case.key for case in turned] == [case.key for case in cases]


def test_slices_of_one_patient_with_two_classes_are_refused() -> None:
    first, second, *_ = images()["tune"]
    with pytest.raises(HaltPipeline, match="slices of one patient have 2 classes"):
        group_cases([first, replace(second, target=2)], protocol())


def test_a_volume_is_a_case_and_a_certify_patient_gives_one() -> None:
    volumes = protocol().model_copy(update={"network": protocol().network.model_copy(update={"dimensions": 3})})
    cases = group_cases(images()["certify"], volumes)
    assert len(cases) == 2 * COUNTS["certify"]
    chosen = one_case_each(cases)
    assert len(chosen) == COUNTS["certify"]
    assert {case.key for case in chosen} == {f"certify{2 * n:03d}" for n in range(COUNTS["certify"])}


def test_the_data_digest_follows_content_label_and_patient_and_not_order() -> None:
    tune = images()["tune"]
    assert data_digest(tune) == data_digest(tuple(reversed(tune)))
    for changed in ({"label": "glioma?"}, {"patient": "another"}):
        assert data_digest((replace(tune[0], row=replace(tune[0].row, **changed)), *tune[1:])) != data_digest(tune)
    assert data_digest((replace(tune[0], key="other"), *tune[1:])) != data_digest(tune)


def test_the_networks_of_the_release_are_the_trained_ones(release: Release) -> None:
    ensemble = Ensemble.load(release)
    part = images()["tune"][0].parts
    network = build_network(protocol()).eval()
    network.load_state_dict(members()[1].weights)
    with torch.inference_mode():
        expected = torch.log_softmax(network(part).double(), dim=-1).numpy()
    assert ensemble.without_dropout(part)[1] == pytest.approx(expected, abs=1e-5)
