"""The law of conservation: every received instance and every sealed study is accounted for, at any moment, by a query."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, exists, func, or_, select

from pipeline.domain.case import CaseState, ItemState, Route
from pipeline.domain.study import StudyState, Verdict
from pipeline.errors import DeferCase
from pipeline.store import alias_rows, outbox_rows, pull_rows, reconciliation_rows, safe_state_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.tables import (
    case,
    decision,
    instance,
    revision_instance,
    study,
    study_revision,
    worklist_item,
)

_OPEN_ITEM = worklist_item.c.state.in_((ItemState.SCHEDULED, ItemState.IN_PROGRESS))
_UNDECIDED = case.c.state.in_((CaseState.READY, CaseState.CLAIMED))


def status(connection: Connection, now: datetime) -> dict[str, Any]:
    """Counts by state, what conservation finds, the age of the queue (s), the safe state and the champions."""
    return {
        "instances": {**_verdicts(connection), "unaccounted": len(unaccounted(connection))},
        "studies": {
            "open": _count_studies(connection, StudyState.OPEN),
            "sealed": _count_studies(connection, StudyState.SEALED),
            "unrouted": len(unrouted(connection)),
        },
        "cases": _routes(connection),
        "worklist": {"open": _count_open_items(connection), "missing": len(unlisted(connection))},
        "door": {
            "deliveries": outbox_rows.counts(connection),
            "pulls": pull_rows.counts(connection),
            "reconciled": reconciliation_rows.newest(connection),
        },
        "oldest_wait_s": _oldest_wait_s(connection, now),
        "safe_state": safe_state_rows.is_safe(connection),
        "release": {
            model: {"version": move.version, "digest": move.release_digest}
            for model, move in alias_rows.champions(connection).items()
        },
    }


def unaccounted(connection: Connection) -> list[str]:
    """Ids of ledger lines that nothing will ever look at.

    An accepted or unreadable image belongs to an open study or to the newest revision of a sealed one; a duplicate has
    its original; a quarantined report, or bytes that name no study, are accounted for by their reason.
    """
    return list(connection.execute(_lost_images()).scalars()) + list(connection.execute(_lost_duplicates()).scalars())


def _lost_images() -> Select[tuple[str]]:
    must_count = or_(
        instance.c.verdict == Verdict.ACCEPTED, and_(instance.c.verdict == Verdict.QUARANTINED, instance.c.is_image)
    )
    sealed_in = (
        exists()
        .where(revision_instance.c.instance_id == instance.c.id)
        .where(study_revision.c.id == revision_instance.c.revision_id)
        .where(study_revision.c.study_id == study.c.id, study_revision.c.revision == study.c.revision)
    )
    return (
        select(instance.c.id)
        .join(study, study.c.id == instance.c.study_id)
        .where(must_count, study.c.state == StudyState.SEALED, ~sealed_in)
    )


def _lost_duplicates() -> Select[tuple[str]]:
    original = instance.alias()
    same = or_(original.c.sha256 == instance.c.sha256, original.c.sop_instance_uid == instance.c.sop_instance_uid)
    kept = exists().where(same, original.c.verdict == Verdict.ACCEPTED)
    return select(instance.c.id).where(instance.c.verdict == Verdict.DUPLICATE, ~kept)


def unrouted(connection: Connection) -> list[str]:
    """Ids of sealed studies whose newest revision has no case, or a case without a decision."""
    newest = and_(
        study_revision.c.study_id == study.c.id,
        study_revision.c.revision == study.c.revision,
        case.c.revision_id == study_revision.c.id,
    )
    decided = exists().where(decision.c.case_id == case.c.id)
    query = select(study.c.id).where(
        study.c.state == StudyState.SEALED,
        or_(~exists().where(newest), exists().where(newest, or_(case.c.state != CaseState.DECIDED, ~decided))),
    )
    return list(connection.execute(query).scalars())


def unlisted(connection: Connection) -> list[str]:
    """Ids of decided cases that a person must read and that have never stood on the worklist."""
    needs_reader = or_(decision.c.route.in_((Route.PRIORITY, Route.REVIEW)), decision.c.audit)
    listed = exists().where(worklist_item.c.case_id == case.c.id)
    query = (
        select(case.c.id)
        .join(decision, decision.c.case_id == case.c.id)
        .where(case.c.state == CaseState.DECIDED, needs_reader, ~listed)
    )
    return list(connection.execute(query).scalars())


def lost_bytes(connection: Connection, blobs: BlobStore) -> list[str]:
    """SHA-256s of ledger lines whose bytes are absent or others; reads every stored image."""
    return [sha256 for sha256 in _digests(connection) if not _is_whole(blobs, sha256)]


def _digests(connection: Connection) -> list[str]:
    return list(connection.execute(select(instance.c.sha256).distinct()).scalars())


def _is_whole(blobs: BlobStore, sha256: str) -> bool:
    try:
        blobs.verified(sha256)
    except DeferCase:
        return False
    return True


def _verdicts(connection: Connection) -> dict[str, int]:
    query = select(instance.c.verdict, func.count()).group_by(instance.c.verdict)
    found = {str(verdict): int(count) for verdict, count in connection.execute(query)}
    return {verdict.value: found.get(verdict.value, 0) for verdict in Verdict}


def _routes(connection: Connection) -> dict[str, int]:
    query = (
        select(decision.c.route, func.count())
        .join(case, case.c.id == decision.c.case_id)
        .where(case.c.state == CaseState.DECIDED)
        .group_by(decision.c.route)
    )
    found = {str(route): int(count) for route, count in connection.execute(query)}
    return {route.value: found.get(route.value, 0) for route in Route}


def _count_studies(connection: Connection, state: StudyState) -> int:
    return _count(connection, select(func.count()).select_from(study).where(study.c.state == state))


def _count_open_items(connection: Connection) -> int:
    return _count(connection, select(func.count()).select_from(worklist_item).where(_OPEN_ITEM))


def _count(connection: Connection, query: Select[tuple[int]]) -> int:
    return int(connection.execute(query).scalar_one())


def _oldest_wait_s(connection: Connection, now: datetime) -> float:
    """Age of the oldest case without decision or item without read, seconds; 0 when nothing waits."""
    return max(
        _age_s(connection, select(func.min(case.c.created_at)).where(_UNDECIDED), now),
        _age_s(connection, select(func.min(worklist_item.c.created_at)).where(_OPEN_ITEM), now),
    )


def _age_s(connection: Connection, oldest: Select[tuple[datetime]], now: datetime) -> float:
    since: datetime | None = connection.execute(oldest).scalar_one_or_none()
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
