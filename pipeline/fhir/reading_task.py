"""The place of a case in the reading queue as a FHIR Task, from the request for a read to its completion."""

from __future__ import annotations

from typing import Any, Final

from pipeline.domain.case import ItemState, Route
from pipeline.domain.result import Result
from pipeline.fhir.codings import SPECIALTIES, coded, dicom, ours, plain
from pipeline.fhir.observations import is_withheld, told_reasons
from pipeline.fhir.primitives import moment
from pipeline.fhir.references import device_id, imaging_study, order, patient, reader, resource_id, to, uid_identifier

#: Never `stat`: a model alone does not claim that life depends on it.
_PRIORITIES: Final = {Route.PRIORITY: "asap", Route.REVIEW: "urgent"}


def reading_task(result: Result) -> dict[str, Any] | None:
    """The request for a read, or its completion once the read is there; None where nobody is asked."""
    if result.specialty is None:
        return None
    identity = resource_id(result, "task")
    due = result.due_at
    task = {
        "resourceType": "Task",
        "id": identity,
        "identifier": [uid_identifier(identity)],
        "intent": "order",
        "priority": _priority(result),
        "code": dicom("110005", "Interpretation"),
        "description": result.question,
        "basedOn": order(result.person),
        "focus": imaging_study(result),
        "for": patient(result.person),
        "authoredOn": moment(result.decided_at),
        "lastModified": moment(result.told_at),
        "requester": to("Device", device_id(result.algorithm)),
        "performerType": [coded(SPECIALTIES, result.specialty, plain(result.specialty))],
        "restriction": None if due is None else {"period": {"end": moment(due)}},
        "input": [
            {"type": ours("REASON", "Reason of the route"), "valueCodeableConcept": reason}
            for reason in told_reasons(result)
        ],
    }
    return task | _state(result)


def _priority(result: Result) -> str:
    """As the worklist orders; a case under a blind read stands with the deferred ones whatever its route was."""
    if is_withheld(result) and result.route == Route.ROUTINE:
        return _PRIORITIES[Route.REVIEW]
    return next((urgency for route, urgency in _PRIORITIES.items() if route == result.route), "routine")


def _state(result: Result) -> dict[str, Any]:
    if result.read is None:
        return {"status": "requested", "businessStatus": ours(ItemState.SCHEDULED.value, "Waits for a reader")}
    found = to("Observation", resource_id(result, "read"))
    return {
        "status": "completed",
        "businessStatus": ours(ItemState.COMPLETED.value, "Read"),
        "owner": reader(result.read.reader),
        "executionPeriod": {"end": moment(result.read.committed_at)},
        "output": [{"type": ours("READ_FINDING", "Finding of the reader"), "valueReference": found}],
    }
