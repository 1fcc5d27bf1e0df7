"""Requests for storage commitment, kept until they are answered, and what is truly held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, insert, select, update

from pipeline.domain.study import Verdict
from pipeline.errors import DeferCase
from pipeline.store.blobs import BlobStore
from pipeline.store.door_tables import commitment
from pipeline.store.sequences import new_id
from pipeline.store.tables import instance

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119


class CommitmentState(StrEnum):
    """Where a request for storage commitment stands."""

    ASKED = "ASKED"  #: Noted; the answer is still to be sent.
    ANSWERED = "ANSWERED"  #: The peer has confirmed the answer.
    PARKED = "PARKED"  #: The peer could not be reached for three days; kept, and nothing more is tried.


@dataclass(frozen=True, kw_only=True)
class WaitingCommitment:
    """One request that waits for its answer."""

    id: str
    transaction_uid: str
    peer: str
    asked: tuple[tuple[str, str], ...]
    attempts: int
    asked_at: datetime


def note(
    connection: Connection, *, transaction_uid: str, peer: str, asked: Sequence[tuple[str, str]], now: datetime
) -> None:
    """Keep a request, once: the same transaction asked again is answered again."""
    same = (commitment.c.transaction_uid == transaction_uid) & (commitment.c.peer == peer)
    fresh = {"asked": [list(pair) for pair in asked], "state": CommitmentState.ASKED, "not_before": now}
    if connection.execute(update(commitment).where(same).values(**fresh)).rowcount:
        return
    row = {"id": new_id(), "transaction_uid": transaction_uid, "peer": peer, "asked_at": now, **fresh}
    connection.execute(insert(commitment).values(**row))


def waiting(connection: Connection, *, now: datetime, limit: int = 50) -> list[WaitingCommitment]:
    """Requests whose answer is due, oldest first."""
    query = select(commitment).where(commitment.c.state == CommitmentState.ASKED, commitment.c.not_before <= now)
    return [
        WaitingCommitment(
            id=row.id,
            transaction_uid=row.transaction_uid,
            peer=row.peer,
            asked=tuple((sop_class, sop_instance) for sop_class, sop_instance in row.asked),
            attempts=row.attempts,
            asked_at=row.asked_at,
        )
        for row in connection.execute(query.order_by(commitment.c.asked_at).limit(limit))
    ]


def close(connection: Connection, commitment_id: str, state: CommitmentState, now: datetime) -> None:
    """Nothing more is to be done about a request."""
    done = {"state": state, "answered_at": now if state is CommitmentState.ANSWERED else None}
    connection.execute(update(commitment).where(commitment.c.id == commitment_id).values(**done))


def postpone(connection: Connection, commitment_id: str, until: datetime) -> None:
    """Try again, not before that moment."""
    later = {"attempts": commitment.c.attempts + 1, "not_before": until}
    connection.execute(update(commitment).where(commitment.c.id == commitment_id).values(**later))


def failures(connection: Connection, blobs: BlobStore, asked: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Failure reasons (PS3.3 C.14.1.1) of instances that are not held: absent, of another class, or damaged."""
    found = ((uid, _failure(connection, blobs, sop_class, uid)) for sop_class, uid in asked)
    return {uid: reason for uid, reason in found if reason}


def _failure(connection: Connection, blobs: BlobStore, sop_class_uid: str, sop_instance_uid: str) -> int:
    query = select(instance).where(
        instance.c.sop_instance_uid == sop_instance_uid, instance.c.verdict != Verdict.DUPLICATE
    )
    rows = connection.execute(query).all()
    if not rows:
        return NO_SUCH_INSTANCE
    if len(rows) > 1:  # one UID with several contents: we cannot say which of them the sender means
        return PROCESSING_FAILURE
    (row,) = rows
    if row.header is not None and row.header["sop_class_uid"] != sop_class_uid:
        return CLASS_CONFLICT
    try:
        blobs.verified(row.sha256)
    except DeferCase:
        return PROCESSING_FAILURE
    return 0
