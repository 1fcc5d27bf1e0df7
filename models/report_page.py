"""The page of a report: one HTML text that carries its pictures and style inside and asks nothing of any network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from models.report_limits import gain, limits, verdict
from models.report_plots import LINES

Report = Mapping[str, Any]

_COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC (finding)",
    "nll": "NLL, nats",
    "brier": "Brier (0-2)",
    "aurc": "AURC",
    "augrc": "AUGRC",
    "auroc_failure": "AUROC of failure",
    "fpr95": "FPR at 95 %",
}
_DIGITS = {"aurc": 4, "augrc": 4}
_SYSTEMS = {name: title for name, (title, _, _) in LINES.items()} | {
    "defer_none": "none deferred",
    "defer_all": "all deferred",
}
_ERRORS = {
    "equal_width": "most probable class, 15 bins of one width",
    "equal_mass": "most probable class, 15 bins of one size",
    "sweep": "most probable class, as many bins as stay in order",
    "debiased": "most probable class, squared, chance taken off",
    "class_wise": "mean over classes",
    "finding": "the finding alone",
}
_GALLERY = {
    "uncertain": "Most uncertain",
    "novel": "Most unfamiliar",
    "confident_errors": "Wrong with the most confidence",
}
_CURVES = {
    "referral.png": (
        "Each line shows how good the kept answers are as the least certain are deferred; it should rise. The band is the "
        "95 % interval of this release over patients."
    ),
    "make_up.png": (
        "What is deferred. A model that only handed over every case with the finding would look good above and be worth "
        "nothing."
    ),
    "risk_coverage.png": "Share wrong among the kept, against the share kept; lower is better.",
}
_STYLE = """
:root{--ink:#1b1b1b;--muted:#5a5f66;--line:#d9dde2;--accent:#0b5394}
body{font:16px/1.55 system-ui,sans-serif;margin:2rem auto;max-width:68rem;padding:0 1.2rem;color:var(--ink)}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.4rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.6rem 0}
th,td{padding:.28rem .5rem;text-align:right;border-bottom:1px solid var(--line)}th{font-weight:600;color:var(--muted)}
th:first-child,td:first-child{text-align:left}tr.ours td{font-weight:600;background:#f2f6fb}
img{max-width:100%;height:auto}figure{margin:1rem 0}figcaption,.small{color:var(--muted);font-size:.9rem}
.verdict{background:#f2f6fb;border-left:4px solid var(--accent);padding:.8rem 1rem}.verdict p{margin:.4rem 0}
.stop{background:#fdecea;border-left:4px solid #b3261e;padding:.6rem 1rem}.stop b,td.bad{color:#b3261e}
nav{font-size:.9rem}nav a{margin-right:.9rem;color:var(--accent)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(7.5rem,1fr));gap:.8rem}
.cards figure{margin:0}.cards img{width:100%;image-rendering:auto;background:#000;border-radius:2px}
.cards figcaption{font-size:.78rem;line-height:1.35}
@media print{nav{display:none}body{margin:0}h2{break-after:avoid}figure,table{break-inside:avoid}}
"""


def page(report: Report, pictures: Mapping[str, bytes], shown: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """The page of `report`; `pictures` are PNG bytes by file name, `shown` gallery images (H, W) by name in the labels file."""
    sections = [
        ("What is certified, and on whom", _certificate(report)),
        ("What deferral gains", _referral(report, pictures)),
        ("Against simpler systems", _systems(report)),
        ("Calibration", _calibration(report, pictures)),
        ("Where the uncertainty lies", _uncertainty(report, pictures, shown)),
        ("Groups", _groups(report)),
        ("Images that do not belong here", _novelty(report)),
        ("Reads a day", _reads(report)),
        ("What this does not say", _list(limits(report))),
    ]
    title = f"Evaluation of {html.escape(str(report['protocol']))} on split {html.escape(str(report['split']))}"
    links = "".join(f"<a href='#s{i}'>{html.escape(name)}</a>" for i, (name, text) in enumerate(sections) if text)
    body = "".join(f"<h2 id=s{i}>{html.escape(name)}</h2>{text}" for i, (name, text) in enumerate(sections) if text)
    question = html.escape(str(report.get("question", "")))
    head = (
        f"<h1>{title}</h1><p class=small>{question} Release {report['release'][:12]}; {report['n']} images of "
        f"{report['patients']} patients. Decision support for research; not for clinical use.</p><nav>{links}</nav>"
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style><body>{head}{body}</body></html>\n"
    )


def _certificate(report: Report) -> str:
    certificate = report["certificate"]
    sides = (certificate, certificate["priority"])
    told = [side["sentence"] for side in sides]
    omission = certificate.get("false_omission")
    told += [omission["sentence"]] if omission else []
    checked = certificate["judged"]
    told.append(
        f"On this split {checked['misses']} of {checked['positives']} cases with the finding would go to ROUTINE."
    )
    told += [verdict(report), gain(report)]
    box = f"<div class=verdict>{''.join(f'<p>{html.escape(text)}</p>' for text in told)}</div>"
    routes = [[route, str(n["finding"]), str(n["no_finding"])] for route, n in certificate["routes"].items()]
    return box + _on_whom(report) + _table(["route on this split", "with the finding", "without it"], routes)


def _on_whom(report: Report) -> str:
    certificate = report["certificate"]
    if "certified_patients" not in certificate:
        return ""
    parts = [
        f"Tested on {certificate['certified_patients']} patients kept for it, {certificate['positives']} with the finding",
        f"by {str(certificate.get('method', 'ladder')).replace('_', ' ')}",
        f"made on {certificate.get('made_on', '')}, valid to {certificate.get('expires_on', '')}",
    ]
    sampling = report.get("sampling")
    if sampling:
        parts.append(
            f"{sampling['mean_passes']:.1f} of {sampling['budget']} passes per network were made "
            f"({100 * sampling['share_of_budget']:.0f} % of the budget)"
        )
    return f"<p class=small>{html.escape('; '.join(parts))}.</p>"


def _referral(report: Report, pictures: Mapping[str, bytes]) -> str:
    warning = ""
    if report.get("referral_falls"):
        shares = ", ".join(f"{100 * share:.0f} %" for share in report["referral_falls"])
        warning = f"<p class=stop><b>The curve seems to fall</b> at {shares}: deferring more may make the rest worse there.</p>"
    return warning + "".join(_picture(pictures, name, text) for name, text in _CURVES.items())


def _systems(report: Report) -> str:
    systems = {"release": report} | {
        name: report["baselines"][name] for name in _SYSTEMS if name in report["baselines"]
    }
    rows = [
        [_SYSTEMS[name], *(_number(found.get(key), _DIGITS.get(key, 3)) for key in _COLUMNS)]
        for name, found in systems.items()
    ]
    table = _table(["", *_COLUMNS.values()], rows, ours=0)
    less = report.get("less") or {"single": report["less_single"]}
    differences = [
        [_SYSTEMS[name], *(_difference(found.get(key)) for key in ("augrc", "aurc", "nll", "auroc_failure"))]
        for name, found in less.items()
    ]
    return (
        "<p class=small>Lower is better for NLL, Brier, AURC, AUGRC and FPR. AUGRC is the mean risk of an undetected error. Every "
        "system but this release has its own temperature.</p>"
        + table
        + "<h3>This release less each, on the same resampled patients (95 %)</h3>"
        + _table(["", "AUGRC", "AURC", "NLL", "AUROC of failure"], differences)
        + "<h3>This release</h3>"
        + _intervals(report)
    )


def _intervals(report: Report) -> str:
    rows = [
        [_COLUMNS.get(name, name), _number(found["estimate"]), f"{_number(found['low'])} to {_number(found['high'])}"]
        for name, found in report["intervals"].items()
    ]
    return _table(["", "value", "95 % interval over patients"], rows)


def _calibration(report: Report, pictures: Mapping[str, bytes]) -> str:
    ece = report["ece"]
    text = (
        f"<p>Expected calibration error {_number(ece['value'])}; a perfectly calibrated model of this size stays below "
        f"{_number(ece['null_95'])} in 95 % of draws. Temperature {_number(report['temperature'])}.</p>"
    )
    rows = [
        [
            _ERRORS.get(line["name"], line["name"]),
            _number(line["value"], 4),
            f"{_number(line['null_low'], 4)} to {_number(line['null_95'], 4)}",
            "inside" if line["inside"] else "beyond",
        ]
        for line in report.get("calibration", ())
    ]
    table = _table(["error", "value", "by chance alone, 90 %", ""], rows) if rows else ""
    parts = report.get("brier_parts")
    brier = ""
    if parts:
        brier = (
            f"<p class=small>Brier score of the finding {_number(parts['brier'])} = reliability {_number(parts['reliability'], 4)} "
            f"less resolution {_number(parts['resolution'], 4)} plus uncertainty {_number(parts['uncertainty'], 4)} "
            f"plus {_number(parts['within'], 4)} within bins.</p>"
        )
    picture = _picture(
        pictures, "reliability.png", "Points inside the grey bars are what a calibrated model would show."
    )
    return text + picture + table + brier


def _uncertainty(report: Report, pictures: Mapping[str, bytes], shown: Mapping[str, np.ndarray[Any, Any]]) -> str:
    text = _picture(
        pictures,
        "kinds.png",
        "Uncertainty by kind of case (number of images): wrong answers should lie to the right of right ones, and images of "
        "another kind should have low novelty p-values.",
    )
    for kind, title in _GALLERY.items():
        rows = (report.get("gallery") or {}).get(kind, ())
        cards = "".join(_card(row, shown.get(row["path"])) for row in rows)
        text += f"<h3>{title}</h3><div class=cards>{cards}</div>" if cards else ""
    return text


def _card(row: Mapping[str, Any], image: np.ndarray[Any, Any] | None) -> str:
    picture = "" if image is None else f"<img alt='{html.escape(str(row['label']))}' src='{_thumbnail(image)}'>"
    said = (
        f"{html.escape(str(row['label'] or row['split']))}, answered {html.escape(str(row['answer']))} "
        f"({row['confidence']:.2f}); information {row['mutual_information']:.3f}, novelty p {row['novelty_p']:.3f}"
    )
    return f"<figure>{picture}<figcaption>{said}</figcaption></figure>"


def _groups(report: Report) -> str:
    groups = report.get("subgroups") or ()
    if not groups:
        return ""
    blocked = [group for group in groups if group.get("verdict") == "blocked"]
    warning = "".join(
        f"<p class=stop><b>Blocked:</b> the mean improves and {html.escape(one['column'])} {html.escape(one['value'])} pays "
        "for it: its selective risk rises.</p>"
        for one in blocked
    )
    rows = [
        [
            f"{one['column']} = {one['value']}",
            *(str(one[key]) for key in ("n", "patients")),
            _with_interval(one, "accuracy"),
            _number(one["finding_recall"]),
            _number(one.get("augrc")),
            _difference(one.get("augrc_less_single")),
            str(one.get("verdict", "")),
        ]
        for one in groups
    ]
    header = ["", "images", "patients", "accuracy (95 %)", "finding recall", "AUGRC", "less one network", "verdict"]
    return warning + _table(header, rows)


def _novelty(report: Report) -> str:
    novelty = report.get("novelty") or {}
    if not novelty:
        return ""
    rows = [
        [name, str(found["n"]), _number(found["auroc"]), _number(found["flagged_at_5pct"])]
        for name, found in novelty.items()
    ]
    known = _number(next(iter(novelty.values()))["familiar_flagged_at_5pct"])
    note = f"<p class=small>Of the judged split {known} is flagged at the same level.</p>"
    return _table(["split", "images", "AUROC", "share flagged at 5 %"], rows) + note


def _reads(report: Report) -> str:
    reads = report.get("reads")
    if not reads:
        return "<p class=small>Not asked for; give --studies-per-day.</p>"
    rows = [
        [
            load["specialty"].replace("_", " "),
            f"{100 * load['share']:.0f} %",
            f"{load['mean']:.0f}",
            str(load["busy"]),
        ]
        for load in reads["loads"]
    ]
    declared = "declared" if reads["prevalence_declared"] else "that of this split, which is not a hospital's"
    told = f"For {reads['studies_per_day']} studies a day, the finding in {100 * reads['prevalence']:.1f} % of them ({declared})."
    capacity = f"<p><b>{html.escape(reads['capacity_sentence'])}</b></p>" if "capacity_sentence" in reads else ""
    return (
        f"<p>{told}</p>"
        + capacity
        + _table(["specialty", "share of studies", "reads a day", "on 95 of 100 days at most"], rows)
    )


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in sentences) + "</ul>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], ours: int | None = None) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr{' class=ours' if number == ours else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _picture(pictures: Mapping[str, bytes], name: str, text: str) -> str:
    if name not in pictures:
        return ""
    data = base64.b64encode(pictures[name]).decode()
    said = html.escape(text, quote=True)
    return f'<figure><img alt="{said}" src="data:image/png;base64,{data}"><figcaption>{said}</figcaption></figure>'


def _thumbnail(image: np.ndarray[Any, Any]) -> str:
    low, high = np.percentile(image, [1, 99.5])
    unit = np.clip((image - low) / (high - low), 0, 1) if high > low else np.zeros_like(image)
    held = io.BytesIO()
    Image.fromarray((255 * unit).astype(np.uint8)).save(held, format="PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    if row.get(f"{name}_low") is None:
        return _number(row[name])
    return f"{_number(row[name])} ({_number(row[f'{name}_low'], 2)}–{_number(row[f'{name}_high'], 2)})"


def _difference(found: Mapping[str, Any] | None) -> str:
    if not found or found.get("estimate") is None:
        return "–"
    return f"{found['estimate']:+.4f} ({_signed(found.get('low'))} to {_signed(found.get('high'))})"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
