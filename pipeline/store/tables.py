"""The tables: what is known, who holds it, and what was decided, with the constraints that keep the promises.

Why one file: the constraints only make sense beside each other. Times are UTC; identity stands in `identity` alone;
UIDs are columns and never paths; probabilities and scores carry CHECKs, because SQLite stores NaN as NULL.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from pipeline.domain.deferral import ROUTINE_GUARDS
from pipeline.store.columns import Json, UtcTime, identifier, metadata

study = Table(
    "study",
    metadata,
    identifier(),
    Column("study_instance_uid", String(64), nullable=False, unique=True),
    Column("patient_pseudonym", String(64), nullable=False),  # keyed HMAC of issuer and PatientID
    Column("state", String(16), nullable=False),  # StudyState
    Column("revision", Integer, nullable=False, default=0),  # newest sealed revision, 0 before the first
    Column("identity_conflict", Boolean, nullable=False, default=False),
    Column("content_conflict", Boolean, nullable=False, default=False),
    Column("first_seen_at", UtcTime, nullable=False),
    Column("last_seen_at", UtcTime, nullable=False),
    CheckConstraint("state IN ('OPEN', 'SEALED')", name="state"),
    CheckConstraint("revision >= 0", name="revision"),
    Index(None, "state", "last_seen_at"),
    Index(None, "patient_pseudonym"),
)

identity = Table(
    "identity",
    metadata,
    Column("study_id", ForeignKey("study.id"), primary_key=True),
    Column("patient_id", String(64)),
    Column("issuer_of_patient_id", String(64)),
    Column("patient_name", Text),
    Column("patient_birth_date", String(16)),
    Column("patient_sex", String(4)),
    Column("accession_number", String(64)),
    Column("study_number", String(64)),
    Column("referring_physician_name", Text),
    Column("study_date", String(16)),
    Column("study_time", String(32)),
    Index(None, "accession_number"),
    Index(None, "patient_id"),
)

instance = Table(
    "instance",
    metadata,
    identifier(),
    Column("sequence", Integer, nullable=False, unique=True),  # order of arrival
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),  # bytes
    Column("source", String(64), nullable=False),  # "folder", "receiver", ...: never a path
    Column("verdict", String(16), nullable=False),  # Verdict
    Column("reason", String(64)),  # of a quarantined instance
    Column("is_image", Boolean, nullable=False),  # quarantined reports and the like leave no gap in a study
    Column("study_id", ForeignKey("study.id")),  # NULL only when the bytes name no study
    Column("sop_instance_uid", String(64)),
    Column("series_instance_uid", String(64)),
    Column("header", Json),  # InstanceHeader without its identity fields
    Column("received_at", UtcTime, nullable=False),
    CheckConstraint("verdict IN ('accepted', 'duplicate', 'quarantined')", name="verdict"),
    CheckConstraint("verdict <> 'quarantined' OR reason IS NOT NULL", name="quarantine_has_reason"),
    CheckConstraint(
        "verdict <> 'accepted' OR (study_id IS NOT NULL AND sop_instance_uid IS NOT NULL)", name="accepted_has_study"
    ),
    Index(None, "study_id", "verdict"),
    Index(None, "sha256"),
    Index(
        "uq_instance_accepted_sop",
        "sop_instance_uid",
        unique=True,
        sqlite_where=text("verdict = 'accepted'"),
        postgresql_where=text("verdict = 'accepted'"),
    ),
)

study_revision = Table(
    "study_revision",
    metadata,
    identifier(),
    Column("study_id", ForeignKey("study.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("manifest_digest", String(64), nullable=False),  # SHA-256 over the sorted instance digests
    Column("evidence", Json, nullable=False),  # SealEvidence
    Column("sealed_at", UtcTime, nullable=False),
    UniqueConstraint("study_id", "revision"),
)

revision_instance = Table(
    "revision_instance",
    metadata,
    Column("revision_id", ForeignKey("study_revision.id"), primary_key=True),
    Column("instance_id", ForeignKey("instance.id"), primary_key=True),
)

protocol_text = Table(
    "protocol_text",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("content", Json, nullable=False),
    Column("first_used_at", UtcTime, nullable=False),
)

case = Table(
    "triage_case",
    metadata,
    identifier(),
    Column("study_id", ForeignKey("study.id"), nullable=False),
    Column("revision_id", ForeignKey("study_revision.id"), nullable=False),
    Column("protocol", String(64), nullable=False),
    Column("protocol_digest", ForeignKey("protocol_text.digest"), nullable=False),
    Column("state", String(16), nullable=False),  # CaseState
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", UtcTime, nullable=False),  # earliest next attempt
    Column("lease_owner", String(64)),
    Column("lease_until", UtcTime),
    Column("fence", Integer, nullable=False, default=0),  # grows with every claim
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("revision_id", "protocol"),
    CheckConstraint("state IN ('READY', 'CLAIMED', 'DECIDED', 'SUPERSEDED')", name="state"),
    CheckConstraint("state <> 'CLAIMED' OR (lease_owner IS NOT NULL AND lease_until IS NOT NULL)", name="lease"),
    Index(None, "protocol", "state", "not_before"),
    Index(None, "study_id"),
)

GUARDS = ROUTINE_GUARDS

routine_proof = Table(
    "routine_proof",
    metadata,
    Column("case_id", ForeignKey("triage_case.id"), primary_key=True),
    *(Column(guard, Boolean, nullable=False) for guard in GUARDS),
    CheckConstraint(" AND ".join(GUARDS), name="every_guard_true"),
)

decision = Table(
    "decision",
    metadata,
    identifier(),
    Column("case_id", ForeignKey("triage_case.id"), nullable=False, unique=True),
    Column("route", String(16), nullable=False),  # Route
    Column("proof_case_id", ForeignKey("routine_proof.case_id")),
    Column("reasons", Json, nullable=False),
    Column("guards", Json, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("route_score", Float),
    Column("release_digest", String(64)),
    Column("protocol_digest", String(64), nullable=False),
    Column("policy", Json),
    Column("manifest_digest", String(64), nullable=False),
    Column("samples_digest", String(64)),
    Column("fingerprint", Json, nullable=False),  # library versions and device
    Column("audit", Boolean, nullable=False, default=False),  # drawn for a blind audit read
    Column("fence", Integer, nullable=False),
    Column("decided_at", UtcTime, nullable=False),
    CheckConstraint("route IN ('PRIORITY', 'ROUTINE', 'REVIEW', 'OUT_OF_SCOPE')", name="route"),
    CheckConstraint(
        "route <> 'ROUTINE' OR (proof_case_id IS NOT NULL AND proof_case_id = case_id AND route_score IS NOT NULL "
        "AND release_digest IS NOT NULL AND samples_digest IS NOT NULL AND policy IS NOT NULL)",
        name="routine_is_proven",
    ),
    CheckConstraint("route_score IS NULL OR (route_score >= 0 AND route_score <= 1)", name="route_score"),
    Index(None, "route", "decided_at"),
)

outbox = Table(
    "outbox",
    metadata,
    identifier(),
    Column("decision_id", ForeignKey("decision.id"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("payload", Json, nullable=False),  # identifiers only
    Column("created_at", UtcTime, nullable=False),
    Column("delivered_at", UtcTime),
    UniqueConstraint("decision_id", "kind"),
)


def _where(condition: str, name: str, *columns: str) -> Index:
    """An index of the rows that meet a condition."""
    return Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


def _of_open(name: str, *columns: str) -> Index:
    return _where("state IN ('SCHEDULED', 'IN_PROGRESS')", name, *columns)


worklist_item = Table(
    "worklist_item",
    metadata,
    identifier(),
    Column("case_id", ForeignKey("triage_case.id"), nullable=False),
    Column("state", String(16), nullable=False),  # ItemState
    Column("specialty", String(64), nullable=False),
    Column("priority", Integer, nullable=False),  # 2 high, 1 medium, 0 low (UPS priorities)
    Column("reasons", Json, nullable=False),  # what the reader is told; audit items look like the others
    Column("created_at", UtcTime, nullable=False),
    Column("due_at", UtcTime, nullable=False),
    Column("claimed_by", ForeignKey("account.id")),
    Column("lease_until", UtcTime),
    Column("fence", Integer, nullable=False, default=0),
    Column("round", Integer, nullable=False, server_default="1"),  # 1 first read, 2 second, 3 adjudication
    Column("paused_until", UtcTime),  # put aside by a reader; never beyond `due_at`, so that nothing waits too long
    Column("pause_reason", String(64)),
    Column("offered_to", String(36)),  # account: handed over, until `offered_until` for this colleague alone
    Column("offered_until", UtcTime),
    Column("offered_by", String(36)),  # account
    Column("escalated_at", UtcTime),  # when its overdue wait was made known
    Column("ended_at", UtcTime),  # completed or canceled
    CheckConstraint("state IN ('SCHEDULED', 'IN_PROGRESS', 'COMPLETED', 'CANCELED')", name="state"),
    CheckConstraint("state <> 'IN_PROGRESS' OR (claimed_by IS NOT NULL AND lease_until IS NOT NULL)", name="lease"),
    CheckConstraint("round BETWEEN 1 AND 3", name="round"),
    CheckConstraint("paused_until IS NULL OR pause_reason IS NOT NULL", name="pause_has_reason"),
    Index(
        "uq_worklist_item_open",
        "case_id",
        unique=True,
        sqlite_where=text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
        postgresql_where=text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
    ),
    Index(None, "state", "priority", "due_at", "id"),
    Index(None, "case_id"),
    # The reading order, and the few items that stand out of it; queries spell these conditions as they stand here.
    _of_open("ix_worklist_item_reading", "priority", "due_at", "id"),
    _of_open("ix_worklist_item_reading_specialty", "specialty", "priority", "due_at", "id"),
    _where("state = 'IN_PROGRESS'", "ix_worklist_item_held", "claimed_by", "lease_until"),
    _where("offered_to IS NOT NULL", "ix_worklist_item_offered", "offered_to"),
    _where("paused_until IS NOT NULL", "ix_worklist_item_paused", "paused_until"),
)

outside_claim = Table(
    "outside_claim",
    metadata,
    Column("item_id", ForeignKey("worklist_item.id"), primary_key=True),
    Column("fence", Integer, primary_key=True, autoincrement=False),  # of the item while this hold lasts
    Column("transaction_uid", String(64), nullable=False),  # what the other system proves its hold with
    Column("claimed_at", UtcTime, nullable=False),
)

read = Table(
    "read",
    metadata,
    identifier(),
    Column("item_id", ForeignKey("worklist_item.id"), nullable=False),
    Column("case_id", ForeignKey("triage_case.id"), nullable=False),
    Column("reader_id", ForeignKey("account.id"), nullable=False),
    Column("finding", String(64), nullable=False),  # a class of the protocol, or "cannot_be_read"
    Column("certainty", Integer, nullable=False),  # 1 (guess) to 5 (sure)
    Column("comment", Text, nullable=False, default=""),
    Column("fence", Integer, nullable=False),
    Column("opened_at", UtcTime, nullable=False),
    Column("committed_at", UtcTime, nullable=False),
    Column("revealed_at", UtcTime),
    Column("agreement", String(16)),  # after the reveal: agree, disagree, amend
    Column("amended_to", String(64)),  # what the reader would read now; the finding stays as it was
    Column("round", Integer, nullable=False, server_default="1"),  # of its worklist item
    Column("answers", Json),  # what the read form of the protocol asked beside the finding, with the form's digest
    UniqueConstraint("item_id"),
    CheckConstraint("certainty BETWEEN 1 AND 5", name="certainty"),
    CheckConstraint("revealed_at IS NULL OR revealed_at >= committed_at", name="commit_before_reveal"),
    Index("uq_read_case_reader", "case_id", "reader_id", unique=True),  # nobody supplies two reads of one case
    Index(None, "reader_id", "committed_at"),
)

account = Table(
    "account",
    metadata,
    identifier(),
    Column("name", String(64), nullable=False, unique=True),
    Column("password_hash", String(256), nullable=False),  # argon2id
    Column("role", String(32), nullable=False),
    Column("specialties", Json, nullable=False),
    Column("failures", Integer, nullable=False, default=0),
    Column("locked_until", UtcTime),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("created_at", UtcTime, nullable=False),
    Column("totp_secret", String(255)),  # sealed with the house's key; NULL: no second factor
    Column("totp_step", Integer),  # newest time step that was used, so that no code works twice
    Column("signed_in_at", UtcTime),  # last time
    Column("oidc_subject", String(64)),  # SHA-256 of issuer and subject of the site's provider
    Index("uq_account_oidc_subject", "oidc_subject", unique=True),
)

session = Table(
    "session",
    metadata,
    Column("token_hash", String(64), primary_key=True),  # SHA-256 of the cookie's random value
    Column("account_id", ForeignKey("account.id"), nullable=False),
    Column("csrf_token", String(64), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("last_seen_at", UtcTime, nullable=False),
    Column("proven_at", UtcTime),  # last time the person proved who they are, at sign-in or before signing a read
    Index(None, "account_id"),
)

audit_event = Table(
    "audit_event",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("event", String(64), nullable=False),
    Column("case_id", String(36)),
    Column("study_id", String(36)),
    Column("payload", Text, nullable=False),  # canonical JSON, no patient data
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Index(None, "case_id"),
    Index(None, "study_id"),
)

release_alias = Table(
    "release_alias",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("model", String(128), nullable=False),
    Column("alias", String(32), nullable=False),
    Column("version", String(32), nullable=False),
    Column("release_digest", String(64), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Index(None, "model", "alias", "sequence"),
)

safe_state = Table(
    "safe_state",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("on", Boolean, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
)
