"""The report of an evaluation: report.json for programs, report.html for people, and the pictures of both.

The page carries its pictures and style inside and asks nothing of any network.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluate import Evaluation
from models.measures import defined
from models.plots import referral_plot, reliability_plot, risk_coverage_plot
from pipeline.domain.calibration import ReliabilityBin

_TITLES = {"release": "this release", "single": "one deterministic network", "dropout": "one network, MC dropout"} | {
    "ensemble": "deterministic ensemble",
    "random": "deferral by lot",
}
_COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC (finding)",
    "nll": "NLL, nats",
    "brier": "Brier (0-2)",
    "aurc": "AURC",
    "augrc": "AUGRC",
    "auroc_failure": "AUROC of failure",
}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1b1b}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}
img{max-width:100%}.verdict{background:#f2f5f9;border-left:4px solid #0b5394;padding:.8rem 1rem}.small{color:#555}
"""


def write_report(evaluation: Evaluation | Mapping[str, Any], folder: Path) -> None:
    """Write report.json, report.html, referral.png, reliability.png and risk_coverage.png to `folder`.

    An evaluation or the content of a report.json will do.
    """
    report = evaluation.report if isinstance(evaluation, Evaluation) else evaluation
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(defined(dict(report)), indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    _draw(report, folder)
    (folder / "report.html").write_text(_page(report, folder), encoding="utf-8")


def _draw(report: Mapping[str, Any], folder: Path) -> None:
    curves = {_TITLES["release"]: report["referral"]} | {
        _TITLES[name]: report["baselines"][name]["referral"] for name in ("single", "random")
    }
    referral_plot(folder / "referral.png", curves, ["auc", "accuracy"])
    reliability_plot(folder / "reliability.png", [ReliabilityBin(**one) for one in report["reliability"]])
    lines = {
        _TITLES[name]: (np.array(curve["coverage"]), np.array(curve["risk"]))
        for name, curve in report["risk_coverage"].items()
    }
    risk_coverage_plot(folder / "risk_coverage.png", lines)


def _page(report: Mapping[str, Any], folder: Path) -> str:
    title = f"Evaluation of {html.escape(str(report['protocol']))} on split {html.escape(str(report['split']))}"
    parts = [
        f"<h1>{title}</h1>",
        (
            f"<p class=small>Release {report['release'][:12]}, {report['n']} images of {report['patients']} patients. "
            "Decision support for research; not for clinical use.</p>"
        ),
        _certificate(report["certificate"]),
        "<h2>How good the answers are</h2>",
        _intervals(report),
        "<h2>Against simpler systems</h2>",
        (
            "<p class=small>Lower is better for NLL, Brier, AURC and AUGRC. AUGRC is the mean risk of an undetected failure."
            "</p>"
        ),
        _systems(report),
        "<h2>What deferral gains</h2>",
        _picture(folder, "referral.png", "Referral curve"),
        _picture(folder, "risk_coverage.png", "Risk against coverage"),
        "<h2>Calibration</h2>",
        _calibration(report),
        _picture(folder, "reliability.png", "Reliability with the band of a calibrated model"),
        _novelty(report["novelty"]),
        _subgroups(report["subgroups"]),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _certificate(certificate: Mapping[str, Any]) -> str:
    sides = (certificate, certificate["priority"])
    sentences = "".join(f"<p>{html.escape(side['sentence'])}</p>" for side in sides)
    routes = [
        [route, str(counts["finding"]), str(counts["no_finding"])] for route, counts in certificate["routes"].items()
    ]
    checked = certificate["judged"]
    again = (
        f"<p class=small>On this split {checked['misses']} of {checked['positives']} cases with the finding pass to "
        "ROUTINE.</p>"
    )
    return f"<div class=verdict>{sentences}{again}</div>" + _table(["route", "finding", "no finding"], routes)


def _intervals(report: Mapping[str, Any]) -> str:
    rows = [
        [_COLUMNS.get(name, name), _number(found["estimate"]), f"{_number(found['low'])} to {_number(found['high'])}"]
        for name, found in report["intervals"].items()
    ]
    return _table(["", "value", "95 % interval over patients"], rows)


def _systems(report: Mapping[str, Any]) -> str:
    systems = {"release": report} | dict(report["baselines"])
    rows = [[_TITLES[name], *(_number(found[key]) for key in _COLUMNS)] for name, found in systems.items()]
    gain = report["less_single"]["augrc"]
    note = (
        f"<p>AUGRC less that of one deterministic network: {_number(gain['estimate'])} "
        f"({_number(gain['low'])} to {_number(gain['high'])}, paired over patients).</p>"
    )
    return _table(["", *_COLUMNS.values()], rows) + note


def _calibration(report: Mapping[str, Any]) -> str:
    ece = report["ece"]
    return (
        f"<p>Expected calibration error {_number(ece['value'])}; a perfectly calibrated model of this size stays below "
        f"{_number(ece['null_95'])} in 95 % of draws. Temperature {_number(report['temperature'])}.</p>"
    )


def _novelty(novelty: Mapping[str, Mapping[str, Any]]) -> str:
    if not novelty:
        return ""
    rows = [
        [name, str(found["n"]), _number(found["auroc"]), _number(found["flagged_at_5pct"])]
        for name, found in novelty.items()
    ]
    known = _number(next(iter(novelty.values()))["familiar_flagged_at_5pct"])
    table = _table(["split", "images", "AUROC", "share flagged at 5 %"], rows)
    return f"<h2>Images that do not belong here</h2>{table}<p class=small>Of the judged split {known} is flagged.</p>"


def _subgroups(groups: Sequence[Mapping[str, Any]]) -> str:
    if not groups:
        return ""
    rows = [
        [
            f"{one['column']} = {one['value']}",
            *(str(one[key]) for key in ("n", "patients")),
            *(_number(one[key]) for key in ("accuracy", "finding_recall")),
        ]
        for one in groups
    ]
    return "<h2>Subgroups</h2>" + _table(["", "images", "patients", "accuracy", "finding recall"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _picture(folder: Path, name: str, text: str) -> str:
    data = base64.b64encode((folder / name).read_bytes()).decode()
    return f'<p><img alt="{text}" src="data:image/png;base64,{data}"></p>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
