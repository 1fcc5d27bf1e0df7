from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from models import measures
from models.daily_reads import day
from models.dataset import LabelledImage
from models.evaluate import Evaluation, evaluate
from models.fitting import JudgedCases, fit_release, judge_cases
from models.looks import Judgement
from models.predictions import judge_of, predict, prediction_rows, write_predictions
from models.preparation import PreparedImage, group_cases, training_tensors
from models.recheck import recheck
from models.release import Release
from models.report import without_images, write_report
from models.sampling import Ensemble
from models.subgroups import subgroups
from models.systems import Answers, pooled_looks, simpler_systems
from models.train import train_member
from pipeline.errors import HaltPipeline
from pipeline.protocol import Sampling, TriageProtocol, load_protocol

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
SIZE = 16
COUNTS = {"train": 24, "tune": 12, "certify": 15, "test": 21}  # patients, each with two slices
COLUMNS = [
    "path",
    "label",
    "patient",
    "split",
    "p_meningioma",
    "p_glioma",
    "p_pituitary",
    "predictive_entropy",
    "expected_entropy",
    "mi_dropout",
    "mi_member",
    "novelty_p",
    "route_score",
    "passes",
    "budget",
    "stop",
]


@cache
def protocol() -> TriageProtocol:
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
    training = {"epochs": 8, "batch_size": 8, "learning_rate": 0.01, "augment": False}
    limits = {"alpha": 0.55, "alpha_priority": 0.5, "delta": 0.2, "novelty_level": 0.01}
    return shipped.model_copy(
        update={
            "network": network,
            "training": shipped.training.model_copy(update=training),
            "preprocessing": shipped.preprocessing.model_copy(update={"size": (1, SIZE, SIZE)}),
            "limits": shipped.limits.model_copy(update=limits | {"mutual_information_quantile": 1.0}),
        }
    )


