"""What a report does not promise, in plain words and from its own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FEW_PATIENTS = 100
_FEW_OF_A_GROUP = 30


def limits(report: Mapping[str, Any]) -> list[str]:
    """Sentences for the end of a report; those that its numbers call for come first."""
    return [*_called_for(report), *_ALWAYS]


def verdict(report: Mapping[str, Any]) -> str:
    """In one line whether the uncertainty is worth anything on these patients."""
    ratio = report.get("augrc_ratio_single")
    if not ratio or ratio.get("estimate") is None:
        return (
            "Whether the uncertainty is worth anything here cannot be said: a single network makes no error to defer."
        )
    low, high = ratio.get("low"), ratio.get("high")
    told = f"{ratio['estimate']:.2f} times that of one deterministic network"
    told += "" if low is None else f" (95 % interval {low:.2f} to {high:.2f})"
    if high is not None and high < 1.0:
        sense = "The release does better than one network on these patients"
    elif low is not None and low > 1.0:
        sense = "The release does worse than one network on these patients"
    else:
        sense = "A gain over one network is not proven on these patients"
    return f"{sense}: the mean risk of an undetected error (AUGRC) is {told}."


def gain(report: Mapping[str, Any]) -> str:
    """What deferring 10, 20 and 30 % of the cases does to the accuracy of the rest."""
    points = {round(point["deferred"], 2): point.get("accuracy") for point in report["referral"]}
    parts = [f"{100 * share:.0f} %: {points[share]:.3f}" for share in (0.1, 0.2, 0.3) if points.get(share) is not None]
    return f"Accuracy of all cases {report['accuracy']:.3f}; of those kept when deferring {', '.join(parts)}."


_ALWAYS = (
    "A certificate is a promise about the rate among many studies, with a stated confidence. It says nothing of one patient.",
    (
        "It holds while new studies resemble those of the certification set. Another scanner, protocol or population voids it; "
        "blind audit reads and the watch on drift are there to notice."
    ),
    "The parts of uncertainty (in the images, between looks, between networks) are a description, not a proof of the cause.",
    "Novelty is told from images of other kinds. Rare disease that looks familiar is not found by it.",
    "Calibration and curves are of these patients; a point inside its null is not proven right, only not shown wrong.",
)


def _called_for(report: Mapping[str, Any]) -> list[str]:
    found = []
    if report["patients"] < _FEW_PATIENTS:
        found.append(
            f"These numbers are of {report['patients']} patients: their intervals are wide, and small differences are chance."
        )
    if not report["certificate"].get("certified"):
        found.append("ROUTINE is not certified, so that every study is read: nothing here is an automatic decision.")
    if report.get("referral_falls"):
        shares = ", ".join(f"{100 * share:.0f} %" for share in report["referral_falls"])
        found.append(
            f"Deferring more seems to make the rest worse at {shares}: there the order of uncertainty may mislead."
        )
    small = [f"{g['column']} {g['value']}" for g in report.get("subgroups", ()) if g["patients"] < _FEW_OF_A_GROUP]
    if small:
        found.append(f"Fewer than {_FEW_OF_A_GROUP} patients stand behind: {', '.join(small)}.")
    if not report.get("novelty"):
        found.append("No images of another kind were judged: how well unfamiliar images are told is not known here.")
    return found
