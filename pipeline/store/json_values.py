"""Frozen domain values as JSON and back: what is stored must be readable in ten years and refuse nothing that happened.

Numbers that are not finite become the words "nan", "inf" and "-inf", because a record of a failed analysis must not
itself fail to be written; identity fields of a header never pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from datetime import date
from enum import Enum
from numbers import Integral, Real
from typing import Any

from pipeline.domain.evidence import Evidence, Policy
from pipeline.domain.study import Completeness, InstanceHeader, SealEvidence

IDENTITY_FIELDS = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_number",
    "referring_physician_name",
    "study_date",
    "study_time",
)
_TUPLES = ("image_type", "image_orientation", "image_position", "pixel_spacing")


def plain(value: object) -> Any:
    """`value` as JSON objects, lists, text, numbers, true, false and null; what is none of these as its type's name."""
    if value is None or isinstance(value, bool | str):
        return str(value.value) if isinstance(value, Enum) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(inner) for inner in value]
    return _plain_number(value)


def _plain_number(value: object) -> Any:
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    return value.isoformat() if isinstance(value, date) else type(value).__name__


def evidence_json(evidence: Evidence) -> dict[str, Any]:
    """The evidence of one decision."""
    content: dict[str, Any] = plain(evidence)
    return content


def header_json(header: InstanceHeader) -> dict[str, Any]:
    """A header without its identity fields."""
    content: dict[str, Any] = plain(header)
    return {name: value for name, value in content.items() if name not in IDENTITY_FIELDS}


def header_from(content: Mapping[str, Any]) -> InstanceHeader:
    """The header that `header_json` made this of; identity fields are None."""
    tuples = {name: tuple(content[name]) for name in _TUPLES if content.get(name) is not None}
    return InstanceHeader(**{**content, **tuples})


def seal_from(content: Mapping[str, Any]) -> SealEvidence:
    """The seal evidence that `plain` made this of."""
    read = {"completeness": Completeness(content["completeness"]), "problems": tuple(content["problems"])}
    return SealEvidence(**{**content, **read})


def policy_from(content: Mapping[str, Any]) -> Policy:
    """The policy that `plain` made this of."""
    return Policy(**{**content, "certificate_expires": date.fromisoformat(content["certificate_expires"])})
