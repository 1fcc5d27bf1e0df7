"""The tables with their constraints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import text

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "account",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("specialties", sa.JSON(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("name", name=op.f("uq_account_name")),
    )
    op.create_table(
        "audit_event",
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=True),
        sa.Column("study_id", sa.String(length=36), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit_event")),
        sa.UniqueConstraint("hash", name=op.f("uq_audit_event_hash")),
    )
    op.create_index(op.f("ix_audit_event_case_id"), "audit_event", ["case_id"], unique=False)
    op.create_table(
        "protocol_text",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("first_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_protocol_text")),
    )
    op.create_table(
        "release_alias",
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("alias", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("release_digest", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_release_alias")),
    )
    op.create_index(
        op.f("ix_release_alias_model_alias_sequence"), "release_alias", ["model", "alias", "sequence"], unique=False
    )
    op.create_table(
        "safe_state",
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("on", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_safe_state")),
    )
    op.create_table(
        "study",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_pseudonym", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("identity_conflict", sa.Boolean(), nullable=False),
        sa.Column("content_conflict", sa.Boolean(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('OPEN', 'SEALED')", name=op.f("ck_study_state")),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_study_revision")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    op.create_index(op.f("ix_study_state_last_seen_at"), "study", ["state", "last_seen_at"], unique=False)
    op.create_table(
        "identity",
        sa.Column("study_id", sa.String(length=36), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=True),
        sa.Column("issuer_of_patient_id", sa.String(length=64), nullable=True),
        sa.Column("patient_name", sa.Text(), nullable=True),
        sa.Column("patient_birth_date", sa.String(length=16), nullable=True),
        sa.Column("patient_sex", sa.String(length=4), nullable=True),
        sa.Column("accession_number", sa.String(length=64), nullable=True),
        sa.Column("study_date", sa.String(length=16), nullable=True),
        sa.Column("study_time", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_identity_study_id")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_identity")),
    )
    op.create_table(
        "instance",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("is_image", sa.Boolean(), nullable=False),
        sa.Column("study_id", sa.String(length=36), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("header", sa.JSON(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "verdict <> 'accepted' OR (study_id IS NOT NULL AND sop_instance_uid IS NOT NULL)",
            name=op.f("ck_instance_accepted_has_study"),
        ),
        sa.CheckConstraint(
            "verdict <> 'quarantined' OR reason IS NOT NULL", name=op.f("ck_instance_quarantine_has_reason")
        ),
        sa.CheckConstraint("verdict IN ('accepted', 'duplicate', 'quarantined')", name=op.f("ck_instance_verdict")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_instance_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sequence", name=op.f("uq_instance_sequence")),
    )
    op.create_index(op.f("ix_instance_sha256"), "instance", ["sha256"], unique=False)
    op.create_index(op.f("ix_instance_study_id_verdict"), "instance", ["study_id", "verdict"], unique=False)
    op.create_index(
        "uq_instance_accepted_sop",
        "instance",
        ["sop_instance_uid"],
        unique=True,
        sqlite_where=text("verdict = 'accepted'"),
        postgresql_where=text("verdict = 'accepted'"),
    )
    op.create_table(
        "session",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("csrf_token", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_session_account_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_session")),
    )
    op.create_table(
        "study_revision",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("study_id", sa.String(length=36), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("manifest_digest", sa.String(length=64), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_revision_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_revision")),
        sa.UniqueConstraint("study_id", "revision", name=op.f("uq_study_revision_study_id_revision")),
    )
    op.create_table(
        "revision_instance",
        sa.Column("revision_id", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_revision_instance_instance_id")),
        sa.ForeignKeyConstraint(["revision_id"], ["study_revision.id"], name=op.f("fk_revision_instance_revision_id")),
        sa.PrimaryKeyConstraint("revision_id", "instance_id", name=op.f("pk_revision_instance")),
    )
    op.create_table(
        "triage_case",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("study_id", sa.String(length=36), nullable=False),
        sa.Column("revision_id", sa.String(length=36), nullable=False),
        sa.Column("protocol", sa.String(length=64), nullable=False),
        sa.Column("protocol_digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state <> 'CLAIMED' OR (lease_owner IS NOT NULL AND lease_until IS NOT NULL)",
            name=op.f("ck_triage_case_lease"),
        ),
        sa.CheckConstraint("state IN ('READY', 'CLAIMED', 'DECIDED', 'SUPERSEDED')", name=op.f("ck_triage_case_state")),
        sa.ForeignKeyConstraint(
            ["protocol_digest"], ["protocol_text.digest"], name=op.f("fk_triage_case_protocol_digest")
        ),
        sa.ForeignKeyConstraint(["revision_id"], ["study_revision.id"], name=op.f("fk_triage_case_revision_id")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_triage_case_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_triage_case")),
        sa.UniqueConstraint("revision_id", "protocol", name=op.f("uq_triage_case_revision_id_protocol")),
    )
    op.create_index(
        op.f("ix_triage_case_protocol_state_not_before"),
        "triage_case",
        ["protocol", "state", "not_before"],
        unique=False,
    )
    op.create_index(op.f("ix_triage_case_study_id"), "triage_case", ["study_id"], unique=False)
    op.create_table(
        "routine_proof",
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("safe_state_off", sa.Boolean(), nullable=False),
        sa.Column("release_matches", sa.Boolean(), nullable=False),
        sa.Column("certificate_valid", sa.Boolean(), nullable=False),
        sa.Column("in_scope", sa.Boolean(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("no_problems", sa.Boolean(), nullable=False),
        sa.Column("all_decoded", sa.Boolean(), nullable=False),
        sa.Column("quality_ok", sa.Boolean(), nullable=False),
        sa.Column("members_complete", sa.Boolean(), nullable=False),
        sa.Column("passes_complete", sa.Boolean(), nullable=False),
        sa.Column("finite", sa.Boolean(), nullable=False),
        sa.Column("in_distribution", sa.Boolean(), nullable=False),
        sa.Column("certain", sa.Boolean(), nullable=False),
        sa.Column("score_certified", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "safe_state_off AND release_matches AND certificate_valid AND in_scope AND complete AND no_problems AND all_decoded AND quality_ok AND members_complete AND passes_complete AND finite AND in_distribution AND certain AND score_certified",
            name=op.f("ck_routine_proof_every_guard_true"),
        ),
        sa.ForeignKeyConstraint(["case_id"], ["triage_case.id"], name=op.f("fk_routine_proof_case_id")),
        sa.PrimaryKeyConstraint("case_id", name=op.f("pk_routine_proof")),
    )
    op.create_table(
        "worklist_item",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("specialty", sa.String(length=64), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_by", sa.String(length=36), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "state <> 'IN_PROGRESS' OR (claimed_by IS NOT NULL AND lease_until IS NOT NULL)",
            name=op.f("ck_worklist_item_lease"),
        ),
        sa.CheckConstraint(
            "state IN ('SCHEDULED', 'IN_PROGRESS', 'COMPLETED', 'CANCELED')", name=op.f("ck_worklist_item_state")
        ),
        sa.ForeignKeyConstraint(["case_id"], ["triage_case.id"], name=op.f("fk_worklist_item_case_id")),
        sa.ForeignKeyConstraint(["claimed_by"], ["account.id"], name=op.f("fk_worklist_item_claimed_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worklist_item")),
    )
    op.create_index(
        op.f("ix_worklist_item_state_priority_due_at_id"),
        "worklist_item",
        ["state", "priority", "due_at", "id"],
        unique=False,
    )
    op.create_index(
        "uq_worklist_item_open",
        "worklist_item",
        ["case_id"],
        unique=True,
        sqlite_where=text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
        postgresql_where=text("state IN ('SCHEDULED', 'IN_PROGRESS')"),
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("route", sa.String(length=16), nullable=False),
        sa.Column("proof_case_id", sa.String(length=36), nullable=True),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("guards", sa.JSON(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("route_score", sa.Float(), nullable=True),
        sa.Column("release_digest", sa.String(length=64), nullable=True),
        sa.Column("protocol_digest", sa.String(length=64), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=True),
        sa.Column("manifest_digest", sa.String(length=64), nullable=False),
        sa.Column("samples_digest", sa.String(length=64), nullable=True),
        sa.Column("fingerprint", sa.JSON(), nullable=False),
        sa.Column("audit", sa.Boolean(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "route <> 'ROUTINE' OR (proof_case_id IS NOT NULL AND proof_case_id = case_id AND route_score IS NOT NULL AND release_digest IS NOT NULL AND samples_digest IS NOT NULL AND policy IS NOT NULL)",
            name=op.f("ck_decision_routine_is_proven"),
        ),
        sa.CheckConstraint(
            "route IN ('PRIORITY', 'ROUTINE', 'REVIEW', 'OUT_OF_SCOPE')", name=op.f("ck_decision_route")
        ),
        sa.CheckConstraint(
            "route_score IS NULL OR (route_score >= 0 AND route_score <= 1)", name=op.f("ck_decision_route_score")
        ),
        sa.ForeignKeyConstraint(["case_id"], ["triage_case.id"], name=op.f("fk_decision_case_id")),
        sa.ForeignKeyConstraint(["proof_case_id"], ["routine_proof.case_id"], name=op.f("fk_decision_proof_case_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
        sa.UniqueConstraint("case_id", name=op.f("uq_decision_case_id")),
    )
    op.create_index(op.f("ix_decision_route_decided_at"), "decision", ["route", "decided_at"], unique=False)
    op.create_table(
        "read",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("item_id", sa.String(length=36), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("reader_id", sa.String(length=36), nullable=False),
        sa.Column("finding", sa.String(length=64), nullable=False),
        sa.Column("certainty", sa.Integer(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revealed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agreement", sa.String(length=16), nullable=True),
        sa.CheckConstraint("certainty BETWEEN 1 AND 5", name=op.f("ck_read_certainty")),
        sa.CheckConstraint(
            "revealed_at IS NULL OR revealed_at >= committed_at", name=op.f("ck_read_commit_before_reveal")
        ),
        sa.ForeignKeyConstraint(["case_id"], ["triage_case.id"], name=op.f("fk_read_case_id")),
        sa.ForeignKeyConstraint(["item_id"], ["worklist_item.id"], name=op.f("fk_read_item_id")),
        sa.ForeignKeyConstraint(["reader_id"], ["account.id"], name=op.f("fk_read_reader_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_read")),
        sa.UniqueConstraint("item_id", name=op.f("uq_read_item_id")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("decision_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["decision_id"], ["decision.id"], name=op.f("fk_outbox_decision_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("decision_id", "kind", name=op.f("uq_outbox_decision_id_kind")),
    )
