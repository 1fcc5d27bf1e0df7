"""The reading room: rounds, pauses and hand-overs of items, drafts, exposures, tokens, emergencies, notices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from pipeline.errors import HaltPipeline

revision = "0005"
down_revision = "0004"

APPEND_ONLY = ("exposure", "emergency", "rearm_request")
"""What was seen, what was broken into and who asked to start again: rows that are added and never changed."""


def upgrade() -> None:
    """Add what the reading room needs; no row that exists is touched. Raises HaltPipeline for reads that cannot stay."""
    _refuse_second_reads_of_one_reader()
    _widen_items_and_reads()
    _index_the_worklist()
    _widen_people()
    for make in (_make_notes_of_readers, _make_access, _make_maps, _make_notices):
        make()
    for table in APPEND_ONLY:
        _refuse_changes(table)


def _refuse_second_reads_of_one_reader() -> None:
    twice = sa.text("SELECT case_id FROM read GROUP BY case_id, reader_id HAVING count(*) > 1 ORDER BY case_id")
    cases = [row.case_id for row in op.get_bind().execute(twice)]
    if cases:
        raise HaltPipeline(
            f"{len(cases)} cases hold several reads of one reader, the first is {cases[0]}; nothing was changed: "
            "back the database up, keep one read per case and reader in the table 'read', and run 'secondread init' again"
        )


def _widen_items_and_reads() -> None:
    # SQLite adds a named check only together with its column.
    op.execute(
        "ALTER TABLE worklist_item ADD COLUMN round INTEGER DEFAULT '1' NOT NULL "
        "CONSTRAINT ck_worklist_item_round CHECK (round BETWEEN 1 AND 3)"
    )
    op.add_column("worklist_item", sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True))
    op.execute(
        "ALTER TABLE worklist_item ADD COLUMN pause_reason VARCHAR(64) "
        "CONSTRAINT ck_worklist_item_pause_has_reason CHECK (paused_until IS NULL OR pause_reason IS NOT NULL)"
    )
    op.add_column("worklist_item", sa.Column("offered_to", sa.String(length=36), nullable=True))
    op.add_column("worklist_item", sa.Column("offered_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("worklist_item", sa.Column("offered_by", sa.String(length=36), nullable=True))
    op.add_column("worklist_item", sa.Column("escalated_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("worklist_item", sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("read", sa.Column("amended_to", sa.String(length=64), nullable=True))
    op.add_column("read", sa.Column("round", sa.Integer(), server_default="1", nullable=False))
    op.add_column("read", sa.Column("answers", sa.JSON(), nullable=True))
    op.create_index(op.f("ix_read_reader_id_committed_at"), "read", ["reader_id", "committed_at"], unique=False)
    op.create_index("uq_read_case_reader", "read", ["case_id", "reader_id"], unique=True)


def _index_the_worklist() -> None:
    _partial("worklist_item_reading", ["priority", "due_at", "id"], "state IN ('SCHEDULED', 'IN_PROGRESS')")
    _partial(
        "worklist_item_reading_specialty",
        ["specialty", "priority", "due_at", "id"],
        "state IN ('SCHEDULED', 'IN_PROGRESS')",
    )
    _partial("worklist_item_held", ["claimed_by", "lease_until"], "state = 'IN_PROGRESS'")
    _partial("worklist_item_offered", ["offered_to"], "offered_to IS NOT NULL")
    _partial("worklist_item_paused", ["paused_until"], "paused_until IS NOT NULL")
    op.create_index(op.f("ix_worklist_item_case_id"), "worklist_item", ["case_id"], unique=False)
    op.create_index(op.f("ix_identity_patient_id"), "identity", ["patient_id"], unique=False)


def _partial(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(f"ix_{name}", "worklist_item", columns, sqlite_where=where, postgresql_where=where)


def _widen_people() -> None:
    op.add_column("account", sa.Column("totp_secret", sa.String(length=255), nullable=True))
    op.add_column("account", sa.Column("totp_step", sa.Integer(), nullable=True))
    op.add_column("account", sa.Column("signed_in_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("account", sa.Column("oidc_subject", sa.String(length=64), nullable=True))
    op.add_column("session", sa.Column("proven_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("uq_account_oidc_subject", "account", ["oidc_subject"], unique=True)
    op.create_index(op.f("ix_identity_accession_number"), "identity", ["accession_number"], unique=False)
    op.create_index(op.f("ix_session_account_id"), "session", ["account_id"], unique=False)
    op.create_index(op.f("ix_study_patient_pseudonym"), "study", ["patient_pseudonym"], unique=False)
    op.create_index(op.f("ix_audit_event_study_id"), "audit_event", ["study_id"], unique=False)


def _make_notes_of_readers() -> None:
    op.create_table(
        "draft",
        sa.Column("item_id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_draft_account_id")),
        sa.ForeignKeyConstraint(["item_id"], ["worklist_item.id"], name=op.f("fk_draft_item_id")),
        sa.PrimaryKeyConstraint("item_id", "account_id", name=op.f("pk_draft")),
    )
    op.create_table(
        "exposure",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('IMAGES', 'ROUTE', 'READS', 'ANSWER', 'MAPS', 'RECORD')", name=op.f("ck_exposure_kind")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_exposure_account_id")),
        sa.ForeignKeyConstraint(["case_id"], ["triage_case.id"], name=op.f("fk_exposure_case_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exposure")),
        sa.UniqueConstraint("case_id", "account_id", "kind", name=op.f("uq_exposure_case_id_account_id_kind")),
    )
    op.create_table(
        "emergency",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_emergency_account_id")),
        sa.ForeignKeyConstraint(["case_id"], ["triage_case.id"], name=op.f("fk_emergency_case_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_emergency")),
    )
    op.create_index(op.f("ix_emergency_case_id_account_id"), "emergency", ["case_id", "account_id"], unique=False)


def _make_access() -> None:
    op.create_table(
        "api_token",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=36), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_api_token_account_id")),
        sa.ForeignKeyConstraint(["created_by"], ["account.id"], name=op.f("fk_api_token_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_token_token_hash")),
    )
    op.create_index(op.f("ix_api_token_account_id"), "api_token", ["account_id"], unique=False)
    op.create_table(
        "idempotent_answer",
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.JSON(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_idempotent_answer_account_id")),
        sa.PrimaryKeyConstraint("account_id", "key", name=op.f("pk_idempotent_answer")),
    )
    op.create_index(op.f("ix_idempotent_answer_at"), "idempotent_answer", ["at"], unique=False)


def _make_maps() -> None:
    op.create_table(
        "case_map",
        sa.Column("case_id", sa.String(length=36), nullable=False),
        sa.Column("series", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("shape", sa.JSON(), nullable=False),
        sa.Column("affine", sa.JSON(), nullable=False),
        sa.Column("full_scale", sa.Float(), nullable=False),
        sa.Column("release_digest", sa.String(length=64), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('SALIENCY', 'UNCERTAINTY', 'INPUT')", name=op.f("ck_case_map_kind")),
        sa.ForeignKeyConstraint(["case_id"], ["triage_case.id"], name=op.f("fk_case_map_case_id")),
        sa.PrimaryKeyConstraint("case_id", "series", "kind", name=op.f("pk_case_map")),
    )


def _make_notices() -> None:
    op.create_table(
        "notice",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice")),
        sa.UniqueConstraint("kind", "subject", name=op.f("uq_notice_kind_subject")),
    )
    op.create_table(
        "notice_sending",
        sa.Column("notice_id", sa.String(length=36), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", sa.String(length=255), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('WAITING', 'SENT', 'PARKED')", name=op.f("ck_notice_sending_state")),
        sa.ForeignKeyConstraint(["notice_id"], ["notice.id"], name=op.f("fk_notice_sending_notice_id")),
        sa.PrimaryKeyConstraint("notice_id", "destination", name=op.f("pk_notice_sending")),
    )
    op.create_index(op.f("ix_notice_sending_state_not_before"), "notice_sending", ["state", "not_before"], unique=False)
    op.create_table(
        "rearm_request",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("stop_sequence", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("fk_rearm_request_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rearm_request")),
        sa.UniqueConstraint("stop_sequence", "account_id", name=op.f("uq_rearm_request_stop_sequence_account_id")),
    )


def _refuse_changes(table: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
