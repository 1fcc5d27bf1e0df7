"""Patients without names: a keyed pseudonym that nobody without the key can reverse or foresee."""

from __future__ import annotations

import hashlib
import hmac

from pipeline.domain.study import InstanceHeader


def patient_pseudonym(key: bytes, header: InstanceHeader) -> str:
    """HMAC-SHA256 of issuer and PatientID, hexadecimal; without a PatientID every study has a pseudonym of its own."""
    patient_id = (header.patient_id or "").strip()
    if not patient_id:
        return study_pseudonym(key, header.study_instance_uid)
    return _keyed(key, "patient", (header.issuer_of_patient_id or "").strip(), patient_id)


def study_pseudonym(key: bytes, study_instance_uid: str) -> str:
    """The pseudonym of a patient of whom nothing but one study is known. Raises ValueError for an empty key."""
    return _keyed(key, "study", study_instance_uid)


def _keyed(key: bytes, *parts: str) -> str:
    if not key:
        raise ValueError("a pseudonym needs a key")
    text = "|".join(part.replace("\\", "\\\\").replace("|", "\\|") for part in parts)
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
