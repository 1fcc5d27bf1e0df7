"""A result: everything that leaves the house about one decision, whatever form it takes outside."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class ResultKind(StrEnum):
    """What an outbox row announces."""

    TRIAGE = "result"  #: The model's routing, before any read: preliminary and unverified.
    READ = "read"  #: A clinician has read the case: the verified successor.


class ResultForm(StrEnum):
    """The shape a result takes for a destination."""

    SR = "sr"  #: DICOM Comprehensive 3D SR, TID 1500.
    SC = "sc"  #: DICOM Secondary Capture: one summary page, for a PACS that takes no SR.
    FHIR = "fhir"  #: A FHIR R4 bundle.


class DeliveryState(StrEnum):
    """Where one result stands on its way to one destination."""

    WAITING = "WAITING"  #: To be sent, now or at the next attempt.
    PROVEN = "PROVEN"  #: Sent, confirmed by the receiver and found there again.
    PARKED = "PARKED"  #: Not delivered within three days: kept and shown, sent again only on request.
    OVERTAKEN = "OVERTAKEN"  #: A later revision of the study was decided before this was sent.


class Findings(StrEnum):
    """What became of the analysis (CID 6047), so that silence is never negative."""

    WITH = "with"  #: It succeeded and found something.
    WITHOUT = "without"  #: It succeeded and found nothing.
    PARTIAL = "partial"  #: Some of it did not succeed, and nothing is said about findings.
    NONE = "none"  #: None of it succeeded.
    WITHHELD = "withheld"  #: It is not told while a clinician reads the case without knowing it.


class Absent(StrEnum):
    """Why a result carries no numbers."""

    WITHHELD = "withheld"  #: A clinician still reads the case without knowing them.
    NOT_PERFORMED = "not-performed"  #: The model did not speak about this case.
    NOT_A_NUMBER = "not-a-number"  #: What it said is not finite.


@dataclass(frozen=True, kw_only=True)
class Person:
    """The study's own identity, repeated in its result and nowhere else; None means absent in the images too."""

    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    patient_name: str | None = None
    patient_birth_date: str | None = None
    patient_sex: str | None = None
    accession_number: str | None = None
    study_number: str | None = None
    referring_physician_name: str | None = None
    study_date: str | None = None
    study_time: str | None = None


@dataclass(frozen=True, kw_only=True)
class SourceInstance:
    """One image that the decision rests on."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    frames: int = 1


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A code of a scheme with its meaning (PS3.3 section 8)."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What the release said: the calibrated probability of the finding, entropies in nats, p-value of novelty."""

    probability: float
    predictive_entropy: float
    expected_entropy: float
    mutual_information: float
    novelty_p: float
    passes: int
    members: int


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Which release spoke under which protocol; `release_digest` None where none did."""

    protocol: str
    protocol_digest: str
    release_digest: str | None
    version: str  #: of secondread


@dataclass(frozen=True, kw_only=True)
class HumanRead:
    """The committed read that verifies a result; `reader` is the account's name, as the site writes it."""

    reader: str
    finding: str
    certainty: int
    comment: str
    committed_at: datetime


@dataclass(frozen=True, kw_only=True)
class Result:
    """One decision as it is told outside; `predecessors` are what it replaces."""

    outbox_id: str
    kind: ResultKind
    case_id: str
    decision_id: str
    revision: int
    study_instance_uid: str
    person: Person
    sources: tuple[SourceInstance, ...]
    question: str
    finding: Concept  #: what the question asks for
    route: str
    reasons: tuple[str, ...]
    findings: Findings
    asserted: bool  #: the finding is said to be there: by the reader where there is one, else by the model
    numbers: Numbers | None
    absent: Absent | None  #: why `numbers` is None
    specialty: str | None
    due_at: datetime | None
    algorithm: Algorithm
    decided_at: datetime
    told_at: datetime  #: of this result: the decision's or the read's moment
    read: HumanRead | None = None
    predecessors: tuple[tuple[str, str], ...] = ()  #: SOP and series instance UIDs of our earlier SRs of the study

    def uid(self, purpose: str) -> str:
        """A UID that is the same whenever this result is made again: 2.25 and 122 bits of a digest (PS3.5 B.2)."""
        return derived_uid(self.outbox_id, purpose)


_UUID_BITS: Final = 128


def derived_uid(*parts: str) -> str:
    """A UID under 2.25 from a SHA-256 over these parts, shaped as a name-based UUID (RFC 9562, version 8)."""
    digest = hashlib.sha256("\x1f".join(("secondread", *parts)).encode()).digest()
    number = int.from_bytes(digest[: _UUID_BITS // 8])
    number = number & ~(0xF << 76) | 0x8 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return f"2.25.{number}"
