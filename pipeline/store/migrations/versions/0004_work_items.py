"""Holds of other systems on worklist items."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table that keeps under which transaction UID another system holds an item."""
    op.create_table(
        "outside_claim",
        sa.Column("item_id", sa.String(length=36), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["worklist_item.id"], name=op.f("fk_outside_claim_item_id")),
        sa.PrimaryKeyConstraint("item_id", "fence", name=op.f("pk_outside_claim")),
    )
