from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import measures
from models.evaluate import Evaluation
from models.plots import training_plot
from models.report import write_report
from models.systems import Answers
from models.training_record import EpochRecord
from pipeline.domain.calibration import reliability_bins
from pipeline.protocol import load_protocol

FILES = {"report.json", "report.html", "referral.png", "make_up.png", "reliability.png", "risk_coverage.png"}


def answers(seed: int) -> Answers:
    generator = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    logits = generator.normal(size=(60, 3)) + 1.5 * np.eye(3)[labels]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Answers(log_p=log_p, labels=labels, protocol=load_protocol("brain-tumour-slice"), temperature=1.0)


def side(sentence: str) -> dict[str, Any]:
    return {"sentence": sentence, "certified": False, "judged": {"positives": 20, "misses": 1}}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    systems = {name: answers(seed) for seed, name in enumerate(("release", "single", "dropout", "ensemble"))}
    measured = {name: measures.measure(one, seed=0) for name, one in systems.items()}
    ours = systems["release"]
    patients = [f"p{i // 2}" for i in range(60)]
    bins = reliability_bins(ours.confidence, ours.failures == 0.0)
    return measured["release"] | {
        "release": "ab" * 32,
        "protocol": "brain-tumour-slice",
        "split": "test<b>",
        "patients": 30,
        "intervals": measures.intervals(ours, patients, seed=0, draws=20),
        "less_single": measures.differences(ours, systems["single"], patients, seed=0, draws=20),
        "baselines": {name: measured[name] for name in ("single", "dropout", "ensemble")}
        | {"random": measures.by_lot(measured["release"])},
        "certificate": side("Nothing is certified <here>.")
        | {"priority": side("Nor there."), "routes": {"REVIEW": {"finding": 20, "no_finding": 40}}},
        "novelty": {"ood": {"n": 5, "auroc": 0.99, "flagged_at_5pct": 1.0, "familiar_flagged_at_5pct": 0.04}},
        "subgroups": [
            {
                "column": "site",
                "value": "MR",
                "n": 60,
                "patients": 30,
                "accuracy": 0.8,
                "findings": 0,
                "finding_recall": None,
            }
        ],
        "reliability": [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in bins],
        "risk_coverage": {name: measures.curve(one) for name, one in systems.items()},
    }


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_the_five_files_are_written(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == FILES


def test_the_json_is_the_report(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(Evaluation(report=report, rows=[]), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_the_page_asks_nothing_of_any_network(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    pictures = [source for source in page.sources if not source.startswith("#")]
    assert len(pictures) == 4
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not page.tags & {"script", "link", "iframe"}
    assert not re.search(r"https?://|url\(", text)


def test_the_page_says_the_certificate_and_escapes_what_it_is_given(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "Nothing is certified &lt;here&gt;." in text
    assert "test&lt;b&gt;" in text
    assert "<here>" not in text
    assert "1 of 20 cases with the finding" in text
    assert f"{report['augrc']:.3f}" in text


def test_the_pictures_can_be_opened_and_are_not_blank(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    for name in ("referral.png", "make_up.png", "reliability.png", "risk_coverage.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 400
            assert np.asarray(picture.convert("L")).std() > 5


def test_a_number_that_could_not_be_had_is_a_dash_and_null(report: dict[str, Any], tmp_path: Path) -> None:
    lacking = report | {"auc": math.nan, "referral": [p | {"auc": None} for p in report["referral"]], "novelty": {}}
    write_report(lacking, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["auc"] is None
    assert "<td>–</td>" in (tmp_path / "report.html").read_text()


def test_learning_curves_are_drawn(tmp_path: Path) -> None:
    history = [EpochRecord(epoch=i, train_nll=1.0, tune_nll=1.0, tune_accuracy=0.5, seconds=1.0) for i in range(3)]
    training_plot(tmp_path / "curves.png", [history, history])
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
