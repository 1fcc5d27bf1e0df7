"""A result with sound values, to be changed by each test."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipeline.domain.result import (
    Algorithm,
    Concept,
    Findings,
    HumanRead,
    Numbers,
    Person,
    Result,
    ResultKind,
    SourceInstance,
)

NUMBERS = Numbers(
    probability=0.8125,
    predictive_entropy=0.4375,
    expected_entropy=0.40625,
    mutual_information=0.03125,
    novelty_p=0.375,
    passes=20,
    members=4,
)
DECIDED = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
READ = HumanRead(
    reader="iris", finding="tumour", certainty=4, comment="left temporal", committed_at=DECIDED.replace(hour=14)
)


def a_result(**changes: Any) -> Result:
    """The triage of a study of sixteen slices, confident of a finding."""
    values: dict[str, Any] = {
        "outbox_id": "0" * 32,
        "kind": ResultKind.TRIAGE,
        "case_id": "c" * 32,
        "decision_id": "d" * 32,
        "revision": 1,
        "study_instance_uid": "1.2.3.4",
        "person": Person(
            patient_id="P1",
            issuer_of_patient_id="HOSPITAL",
            patient_name="Müller^Jörg",
            patient_birth_date="19700102",
            patient_sex="M",
            accession_number="A1",
            study_number="7",
            referring_physician_name="House^Gregory",
            study_date="20260301",
            study_time="081500",
        ),
        "sources": tuple(
            SourceInstance(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
                sop_instance_uid=f"1.2.3.4.5.{number}",
                series_instance_uid="1.2.3.4.5",
                modality="MR",
            )
            for number in range(1, 17)
        ),
        "question": "Does this brain MR study show a tumour?",
        "finding": Concept(scheme="SCT", value="126952004", meaning="Neoplasm of brain"),
        "route": "PRIORITY",
        "reasons": ("CONFIDENT_FINDING",),
        "findings": Findings.WITH,
        "asserted": True,
        "numbers": NUMBERS,
        "absent": None,
        "specialty": "neuroradiology",
        "due_at": DECIDED.replace(hour=13),
        "algorithm": Algorithm(
            protocol="brain-tumour-mr", protocol_digest="a" * 64, release_digest="b" * 64, version="0.1.0"
        ),
        "decided_at": DECIDED,
        "told_at": DECIDED,
    }
    return Result(**{**values, **changes})


def a_read_result(**changes: Any) -> Result:
    """The same after a clinician has read it."""
    values = {"kind": ResultKind.READ, "outbox_id": "1" * 32, "read": READ, "told_at": READ.committed_at}
    return a_result(**values | {"predecessors": (("2.25.1", "2.25.2"),)} | changes)
