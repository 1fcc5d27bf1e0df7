"""Cases waiting for triage: claimed under a lease and a fencing token, so that one holder at most can write a decision.

The fence grows with every claim and every supersession, and each later write names it. A worker that stalled past its
lease finds its fence gone, whatever its own clock says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update

from pipeline.domain.case import CaseState
from pipeline.domain.study import StudyState
from pipeline.errors import SecondreadError
from pipeline.store import worklist_rows
from pipeline.store.sequences import new_id
from pipeline.store.tables import case, protocol_text, study, study_revision

_FREE_AGAIN = {"lease_owner": None, "lease_until": None}


class LostClaim(SecondreadError):
    """The lease ended or the case passed to another worker: nothing was written."""


@dataclass(frozen=True, kw_only=True)
class ClaimedCase:
    """One worker's hold on one case; `owner` and `fence` prove it at every write, `attempts` counts this one too."""

    case_id: str
    study_id: str
    revision_id: str
    owner: str
    fence: int
    attempts: int
    manifest_digest: str


def open_case(
    connection: Connection, *, study_id: str, revision_id: str, protocol: str, protocol_digest: str, now: datetime
) -> str:
    """Put a sealed revision to a protocol and return the case's id; the database refuses a second one."""
    case_id = new_id()
    connection.execute(
        insert(case).values(
            id=case_id,
            study_id=study_id,
            revision_id=revision_id,
            protocol=protocol,
            protocol_digest=protocol_digest,
            state=CaseState.READY,
            not_before=now,
            created_at=now,
        )
    )
    return case_id


def register_protocol(
    connection: Connection, *, digest: str, name: str, content: dict[str, object], now: datetime
) -> str:
    """Keep a protocol's whole text under its digest, once, and return the digest."""
    known = select(protocol_text.c.digest).where(protocol_text.c.digest == digest)
    if connection.execute(known).scalar_one_or_none() is None:
        row = {"digest": digest, "name": name, "content": content, "first_used_at": now}
        connection.execute(insert(protocol_text).values(**row))
    return digest


def protocols_of(connection: Connection, revision_id: str) -> set[str]:
    """Names of the protocols that a sealed revision was put to."""
    return set(connection.execute(select(case.c.protocol).where(case.c.revision_id == revision_id)).scalars())


def claim_cases(
    connection: Connection, *, protocol: str, owner: str, limit: int, lease: timedelta, now: datetime
) -> list[ClaimedCase]:
    """Hold up to `limit` cases of sealed studies that wait or whose holder's lease has ended, oldest first."""
    query = (
        select(case.c.id)
        .join(study, study.c.id == case.c.study_id)
        .where(case.c.protocol == protocol, study.c.state == StudyState.SEALED, _is_free(now))
        .order_by(case.c.created_at, case.c.id)
        .limit(limit)
        .with_for_update(of=case, skip_locked=True)
    )
    found = list(connection.execute(query).scalars())
    if not found:
        return []
    connection.execute(
        update(case)
        .where(case.c.id.in_(found))
        .values(
            state=CaseState.CLAIMED,
            lease_owner=owner,
            lease_until=now + lease,
            fence=case.c.fence + 1,
            attempts=case.c.attempts + 1,
        )
    )
    return _claimed(connection, found)


def _is_free(now: datetime) -> ColumnElement[bool]:
    waits = and_(case.c.state == CaseState.READY, case.c.not_before <= now)
    ended = and_(case.c.state == CaseState.CLAIMED, case.c.lease_until <= now)
    return or_(waits, ended)


def _claimed(connection: Connection, case_ids: Sequence[str]) -> list[ClaimedCase]:
    query = (
        select(case, study_revision.c.manifest_digest)
        .join(study_revision, study_revision.c.id == case.c.revision_id)
        .where(case.c.id.in_(case_ids))
        .order_by(case.c.created_at, case.c.id)
    )
    return [
        ClaimedCase(
            case_id=row.id,
            study_id=row.study_id,
            revision_id=row.revision_id,
            owner=row.lease_owner,
            fence=row.fence,
            attempts=row.attempts,
            manifest_digest=row.manifest_digest,
        )
        for row in connection.execute(query)
    ]


def _held(case_id: str, owner: str, fence: int) -> ColumnElement[bool]:
    return and_(
        case.c.id == case_id, case.c.state == CaseState.CLAIMED, case.c.lease_owner == owner, case.c.fence == fence
    )


def renew(connection: Connection, *, case_id: str, owner: str, fence: int, lease: timedelta, now: datetime) -> bool:
    """Lengthen a lease that has not ended; False when it has, or when the case passed to another holder."""
    alive = and_(_held(case_id, owner, fence), case.c.lease_until > now)
    return connection.execute(update(case).where(alive).values(lease_until=now + lease)).rowcount == 1


def release(connection: Connection, *, case_id: str, owner: str, fence: int, not_before: datetime) -> bool:
    """Give a case back to the queue, not before that moment; False when it was no longer this worker's."""
    waiting = {"state": CaseState.READY, "not_before": not_before, **_FREE_AGAIN}
    return connection.execute(update(case).where(_held(case_id, owner, fence)).values(**waiting)).rowcount == 1


def finish(connection: Connection, *, case_id: str, owner: str, fence: int, now: datetime) -> None:
    """Mark a held case as decided. Raises LostClaim when the lease has ended or the fence is another one."""
    alive = and_(_held(case_id, owner, fence), case.c.lease_until > now)
    decided = {"state": CaseState.DECIDED, **_FREE_AGAIN}
    if connection.execute(update(case).where(alive).values(**decided)).rowcount != 1:
        raise LostClaim("the hold on this case has ended or passed to another worker; nothing was written")


def hold(connection: Connection, case_id: str) -> None:
    """Let nobody supersede the case until this transaction ends; on SQLite there is no other writer anyway."""
    connection.execute(select(case.c.id).where(case.c.id == case_id).with_for_update(key_share=True)).all()


def supersede(connection: Connection, *, study_id: str, now: datetime) -> list[str]:
    """Replace every case of a study's earlier revisions and take their items off the worklist; returns their ids."""
    earlier = and_(case.c.study_id == study_id, case.c.state != CaseState.SUPERSEDED)
    replaced = update(case).where(earlier).values(state=CaseState.SUPERSEDED, fence=case.c.fence + 1, **_FREE_AGAIN)
    case_ids = list(connection.execute(replaced.returning(case.c.id)).scalars())
    for case_id in case_ids:
        worklist_rows.cancel_open_items(connection, case_id=case_id, now=now)
    return case_ids


def count_ready(connection: Connection, *, now: datetime) -> int:
    """How many cases could be claimed at `now`."""
    query = select(func.count()).select_from(case).join(study, study.c.id == case.c.study_id)
    return connection.execute(query.where(study.c.state == StudyState.SEALED, _is_free(now))).scalar_one()


def count_held(connection: Connection) -> int:
    """How many cases a worker holds, whether or not it still lives."""
    return connection.execute(select(func.count()).where(case.c.state == CaseState.CLAIMED)).scalar_one()


def count_open_studies(connection: Connection) -> int:
    """How many studies may still grow."""
    return connection.execute(select(func.count()).where(study.c.state == StudyState.OPEN)).scalar_one()
