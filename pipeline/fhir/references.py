"""Who and what a bundle points at, without owning it: patient, study, order and reader stay the hospital's own records.

They are logical references, by identifier, so that nothing of the hospital's is created or changed. Our own resources are
named by ids that are the same whenever a decision is told again.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pipeline.domain.result import Algorithm, Person, Result, derived_uid
from pipeline.fhir.primitives import clean

UIDS: Final = "urn:dicom:uid"
READERS: Final = "urn:secondread:readers"
_IDENTIFIER_TYPES: Final = "http://terminology.hl7.org/CodeSystem/v2-0203"
_NO_DATA: Final = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


def resource_id(result: Result, name: str) -> str:
    """The id of a resource that a decision owns: the verified result of a decision replaces its preliminary one."""
    return derived_uid("fhir", result.decision_id, name)


def to(kind: str, identity: str) -> dict[str, Any]:
    """A reference to one of our own resources."""
    return {"reference": f"{kind}/{identity}"}


def uid_identifier(uid: str) -> dict[str, Any]:
    """A DICOM UID as FHIR writes it."""
    return {"system": UIDS, "value": f"urn:oid:{uid}"}


def patient(person: Person) -> dict[str, Any]:
    """The patient by identifier and its issuer; one without identifier is said to be unknown."""
    value, issuer = clean(person.patient_id), clean(person.issuer_of_patient_id)
    if not value:
        return {"type": "Patient", "extension": [{"url": _NO_DATA, "valueCode": "unknown"}]}
    identifier = {"type": _typed("MR"), "value": value, "assigner": {"display": issuer}}
    if _OID.fullmatch(issuer):
        identifier["system"] = f"urn:oid:{issuer}"
    return {"type": "Patient", "identifier": identifier}


def order(person: Person) -> list[dict[str, Any]]:
    """The order by its accession number, where there is one."""
    value = clean(person.accession_number)
    return [{"type": "ServiceRequest", "identifier": {"type": _typed("ACSN"), "value": value}}] if value else []


def imaging_study(result: Result) -> dict[str, Any]:
    """The study that the result speaks of."""
    return {"type": "ImagingStudy", "identifier": uid_identifier(result.study_instance_uid)}


def reader(name: str) -> dict[str, Any]:
    """The reader by the name of the account."""
    return {"type": "Practitioner", "identifier": {"system": READERS, "value": name}, "display": name}


def device_id(algorithm: Algorithm) -> str:
    """The DeviceUID of the DICOM SR: new with every change of release, protocol or program (PS3.3 C.7.5.1)."""
    return derived_uid("device", algorithm.release_digest or "", algorithm.protocol_digest, algorithm.version)


def _typed(code: str) -> dict[str, Any]:
    return {"coding": [{"system": _IDENTIFIER_TYPES, "code": code}]}
