"""Codings in FHIR: the code systems a result speaks, our own concepts as the DICOM SR names them, and their words."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from pipeline.domain.reason_words import ROUTE_WORDS, in_words
from pipeline.domain.result import Concept
from pipeline.fhir.primitives import clean

SCHEME: Final = "99SECONDREAD"  #: how DICOM designates the concepts that FHIR finds under `CONCEPTS`
CONCEPTS: Final = "urn:secondread:concepts"
SPECIALTIES: Final = "urn:secondread:specialties"
DICOM: Final = "http://dicom.nema.org/resources/ontology/DCM"
UNITS: Final = "http://unitsofmeasure.org"
_ABSENT: Final = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_ABSENCES: Final = {
    "masked": "Masked",
    "not-performed": "Not Performed",
    "not-a-number": "Not a Number (NaN)",
    "unknown": "Unknown",
}
_SYSTEMS: Final = {
    SCHEME: CONCEPTS,
    "DCM": DICOM,
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "UMLS": "http://www.nlm.nih.gov/research/umls",
    "RADLEX": "urn:oid:2.16.840.1.113883.6.256",
}


def coded(system: str, code: str, display: str, text: str | None = None) -> dict[str, Any]:
    """A CodeableConcept of one coding; `text` only where it says more than the system's own display."""
    spaced = " ".join(clean(code).split())
    return {"coding": [{"system": system, "code": spaced, "display": display}], "text": text or display}


def ours(code: str, display: str) -> dict[str, Any]:
    """A concept of our own: no standard one exists for entropies of a posterior, routes and reasons."""
    return coded(CONCEPTS, code, display)


def dicom(code: str, display: str, text: str | None = None) -> dict[str, Any]:
    """A concept of PS3.16."""
    return coded(DICOM, code, display, text)


def of_scheme(concept: Concept) -> dict[str, Any]:
    """A concept of whichever scheme the protocol took it from (PS3.16 section 8)."""
    system = _SYSTEMS.get(concept.scheme) or f"urn:secondread:scheme:{quote(clean(concept.scheme), safe='')}"
    return coded(system, concept.value, concept.meaning)


def absent_because(code: str) -> dict[str, Any]:
    """Why there is no value (HL7 data-absent-reason)."""
    return coded(_ABSENT, code, _ABSENCES[code])


def route_of(route: str) -> dict[str, Any]:
    """A route in the words of the SR."""
    return ours(f"ROUTE_{route}", ROUTE_WORDS.get(route, plain(route)))


def reason_of(reason: str) -> dict[str, Any]:
    """A reason in the words of the reading room."""
    return ours(reason, in_words(reason))


def plain(code: str) -> str:
    """A code as words: 'no_tumour' becomes 'No tumour'."""
    words = code.replace("_", " ").replace("-", " ").strip().lower()
    return words[:1].upper() + words[1:]
