"""The hospital's door: answers of the PACS, pulls, storage commitments, deliveries, reconciliations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what a result in the same study repeats, and the tables of the door."""
    op.add_column("identity", sa.Column("study_number", sa.String(length=64), nullable=True))
    op.add_column("identity", sa.Column("referring_physician_name", sa.Text(), nullable=True))
    _make_pulls()
    _make_commitment()
    _make_delivery()
    op.create_table(
        "pacs_answer",
        sa.Column("study_id", sa.String(length=36), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("series", sa.JSON(), nullable=False),
        sa.Column("other_patient", sa.Boolean(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_pacs_answer_study_id")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_pacs_answer")),
    )
    op.create_table(
        "reconciliation",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("studies", sa.Integer(), nullable=False),
        sa.Column("missing_studies", sa.JSON(), nullable=False),
        sa.Column("missing_instances", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciliation")),
    )


def _make_pulls() -> None:
    op.create_table(
        "pull",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("expected", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", sa.String(length=255), nullable=True),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('WANTED', 'FETCHED', 'PARKED')", name=op.f("ck_pull_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pull")),
        sa.UniqueConstraint("source", "study_instance_uid", name=op.f("uq_pull_source_study_instance_uid")),
    )
    op.create_index(op.f("ix_pull_state_not_before"), "pull", ["state", "not_before"], unique=False)
    op.create_table(
        "pull_cursor",
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("looked_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_pull_cursor")),
    )


def _make_commitment() -> None:
    op.create_table(
        "commitment",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("peer", sa.String(length=16), nullable=False),
        sa.Column("asked", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('ASKED', 'ANSWERED', 'PARKED')", name=op.f("ck_commitment_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment")),
        sa.UniqueConstraint("transaction_uid", "peer", name=op.f("uq_commitment_transaction_uid_peer")),
    )


def _make_delivery() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("outbox_id", sa.String(length=36), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("form", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", sa.String(length=255), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("proof", sa.JSON(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("proven_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('WAITING', 'PROVEN', 'PARKED', 'OVERTAKEN')", name=op.f("ck_delivery_state")),
        sa.CheckConstraint(
            "state <> 'PROVEN' OR (proof IS NOT NULL AND digest IS NOT NULL AND proven_at IS NOT NULL)",
            name=op.f("ck_delivery_proven_has_proof"),
        ),
        sa.ForeignKeyConstraint(["outbox_id"], ["outbox.id"], name=op.f("fk_delivery_outbox_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("outbox_id", "destination", "form", name=op.f("uq_delivery_outbox_id_destination_form")),
    )
    op.create_index(op.f("ix_delivery_state_not_before"), "delivery", ["state", "not_before"], unique=False)
    op.create_index(op.f("ix_delivery_sop_instance_uid"), "delivery", ["sop_instance_uid"], unique=False)