def slices(split: str, patients: int, seed: int) -> tuple[PreparedImage, ...]:
    """Two noisy slices per patient, with a band whose height names the class and whose brightness varies."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for number in range(2 * patients):
        target = number // 2 % 3
        part = 0.4 * torch.randn(1, 1, SIZE, SIZE, generator=generator)
        part[0, 0, 5 * target : 5 * target + 4] += 1.2 * float(torch.rand(1, generator=generator))
        row = LabelledImage(
            path=Path(f"{split}{number}.png"),
            name=f"{split}{number}.png",
            label=protocol().class_names[target],
            patient=f"{split}-{number // 2}",
            split=split,
            extras={"site": "north" if number % 4 < 2 else "south", "sex": ""},
        )
        images.append(PreparedImage(row=row, key=f"{split}{number:03d}", parts=part, target=target))
    return tuple(images)


def strangers() -> tuple[PreparedImage, ...]:
    """Checkerboards, which are no class of the protocol."""
    board = 8.0 * ((torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2).float()[None, None]
    row = LabelledImage(path=Path("x"), name="x", label="board", patient="x", split="ood")
    return tuple(
        PreparedImage(row=replace(row, name=f"x{n}", patient=f"x{n}"), key=f"x{n}", parts=board + 0.1 * n, target=None)
        for n in range(5)
    )


@cache
def images() -> Mapping[str, tuple[PreparedImage, ...]]:
    return {split: slices(split, count, seed) for seed, (split, count) in enumerate(COUNTS.items())}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    train, tune = training_tensors(images()["train"]), training_tensors(images()["tune"])
    members = [train_member(protocol(), *train, *tune, member=m, seed=5, threads=1) for m in range(2)]
    return fit_release(protocol(), members, images(), folder=tmp_path_factory.mktemp("e") / "release", created_at=NOW)


@pytest.fixture(scope="module")
def evaluation(release: Release) -> Evaluation:
    shown = {"tune": images()["tune"], "test": images()["test"], "ood": strangers()}
    return evaluate(release, shown, draws=60)


def answers(log_p: np.ndarray, labels: list[int]) -> Answers:
    return Answers(log_p=log_p, labels=np.array(labels), protocol=load_protocol("brain-tumour-slice"), temperature=1.0)


def test_the_report_has_every_key_that_is_promised(evaluation: Evaluation) -> None:
    report = evaluation.report
    promised = {"n", "accuracy", "auc", "nll", "brier", "ece", "aurc", "augrc", "auroc_failure", "referral"}
    assert promised | {"baselines", "certificate", "novelty", "subgroups"} <= set(report)
    assert set(report["ece"]) == {"value", "null_95"}
    assert {"deferred", "auc", "accuracy"} <= set(report["referral"][0])
    assert set(report["baselines"]) == {
        *("single", "dropout", "ensemble", "random"),
        *("route", "defer_none", "defer_all"),
    }
    assert all(promised <= set(found) for found in report["baselines"].values())
    assert set(report["novelty"]["ood"]) >= {"auroc", "flagged_at_5pct"}
    assert {"alpha", "delta", "positives", "misses", "certified", "sentence"} <= set(report["certificate"])


def test_the_report_is_json_without_nan(evaluation: Evaluation) -> None:
    assert json.loads(json.dumps(evaluation.report, allow_nan=False)) == evaluation.report


def test_the_numbers_are_those_of_an_independent_library(evaluation: Evaluation) -> None:
    rows = [row for row in evaluation.rows if row["split"] == "test"]
    p = np.array([[row[f"p_{name}"] for name in protocol().class_names] for row in rows], dtype=float)
    labels = np.array([protocol().class_names.index(str(row["label"])) for row in rows])
    report = evaluation.report
    assert report["n"] == len(rows) == 42
    assert report["accuracy"] == pytest.approx((p.argmax(1) == labels).mean())
    assert report["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, p.argmax(1)))
    assert report["nll"] == pytest.approx(log_loss(labels, p))
    assert report["auc"] == pytest.approx(roc_auc_score(labels == 1, p[:, 1]))
    assert report["auc_macro"] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr"))
    assert report["brier"] == pytest.approx(((p - np.eye(3)[labels]) ** 2).sum(1).mean())


def test_intervals_hold_their_estimate_and_resample_patients(evaluation: Evaluation) -> None:
    assert evaluation.report["patients"] == 21
    for name in ("accuracy", "auc", "nll", "augrc"):
        found = evaluation.report["intervals"][name]
        assert found["estimate"] == pytest.approx(evaluation.report[name])
        assert found["low"] <= found["estimate"] <= found["high"]
    gain = evaluation.report["less_single"]["augrc"]
    assert gain["estimate"] == pytest.approx(
        evaluation.report["augrc"] - evaluation.report["baselines"]["single"]["augrc"]
    )


def test_deferral_by_lot_gains_nothing(evaluation: Evaluation) -> None:
    lot, error = evaluation.report["baselines"]["random"], 1.0 - evaluation.report["accuracy"]
    assert lot["aurc"] == pytest.approx(error)
    assert lot["augrc"] == pytest.approx(error / 2)
    assert lot["auroc_failure"] == 0.5
    assert {point["accuracy"] for point in lot["referral"]} == {evaluation.report["accuracy"]}


def test_strange_images_are_told_from_the_judged_ones(evaluation: Evaluation) -> None:
    found = evaluation.report["novelty"]["ood"]
    assert found["n"] == 5
    assert found["auroc"] > 0.95
    assert found["flagged_at_5pct"] == 1.0
    assert found["familiar_flagged_at_5pct"] < 0.4


def test_subgroups_follow_the_columns_that_hold_something(evaluation: Evaluation) -> None:
    groups = evaluation.report["subgroups"]
    assert [(one["column"], one["value"]) for one in groups] == [("site", "north"), ("site", "south")]
    assert sum(one["n"] for one in groups) == 42
    assert sum(one["patients"] for one in groups) == 21
    assert sum(one["findings"] for one in groups) == 14
    assert all(0 <= one["finding_recall"] <= 1 for one in groups)


def test_the_certificate_is_counted_again_on_the_judged_cases(evaluation: Evaluation, release: Release) -> None:
    found = evaluation.report["certificate"]
    assert found["cases"] == found["patients"] == 21
    assert found["judged"]["positives"] == 7
    assert found["priority"]["judged"]["positives"] == 14
    assert sum(n for counts in found["routes"].values() for n in counts.values()) == 21
    assert found["sentence"] == release.certificates["routine"].sentence()


def test_a_gated_case_is_in_review_and_never_a_miss(release: Release) -> None:
    cases = judge_cases(judge_of(release), Ensemble.load(release), group_cases(images()["test"], protocol()), stage="x")
    nowhere = Judgement(route_score=0.0, mutual_information=math.nan, novelty_p=1.0, answer=0)
    gated = recheck(release, JudgedCases(cases=cases.cases, judgements=(nowhere,) * len(cases.cases)))
    assert gated["judged"]["misses"] == gated["judged"]["passed"] == 0
    assert gated["routes"]["REVIEW"] == {"finding": 7, "no_finding": 14}


def test_without_a_tune_split_the_baselines_keep_temperature_one(release: Release) -> None:
    found = evaluate(release, {"test": images()["test"]}, draws=5).report
    assert [found["baselines"][name]["temperature"] for name in ("single", "dropout", "ensemble")] == [1.0, 1.0, 1.0]
    assert found["novelty"] == {}


def test_the_baselines_are_the_first_network_and_the_plain_ensemble(release: Release) -> None:
    ensemble, image = Ensemble.load(release), images()["test"][0]
    systems = simpler_systems(pooled_looks(ensemble, [image]), None, protocol())
    certain = np.exp(ensemble.without_dropout(image.parts))[:, 0]
    drawn = np.exp(ensemble.sample(image.parts, image.key).log_probabilities)[0, :, 0]
    assert systems["single"].p[0] == pytest.approx(certain[0])
    assert systems["ensemble"].p[0] == pytest.approx(certain.mean(axis=0))
    assert systems["dropout"].p[0] == pytest.approx(drawn.mean(axis=0))


@pytest.mark.parametrize(
    ("split", "cure"), [("nowhere", "has no image; name another"), ("ood", "name it with --novel")]
)
def test_a_split_that_cannot_be_judged_is_refused(release: Release, split: str, cure: str) -> None:
    with pytest.raises(HaltPipeline, match=cure):
        evaluate(release, {"test": images()["test"], "ood": strangers()}, split=split, draws=5)


def test_prediction_rows_have_the_promised_columns(evaluation: Evaluation) -> None:
    assert all(list(row) == COLUMNS for row in evaluation.rows)
    row = evaluation.rows[0]
    assert sum(float(row[name]) for name in COLUMNS[4:7]) == pytest.approx(1.0)
    chain = float(row["expected_entropy"]) + float(row["mi_dropout"]) + float(row["mi_member"])
    assert float(row["predictive_entropy"]) == pytest.approx(chain, abs=1e-12)
    assert row["route_score"] == pytest.approx(row["p_glioma"])
    assert row["passes"] == 4
    assert {r["split"] for r in evaluation.rows} == {"test", "ood"}


def test_a_prediction_does_not_depend_on_the_images_beside_it(release: Release) -> None:
    ensemble, test = Ensemble.load(release), images()["test"]
    together = prediction_rows(predict(release, ensemble, test[:4]))
    assert prediction_rows(predict(release, ensemble, test[2:3])) == [together[2]]


def test_predictions_are_written_as_csv_and_as_parquet(evaluation: Evaluation, tmp_path: Path) -> None:
    write_predictions(evaluation.rows, tmp_path / "p.csv")
    write_predictions(evaluation.rows, tmp_path / "p.parquet")
    with (tmp_path / "p.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == COLUMNS
    assert float(lines[3]["route_score"]) == evaluation.rows[3]["route_score"]
    assert pd.read_parquet(tmp_path / "p.parquet").to_dict("records") == evaluation.rows
    with pytest.raises(HaltPipeline, match=r"written as \.csv or \.parquet"):
        write_predictions(evaluation.rows, tmp_path / "p.xlsx")


def test_balanced_accuracy_by_hand() -> None:
    log_p = np.log(np.array([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]]))
    found = answers(log_p, [0, 0, 1, 1])
    assert measures.balanced_accuracy(found) == pytest.approx((1.0 + 0.5) / 2)
    assert measures.recalls(found) == {"meningioma": 1.0, "glioma": 0.5}


def test_a_number_without_cases_is_none_and_never_a_guess() -> None:
    log_p = np.log(np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1]]))
    found = measures.measure(answers(log_p, [0, 0]), seed=0)
    assert found["auc"] is None  # no case with the finding
    assert found["auroc_failure"] is None  # no failure
    assert found["accuracy"] == 1.0


def test_every_baseline_has_its_paired_differences_and_the_ratio_is_of_the_means(evaluation: Evaluation) -> None:
    report = evaluation.report
    assert set(report["less"]) == {"single", "dropout", "ensemble", "route"}
    assert report["less_single"] == report["less"]["single"]
    expected = report["augrc"] / report["baselines"]["single"]["augrc"]
    assert report["augrc_ratio_single"]["estimate"] == pytest.approx(expected)
    none, everything = (report["baselines"][name] for name in ("defer_none", "defer_all"))
    assert none["accuracy"] == report["accuracy"]
    assert everything["augrc"] is None  # nothing is kept that could be risked
    assert everything["accuracy"] is None


def test_the_policys_order_defers_what_a_gate_stops_first(evaluation: Evaluation) -> None:
    rows = [row for row in evaluation.rows if row["split"] == "test"]
    assert evaluation.report["baselines"]["route"]["accuracy"] == evaluation.report["accuracy"]
    assert len(rows) == evaluation.report["baselines"]["route"]["n"]


def test_points_of_the_curve_lie_in_their_intervals_and_tell_what_was_deferred(evaluation: Evaluation) -> None:
    for point in evaluation.report["referral"]:
        assert point["low_accuracy"] - 0.02 <= point["accuracy"] <= point["high_accuracy"] + 0.02
        deferred = point["deferred_positives"] + point["deferred_negatives"]
        assert point["kept"] + deferred == evaluation.report["n"]


def test_the_gallery_shows_what_its_titles_say_and_has_a_picture_of_each(evaluation: Evaluation) -> None:
    gallery = evaluation.report["gallery"]
    assert all(row["answer"] != row["label"] for row in gallery["confident_errors"])
    information = [row["mutual_information"] for row in gallery["uncertain"]]
    assert information == sorted(information, reverse=True)
    assert {row["split"] for row in gallery["novel"][:5]} == {"ood"}
    shown = {row["path"] for rows in gallery.values() for row in rows}
    assert set(evaluation.pictures) == shown
    assert all(picture.shape == (SIZE, SIZE) for picture in evaluation.pictures.values())


def test_kinds_of_uncertainty_are_told_for_right_and_wrong_for_classes_and_for_strangers(
    evaluation: Evaluation,
) -> None:
    kinds = evaluation.report["uncertainty"]
    assert {"right", "wrong", "class glioma", "foreign ood"} <= set(kinds)
    assert len(kinds["right"]["mi_member"]) + len(kinds["wrong"]["mi_member"]) == evaluation.report["n"]


def test_a_group_that_pays_for_the_mean_is_blocked_and_named() -> None:
    """One network is wrong on half of the north; the release mends the north and spoils the south for certain."""
    labels = np.zeros(80, dtype=int)
    shown = [
        replace(
            image, row=replace(image.row, patient=f"p{i}", extras={"site": "north" if i < 60 else "south"}), target=0
        )
        for i, image in enumerate(slices("test", 40, 0))
    ]
    right, wrong = np.log([0.9, 0.05, 0.05]), np.log([0.05, 0.9, 0.05])
    single = answers(np.stack([wrong if i < 30 else right for i in range(80)]), list(labels))
    ours = answers(np.stack([wrong if i >= 70 else right for i in range(80)]), list(labels))
    found = {row["value"]: row for row in subgroups(ours, shown, single) if row["column"] == "site"}
    assert (found["north"]["verdict"], found["south"]["verdict"]) == ("ok", "blocked")
    assert found["south"]["augrc_less_single"]["low"] > 0
    assert all("verdict" not in row for row in subgroups(ours, shown))


def test_a_group_too_small_to_tell_is_never_called_ok() -> None:
    labels = np.zeros(40, dtype=int)
    shown = [
        replace(
            image, row=replace(image.row, patient=f"p{i}", extras={"site": "south" if i < 6 else "north"}), target=0
        )
        for i, image in enumerate(slices("test", 20, 0))
    ]
    right, wrong = np.log([0.9, 0.05, 0.05]), np.log([0.05, 0.9, 0.05])
    single = answers(np.stack([wrong if i >= 20 else right for i in range(40)]), list(labels))
    ours = answers(np.stack([wrong if i < 6 else right for i in range(40)]), list(labels))
    found = {row["value"]: row["verdict"] for row in subgroups(ours, shown, single) if row["column"] == "site"}
    assert found == {"north": "ok", "south": "too few"}


def test_reads_a_day_are_asked_for_and_weighted_to_the_declared_prevalence(release: Release) -> None:
    judged = {"routes": {"ROUTINE": {"finding": 0, "no_finding": 5}, "PRIORITY": {"finding": 5, "no_finding": 0}}}
    judged |= {"cases": 20}
    judged["routes"]["REVIEW"] = {"finding": 5, "no_finding": 5}
    assert day(release, judged, None) == {}
    found = day(release, judged, 100, 10)["reads"]
    assert (found["prevalence"], found["prevalence_declared"]) == (0.5, False)
    everyone = found["loads"][0]
    assert everyone["mean"] == pytest.approx(100 * (0.25 + 0.5 + 0.05 * 0.25))
    assert found["feasible"] is False
    assert "not relaxed" in found["capacity_sentence"] or "no threshold is certified" in found["capacity_sentence"]


def test_the_page_of_an_evaluation_is_whole_and_has_no_word_that_promises_absence(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_report(evaluation, tmp_path)
    text = (tmp_path / "report.html").read_text()
    words = re.sub(r"<style>.*?</style>|src=.data:[^'\"]*['\"]|<[^>]*>", " ", text)
    assert not re.search(r"\b(normal|negative|cleared|healthy)\b", words, re.IGNORECASE)
    for title in ("What is certified", "Calibration", "Wrong with the most confidence", "What this does not say"):
        assert title in text
    assert text.count("<figure>") >= 6
    assert "nan" not in words.lower().split()


def test_what_is_logged_elsewhere_names_no_image(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(without_images(evaluation.report), tmp_path)
    text = (tmp_path / "report.html").read_text() + (tmp_path / "report.json").read_text()
    assert not re.search(r"(test|tune)\d+\.png", text)
    assert "Most uncertain" not in text
