"""The report of an evaluation: report.json for programs, report.html for people, and the pictures of both.

The page may show images of patients and stays where it was written; what is logged elsewhere comes from `without_images`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluate import Evaluation
from models.measures import defined
from models.plots import reliability_plot, risk_coverage_plot
from models.report_page import page
from models.report_plots import LINES, kinds_of_uncertainty, make_up, referral_panels
from pipeline.domain.calibration import ReliabilityBin

_PICTURES = ("referral.png", "make_up.png", "reliability.png", "risk_coverage.png", "kinds.png")
_ON_THE_CURVE = ("release", "route", "ensemble", "dropout", "single", "random")


def write_report(evaluation: Evaluation | Mapping[str, Any], folder: Path) -> None:
    """Write report.json, report.html and the pictures to `folder`; an evaluation or the content of a report.json will do."""
    whole = isinstance(evaluation, Evaluation)
    report = evaluation.report if isinstance(evaluation, Evaluation) else evaluation
    shown = evaluation.pictures if isinstance(evaluation, Evaluation) and whole else {}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(defined(dict(report)), indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    for name in _PICTURES:
        (folder / name).unlink(missing_ok=True)
    _draw(report, folder)
    pictures = {name: (folder / name).read_bytes() for name in _PICTURES if (folder / name).exists()}
    (folder / "report.html").write_text(page(report, pictures, shown), encoding="utf-8")


def without_images(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without anything of a single image: no gallery, no names from the labels file."""
    return {key: value for key, value in report.items() if key != "gallery"}


def _draw(report: Mapping[str, Any], folder: Path) -> None:
    found = {"release": report} | dict(report["baselines"])
    curves = {name: found[name]["referral"] for name in _ON_THE_CURVE if found.get(name, {}).get("referral")}
    referral_panels(folder / "referral.png", curves)
    make_up(folder / "make_up.png", report["referral"])
    reliability_plot(folder / "reliability.png", [ReliabilityBin(**one) for one in report["reliability"]])
    lines = {
        LINES[name][0]: (np.array(curve["coverage"]), np.array(curve["risk"]))
        for name, curve in report["risk_coverage"].items()
    }
    risk_coverage_plot(folder / "risk_coverage.png", lines)
    if report.get("uncertainty"):
        kinds_of_uncertainty(folder / "kinds.png", report["uncertainty"])
