"""The tables of the hospital's door: what the PACS said, what is still to be fetched, and what was sent back.

Nothing here is a queue of its own: every row belongs to a study or a decision, and says what its next step is and when.
"""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Index, Integer, String, Table, UniqueConstraint

from pipeline.store.columns import Json, UtcTime, identifier, metadata

pacs_answer = Table(
    "pacs_answer",
    metadata,
    Column("study_id", ForeignKey("study.id"), primary_key=True),
    Column("source", String(64), nullable=False),  # the name of the PACS
    Column("series", Json, nullable=False),  # what it holds of the study, series by series
    Column("other_patient", Boolean, nullable=False),  # it names another patient than our images do
    Column("asked_at", UtcTime, nullable=False),
)

pull = Table(
    "pull",
    metadata,
    identifier(),
    Column("source", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("state", String(16), nullable=False),  # PullState
    Column("expected", Json, nullable=False),  # instances that the PACS announced, by series
    Column("attempts", Integer, nullable=False, default=0),
    Column("problem", String(255)),  # of the last attempt, without patient data
    Column("wanted_at", UtcTime, nullable=False),
    Column("not_before", UtcTime, nullable=False),
    Column("done_at", UtcTime),
    UniqueConstraint("source", "study_instance_uid"),
    CheckConstraint("state IN ('WANTED', 'FETCHED', 'PARKED')", name="state"),
    Index(None, "state", "not_before"),
)

pull_cursor = Table(
    "pull_cursor",
    metadata,
    Column("source", String(64), primary_key=True),
    Column("looked_until", UtcTime, nullable=False),  # studies up to here were listed
)

commitment = Table(
    "commitment",
    metadata,
    identifier(),
    Column("transaction_uid", String(64), nullable=False),
    Column("peer", String(16), nullable=False),  # AE title of who asked
    Column("asked", Json, nullable=False),  # pairs of SOP class and SOP instance UID
    Column("state", String(16), nullable=False),  # CommitmentState
    Column("attempts", Integer, nullable=False, default=0),
    Column("asked_at", UtcTime, nullable=False),
    Column("not_before", UtcTime, nullable=False),
    Column("answered_at", UtcTime),
    UniqueConstraint("transaction_uid", "peer"),
    CheckConstraint("state IN ('ASKED', 'ANSWERED', 'PARKED')", name="state"),
)

delivery = Table(
    "delivery",
    metadata,
    identifier(),
    Column("outbox_id", ForeignKey("outbox.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("form", String(16), nullable=False),  # ResultForm
    Column("state", String(16), nullable=False),  # DeliveryState
    Column("attempts", Integer, nullable=False, default=0),
    Column("problem", String(255)),  # of the last attempt, without patient data
    Column("sop_instance_uid", String(64)),  # of the object sent, where it is one of DICOM
    Column("series_instance_uid", String(64)),
    Column("digest", String(64)),  # SHA-256 of what was sent
    Column("proof", Json),  # the receiver's status and what was read back
    Column("fence", Integer, nullable=False, default=0),
    Column("lease_until", UtcTime),
    Column("created_at", UtcTime, nullable=False),
    Column("not_before", UtcTime, nullable=False),
    Column("proven_at", UtcTime),
    UniqueConstraint("outbox_id", "destination", "form"),
    CheckConstraint("state IN ('WAITING', 'PROVEN', 'PARKED', 'OVERTAKEN')", name="state"),
    CheckConstraint(
        "state <> 'PROVEN' OR (proof IS NOT NULL AND digest IS NOT NULL AND proven_at IS NOT NULL)",
        name="proven_has_proof",
    ),
    Index(None, "state", "not_before"),
    Index(None, "sop_instance_uid"),
)

reconciliation = Table(
    "reconciliation",
    metadata,
    identifier(),
    Column("source", String(64), nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("until", UtcTime, nullable=False),
    Column("studies", Integer, nullable=False),  # that the PACS listed
    Column("missing_studies", Json, nullable=False),  # their UIDs
    Column("missing_instances", Json, nullable=False),  # UIDs by study
    Column("at", UtcTime, nullable=False),
)
