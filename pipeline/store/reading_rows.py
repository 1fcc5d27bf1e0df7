"""What a reader may see of one case: everything but the model's answer, and the answer itself once a read is committed.

Blindness is a property of these queries and not of the pages: nothing here but `model_answer` selects a route, a score,
a reason of the decision or a policy, and `model_answer` joins the reader's own committed and revealed read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, exists, select

from pipeline.domain.case import Reason
from pipeline.errors import NoSuchCase
from pipeline.store.line_rows import PERSON, Line, item_lines, line_of
from pipeline.store.reading_order import is_open
from pipeline.store.tables import (
    case,
    decision,
    identity,
    instance,
    protocol_text,
    read,
    revision_instance,
    study,
    study_revision,
    worklist_item,
)

_MODEL_REASONS = frozenset({Reason.CONFIDENT_FINDING, Reason.CONFIDENT_ABSENCE, Reason.UNCERTAIN, Reason.NOVEL})


@dataclass(frozen=True, kw_only=True)
class BlindCase:
    """One case as it may be shown before its read is committed; `item` is the worklist item that concerns who asks."""

    case_id: str
    study_id: str
    study_instance_uid: str
    revision_id: str
    revision: int
    protocol: str
    protocol_digest: str
    protocol_content: Mapping[str, Any]
    state: str
    created_at: datetime
    seal: Mapping[str, Any]
    person: Mapping[str, str | None]
    problems: tuple[tuple[str, str], ...] = ()
    scope_detail: str = ""
    item: Line | None = None
    fence: int = 0
    newer_case_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """What the release said about a case, for the reader whose own read is committed and who asked to see it."""

    route: str
    reasons: tuple[str, ...]
    guards: Any
    evidence: Mapping[str, Any]
    policy: Mapping[str, Any] | None
    release_digest: str | None
    audit: bool
    decided_at: datetime
    protocol_content: Mapping[str, Any]


def blind_case(connection: Connection, case_id: str, *, account_id: str | None = None) -> BlindCase | None:
    """One case without the model's answer, or None when there is none of that id.

    Its item is the one that this account read, so that readers learn of no later round, else the newest one.
    """
    query = (
        select(
            case,
            study.c.study_instance_uid,
            study_revision.c.revision,
            study_revision.c.evidence.label("seal"),
            protocol_text.c.content,
            decision.c.evidence.label("looked_at"),
            *(identity.c[name] for name in PERSON),
        )
        .join(study, study.c.id == case.c.study_id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .join(protocol_text, protocol_text.c.digest == case.c.protocol_digest)
        .outerjoin(decision, decision.c.case_id == case.c.id)
        .outerjoin(identity, identity.c.study_id == case.c.study_id)
        .where(case.c.id == case_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    looked_at: Mapping[str, Any] = row.looked_at or {}
    item, fence = _item(connection, case_id, account_id)
    return BlindCase(
        case_id=case_id,
        study_id=row.study_id,
        study_instance_uid=row.study_instance_uid,
        revision_id=row.revision_id,
        revision=row.revision,
        protocol=row.protocol,
        protocol_digest=row.protocol_digest,
        protocol_content=row.content,
        state=row.state,
        created_at=row.created_at,
        seal=row.seal,
        person={name: row._mapping[name] for name in PERSON},  # noqa: SLF001 - the documented row view
        problems=_speakable_problems(looked_at),
        scope_detail=str((looked_at.get("scope") or {}).get("detail") or ""),
        item=item,
        fence=fence,
        newer_case_id=_newer_case(connection, row.study_id, row.protocol, row.revision),
    )


def known_case(connection: Connection, case_id: str, *, account_id: str | None = None) -> BlindCase:
    """One case without the model's answer, as `blind_case` tells it; raises NoSuchCase."""
    case = blind_case(connection, case_id, account_id=account_id)
    if case is None:
        raise NoSuchCase("there is no such case; go back to the worklist")
    return case


def _speakable_problems(looked_at: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Problems met on the way to the model; sentences about what the model said stay behind."""
    return tuple((str(r), str(text)) for r, text in looked_at.get("problems") or () if r not in _MODEL_REASONS)


def _item(connection: Connection, case_id: str, account_id: str | None) -> tuple[Line | None, int]:
    own = read.alias()
    is_own = exists().where(own.c.item_id == worklist_item.c.id, own.c.reader_id == account_id)
    query = (
        item_lines()
        .add_columns(worklist_item.c.fence)
        .where(worklist_item.c.case_id == case_id)
        .order_by(is_own.desc(), worklist_item.c.round.desc(), worklist_item.c.created_at.desc(), is_open().desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return (None, 0) if row is None else (line_of(row), row.fence)


def _newer_case(connection: Connection, study_id: str, protocol: str, revision: int) -> str | None:
    query = (
        select(case.c.id)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .where(case.c.study_id == study_id, case.c.protocol == protocol, study_revision.c.revision > revision)
        .order_by(study_revision.c.revision.desc())
        .limit(1)
    )
    return connection.execute(query).scalar_one_or_none()


def images_of(connection: Connection, revision_id: str) -> list[tuple[str, dict[str, Any]]]:
    """SHA-256 and header of every accepted instance of a sealed revision, in order of arrival."""
    query = (
        select(instance.c.sha256, instance.c.header)
        .join(revision_instance, revision_instance.c.instance_id == instance.c.id)
        .where(revision_instance.c.revision_id == revision_id, instance.c.verdict == "accepted")
        .order_by(instance.c.sequence)
    )
    return [(row.sha256, dict(row.header or {})) for row in connection.execute(query)]


def model_answer(connection: Connection, *, case_id: str, reader_id: str) -> ModelAnswer | None:
    """The decision of a case for a reader whose own read is committed and revealed; None for everybody else."""
    own = exists().where(
        read.c.case_id == case_id,
        read.c.reader_id == reader_id,
        read.c.revealed_at.is_not(None),
        read.c.revealed_at >= read.c.committed_at,
    )
    query = (
        select(decision, protocol_text.c.content)
        .outerjoin(protocol_text, protocol_text.c.digest == decision.c.protocol_digest)
        .where(decision.c.case_id == case_id, own)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return ModelAnswer(
        route=row.route,
        reasons=tuple(row.reasons),
        guards=row.guards,
        evidence=row.evidence,
        policy=row.policy,
        release_digest=row.release_digest,
        audit=row.audit,
        decided_at=row.decided_at,
        protocol_content=row.content or {},
    )
