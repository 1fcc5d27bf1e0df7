"""A result as one FHIR R4 transaction: report, observations, queue item, device and provenance.

Every entry is a PUT under an id derived from the decision, so that what is sent twice is there once, and so that the
verified result of a decision replaces its preliminary one: the report becomes final and the queue item completed. The
provenance is of the telling and stays for both. A later revision of the study has resources of its own, which name the
earlier reports in their provenance.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from pipeline.domain.result import Algorithm, Result
from pipeline.fhir.codings import coded, dicom, of_scheme, ours, plain, route_of
from pipeline.fhir.observations import observations, report_status, told_route
from pipeline.fhir.primitives import clean, moment, pruned
from pipeline.fhir.reading_task import reading_task
from pipeline.fhir.references import device_id, imaging_study, order, patient, reader, resource_id, to, uid_identifier

MANUFACTURER: Final = "secondread"
_DECISIONS: Final = "urn:secondread:decisions"
_PARTICIPANTS: Final = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_UNVERIFIED: Final = "Triage by a model, not verified by a clinician; not for diagnosis."
_WITHHELD: Final = "Withheld until a clinician has read the case"


def result_bundle(result: Result) -> dict[str, Any]:
    """The transaction Bundle (FHIR R4 3.1.0.11) of a result. Raises ValueError where a moment has no zone."""
    seen = observations(result)
    told = [_report(result, seen), *seen]
    if (task := reading_task(result)) is not None:
        told.append(task)
    resources = [_device(result.algorithm), *told, _provenance(result, told)]
    return {
        "resourceType": "Bundle",
        "id": f"{resource_id(result, 'report')}-{report_status(result)}",
        "type": "transaction",
        "timestamp": moment(result.told_at),
        "entry": [_put(pruned(resource)) for resource in resources],
    }


def bundle_bytes(result: Result) -> bytes:
    """The bundle as canonical JSON, the same bytes whenever it is made again."""
    text = json.dumps(result_bundle(result), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"{text}\n".encode()


def _put(resource: dict[str, Any]) -> dict[str, Any]:
    place = f"{resource['resourceType']}/{resource['id']}"
    return {"resource": resource, "request": {"method": "PUT", "url": place}}


def _report(result: Result, seen: list[dict[str, Any]]) -> dict[str, Any]:
    read = result.read
    identity = resource_id(result, "report")
    return {
        "resourceType": "DiagnosticReport",
        "id": identity,
        "identifier": [
            uid_identifier(identity),
            {"system": _DECISIONS, "value": result.decision_id},
        ],
        "status": report_status(result),
        "category": [coded("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": dicom("126000", "Imaging Measurement Report"),
        "subject": patient(result.person),
        "basedOn": order(result.person),
        "imagingStudy": [imaging_study(result)],
        "effectiveDateTime": moment(result.decided_at),
        "issued": moment(result.told_at),
        "resultsInterpreter": [] if read is None else [reader(read.reader)],
        "result": [to("Observation", found["id"]) for found in seen],
        "conclusion": _conclusion(result),
        "conclusionCode": [of_scheme(result.finding)] if read is not None and result.asserted else [],
    }


def _conclusion(result: Result) -> str:
    """In words; as a code only what a clinician says is there, so that no triage is taken for a diagnosis."""
    if result.read is not None:
        return f"Read as: {plain(result.read.finding)}. Certainty {result.read.certainty} of 5."
    route = told_route(result)
    return f"{_WITHHELD if route is None else route_of(route)['text']}. {_UNVERIFIED}"


def _device(algorithm: Algorithm) -> dict[str, Any]:
    """The release that spoke, or the program where none did."""
    identity = device_id(algorithm)
    digest = {"type": ours("PROTOCOL_DIGEST", "SHA-256 of the protocol")}
    return {
        "resourceType": "Device",
        "id": identity,
        "identifier": [uid_identifier(identity)],
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": f"secondread {algorithm.protocol}", "type": "model-name"}],
        "type": ours("ALGORITHM", "Triage algorithm"),
        "version": [
            {"type": ours("RELEASE", "SHA-256 of the release"), "value": algorithm.release_digest or "no release"},
            {"type": ours("SOFTWARE", "Version of the program"), "value": algorithm.version},
        ],
        "property": [digest | {"valueCode": [{"text": algorithm.protocol_digest}]}],
    }


def _provenance(result: Result, told: list[dict[str, Any]]) -> dict[str, Any]:
    algorithm, read = result.algorithm, result.read
    agents = [_agent("performer", to("Device", device_id(algorithm)))]
    if read is not None:
        agents.append(_agent("author", reader(read.reader)))
    return {
        "resourceType": "Provenance",
        "id": result.uid("fhir provenance"),
        "target": [to(resource["resourceType"], resource["id"]) for resource in told],
        "occurredDateTime": moment(result.decided_at if read is None else read.committed_at),
        "recorded": moment(result.told_at),
        "policy": [f"urn:secondread:protocol:{quote(clean(algorithm.protocol), safe='')}:{algorithm.protocol_digest}"],
        "agent": agents,
        "entity": [
            *(_entity("source", source.sop_instance_uid) for source in result.sources),
            *(_entity("revision", sop_instance_uid) for sop_instance_uid, _ in result.predecessors),
        ],
    }


def _agent(code: str, who: dict[str, Any]) -> dict[str, Any]:
    return {"type": coded(_PARTICIPANTS, code, code.capitalize()), "who": who}


def _entity(role: str, uid: str) -> dict[str, Any]:
    return {"role": role, "what": {"identifier": uid_identifier(uid)}}
