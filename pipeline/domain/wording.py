"""The certificate's sentence: what a clinician may rely on, in plain words and with the counts behind it."""

from __future__ import annotations

import math
from datetime import date

from pipeline.domain.ladder import cases_needed

_AT_RISK = {"routine": "with the finding", "priority": "without the finding"}
_ROUTE = {"routine": "ROUTINE", "priority": "PRIORITY"}


def percent(share: float, *, up: bool = True) -> str:
    """A share as a percentage with one decimal, rounded away from a promise it does not keep."""
    scaled = share * 1000.0
    tenths = math.ceil(scaled - 1e-9) if up else math.floor(scaled + 1e-9)
    return f"{tenths / 10:g} %"


def certificate_sentence(
    *,
    side: str,
    alpha: float,
    delta: float,
    at_risk: int,
    misses: int,
    certified: bool,
    smallest_alpha: float | None,
    expires_on: date,
) -> str:
    """One sentence saying what is certified on this side, or what is not and which limit would be."""
    kind, route, confidence = _AT_RISK[side], _ROUTE[side], percent(1.0 - delta, up=False)
    if certified:
        return (
            f"With {confidence} confidence at most {percent(alpha)} of studies {kind} go to {route}: "
            f"{misses} of {_patients(at_risk)} {kind} did in the certification test; "
            f"this holds until {expires_on.isoformat()} while new studies resemble those tested."
        )
    needed = f"{percent(alpha)} would need at least {cases_needed(0, alpha, delta)} such patients without a single miss"
    if smallest_alpha is None:
        return (
            f"No limit can be certified for {route} with {_patients(at_risk)} {kind} in the certification test "
            f"({needed}), so no study goes to {route}."
        )
    return (
        f"Not certified: with {confidence} confidence these {_patients(at_risk)} {kind} can certify a limit of "
        f"{percent(smallest_alpha)} for {route} and not {percent(alpha)} ({needed}), so no study goes to {route}."
    )


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count} patients"
