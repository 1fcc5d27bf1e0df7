"""The tables of the reading room: drafts, what was seen when, tokens of services, emergencies, notices, re-arming.

Nothing here decides anything about a case: these rows say who saw what, who may come in, and whom to tell.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Float, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

from pipeline.store.columns import Json, UtcTime, identifier, metadata

draft = Table(
    "draft",
    metadata,
    Column("item_id", ForeignKey("worklist_item.id"), primary_key=True),
    Column("account_id", ForeignKey("account.id"), primary_key=True),
    Column("content", Json, nullable=False),  # the fields of the read form as they stand
    Column("saved_at", UtcTime, nullable=False),
)

exposure = Table(
    "exposure",
    metadata,
    identifier(),
    Column("case_id", ForeignKey("triage_case.id"), nullable=False),
    Column("account_id", ForeignKey("account.id"), nullable=False),
    Column("kind", String(16), nullable=False),  # Exposure
    Column("at", UtcTime, nullable=False),
    CheckConstraint("kind IN ('IMAGES', 'ROUTE', 'READS', 'ANSWER', 'MAPS', 'RECORD')", name="kind"),
    UniqueConstraint("case_id", "account_id", "kind"),
)

api_token = Table(
    "api_token",
    metadata,
    identifier(),
    Column("account_id", ForeignKey("account.id"), nullable=False),  # of role service
    Column("label", String(64), nullable=False),
    Column("token_hash", String(64), nullable=False, unique=True),  # SHA-256; the token is shown once
    Column("scopes", Json, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", ForeignKey("account.id")),
    Column("expires_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
    Column("last_used_at", UtcTime),
    Index(None, "account_id"),
)

emergency = Table(
    "emergency",
    metadata,
    identifier(),
    Column("account_id", ForeignKey("account.id"), nullable=False),
    Column("case_id", ForeignKey("triage_case.id"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("until", UtcTime, nullable=False),
    Index(None, "case_id", "account_id"),
)

rearm_request = Table(
    "rearm_request",
    metadata,
    identifier(),
    Column("stop_sequence", Integer, nullable=False),  # of the safe_state row that this would end
    Column("account_id", ForeignKey("account.id"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    UniqueConstraint("stop_sequence", "account_id"),  # two people, not one twice
)

notice = Table(
    "notice",
    metadata,
    identifier(),
    Column("kind", String(32), nullable=False),  # NoticeKind
    Column("subject", String(64), nullable=False),  # an opaque id: a case, a safe state's number
    Column("content", Json, nullable=False),  # no patient data
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("kind", "subject"),
)

notice_sending = Table(
    "notice_sending",
    metadata,
    Column("notice_id", ForeignKey("notice.id"), primary_key=True),
    Column("destination", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("problem", String(255)),
    Column("not_before", UtcTime, nullable=False),
    Column("sent_at", UtcTime),
    CheckConstraint("state IN ('WAITING', 'SENT', 'PARKED')", name="state"),
    Index(None, "state", "not_before"),
)

idempotent_answer = Table(
    "idempotent_answer",
    metadata,
    Column("account_id", ForeignKey("account.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_digest", String(64), nullable=False),  # of method, path and body
    Column("status", Integer),  # NULL while the first request is being answered
    Column("headers", Json),
    Column("body", Text),
    Column("at", UtcTime, nullable=False),
    Index(None, "at"),
)

case_map = Table(
    "case_map",
    metadata,
    Column("case_id", ForeignKey("triage_case.id"), primary_key=True),
    Column("series", Integer, primary_key=True, autoincrement=False),  # which of the series the network was shown
    Column("kind", String(16), primary_key=True),  # MapKind
    Column("sha256", String(64), nullable=False),  # of the blob: zlib-compressed uint8
    Column("shape", Json, nullable=False),  # (D, H, W) of the network's grid
    Column("affine", Json, nullable=False),  # (4, 4) from index (d, h, w) to LPS millimetres
    Column("full_scale", Float, nullable=False),  # what 255 stands for
    Column("release_digest", String(64), nullable=False),
    Column("made_at", UtcTime, nullable=False),
    CheckConstraint("kind IN ('SALIENCY', 'UNCERTAINTY', 'INPUT')", name="kind"),
)
