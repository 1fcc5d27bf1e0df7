"""What a result says as FHIR Observations: the model's numbers, its route, how the analysis went, and the read.

Each has a value or a dataAbsentReason, never both and never neither, so that silence cannot be taken for an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from pipeline.domain.case import Reason, Route
from pipeline.domain.result import Absent, Findings, HumanRead, Result
from pipeline.fhir.codings import UNITS, absent_because, dicom, of_scheme, ours, plain, reason_of, route_of
from pipeline.fhir.primitives import clean, moment
from pipeline.fhir.references import device_id, imaging_study, order, patient, reader, resource_id, to, uid_identifier

_CATEGORY: Final = [
    {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging"}]}
]
_UNKNOWN: Final = "unknown"
_CERTAINTY: Final = dicom("111012", "Certainty of Finding", "Certainty of the finding, from 1 to 5")


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    """One of the model's numbers: its field in `Numbers`, its concept and its unit in UCUM."""

    field: str
    code: dict[str, Any]
    ucum: str
    unit: str


_QUANTITIES: Final = (
    _Quantity(field="probability", code=dicom("122157", "Probability"), ucum="1", unit="no units"),
    _Quantity(field="predictive_entropy", code=ours("PRED_ENTROPY", "Predictive entropy"), ucum="{nat}", unit="nat"),
    _Quantity(field="expected_entropy", code=ours("EXP_ENTROPY", "Expected entropy"), ucum="{nat}", unit="nat"),
    _Quantity(
        field="mutual_information",
        code=ours("MUTUAL_INFO", "Mutual information of class and weights"),
        ucum="{nat}",
        unit="nat",
    ),
    _Quantity(
        field="novelty_p",
        code=ours("NOVELTY_P", "P-value of novelty against held-out images"),
        ucum="1",
        unit="no units",
    ),
    _Quantity(field="passes", code=ours("PASSES", "Stochastic passes of each member"), ucum="{pass}", unit="passes"),
    _Quantity(field="members", code=ours("MEMBERS", "Members of the ensemble"), ucum="{member}", unit="members"),
)

#: CID 6047. Every code there says "with" or "without findings": what says neither has none of them.
_PROCESSING: Final = {
    Findings.WITH: dicom("111242", "All algorithms succeeded; with findings"),
    Findings.WITHOUT: dicom(
        "111241",
        "All algorithms succeeded; without findings",
        "All algorithms succeeded; nothing was flagged, which is no diagnosis",
    ),
    Findings.NONE: dicom(
        "111245",
        "No algorithms succeeded; without findings",
        "No algorithms succeeded; nothing is known about findings",
    ),
    Findings.PARTIAL: ours("DEFERRED", "Deferred to a clinician; nothing is said about findings"),
}


def is_withheld(result: Result) -> bool:
    """Whether a clinician still reads the case without knowing what the model said."""
    return result.absent is Absent.WITHHELD or result.findings is Findings.WITHHELD


def report_status(result: Result) -> str:
    """`final` once a clinician has read the case; what a model says alone stays `preliminary` in every revision.

    Never `amended`: a committed read does not change, and a later revision of the study is a report of its own.
    """
    return "preliminary" if result.read is None else "final"


def told_route(result: Result) -> str | None:
    """The route, or None where it would tell a blind reader what the model said."""
    return None if is_withheld(result) and result.route == Route.ROUTINE else result.route


def told_reasons(result: Result) -> list[dict[str, Any]]:
    """The reasons of the route; a blind reader is not told those that are the model's answer."""
    hidden = {Reason.CONFIDENT_FINDING, Reason.CONFIDENT_ABSENCE} if is_withheld(result) else set[Reason]()
    return [reason_of(reason) for reason in result.reasons if reason not in hidden]


def observations(result: Result) -> list[dict[str, Any]]:
    """All that a result says, one Observation each."""
    measured = [_measured(result, quantity) for quantity in _QUANTITIES]
    read = [] if result.read is None else [_read(result, result.read)]
    return [*measured, _route(result), _processing(result), *read]


def _measured(result: Result, quantity: _Quantity) -> dict[str, Any]:
    observation = _observation(result, quantity.field, quantity.code)
    if quantity.field == "probability":
        asked = {"code": ours("ASKED", "Finding asked for"), "valueCodeableConcept": of_scheme(result.finding)}
        observation["component"] = [asked]
    value = _number(result, quantity.field)
    if isinstance(value, str):
        return observation | {"dataAbsentReason": absent_because(value)}
    measure = {"value": value, "unit": quantity.unit, "system": UNITS, "code": quantity.ucum}
    return observation | {"valueQuantity": measure}


def _number(result: Result, field: str) -> float | int | str:
    """One number, or the code of why it is absent, which wins over any number that came with it."""
    if is_withheld(result):
        return "masked"
    if result.absent is not None:
        return result.absent.value
    if result.numbers is None:
        return _UNKNOWN
    value: float | int = getattr(result.numbers, field)
    return value if math.isfinite(value) else Absent.NOT_A_NUMBER.value


def _route(result: Result) -> dict[str, Any]:
    route = told_route(result)
    observation = _observation(result, "route", ours("ROUTE", "Route of the study"))
    if route is None:
        return observation | {"dataAbsentReason": absent_because("masked")}
    reasons = [
        {"code": ours("REASON", "Reason of the route"), "valueCodeableConcept": reason}
        for reason in told_reasons(result)
    ]
    return observation | {"valueCodeableConcept": route_of(route), "component": reasons}


def _processing(result: Result) -> dict[str, Any]:
    code = dicom("111017", "CAD Processing and Findings Summary")
    observation = _observation(result, "processing", code)
    if is_withheld(result):
        return observation | {"dataAbsentReason": absent_because("masked")}
    return observation | {"valueCodeableConcept": _PROCESSING[result.findings]}


def _read(result: Result, read: HumanRead) -> dict[str, Any]:
    """The committed read: the reader's own words, and no device behind them."""
    who, when = reader(read.reader), moment(read.committed_at)
    found = ours(f"READ_{read.finding}".upper(), plain(read.finding))
    if result.asserted:
        found["coding"] += of_scheme(result.finding)["coding"]
    observation = _observation(result, "read", ours("READ_FINDING", "Finding of the reader"))
    return observation | {
        "device": None,
        "performer": [who],
        "effectiveDateTime": when,
        "valueCodeableConcept": found,
        "component": [{"code": _CERTAINTY, "valueInteger": read.certainty}],
        "note": [{"authorReference": who, "time": when, "text": read.comment}] if clean(read.comment) else [],
    }


def _observation(result: Result, name: str, code: dict[str, Any]) -> dict[str, Any]:
    identity = resource_id(result, name)
    return {
        "resourceType": "Observation",
        "id": identity,
        "identifier": [uid_identifier(identity)],
        "status": report_status(result),
        "category": _CATEGORY,
        "code": code,
        "subject": patient(result.person),
        "basedOn": order(result.person),
        "partOf": [imaging_study(result)],
        "effectiveDateTime": moment(result.decided_at),
        "issued": moment(result.told_at),
        "device": to("Device", device_id(result.algorithm)),
    }
