"""Notices and their way to each destination: told once each, held while they are sent, parked after three days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, insert, select, update

from pipeline.domain.notices import Notice, NoticeKind, SendingState, checked
from pipeline.store.room_tables import notice, notice_sending
from pipeline.store.sequences import new_id


@dataclass(frozen=True, kw_only=True)
class HeldNotice:
    """One run's hold on one notice for one destination; `attempts` is the fence of the hold."""

    notice: Notice
    destination: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Sending:
    """Where one notice stands at one destination."""

    notice: Notice
    destination: str
    state: SendingState
    attempts: int
    problem: str | None
    sent_at: datetime | None


def add(
    connection: Connection, *, kind: NoticeKind | str, subject: str, content: Mapping[str, Any], now: datetime
) -> str | None:
    """Ask for one thing to be told; None where it was asked for before.

    Raises ValueError where the content says more than a notice of this kind may.
    """
    chosen = NoticeKind(kind)
    known = select(notice.c.id).where(notice.c.kind == chosen.value, notice.c.subject == subject)
    if connection.execute(known).first() is not None:
        return None
    row = {
        "id": new_id(),
        "kind": chosen.value,
        "subject": subject,
        "content": checked(chosen, content),
        "created_at": now,
    }
    connection.execute(insert(notice).values(**row))
    return str(row["id"])


def plan(connection: Connection, destinations: Sequence[str], *, since: datetime, now: datetime) -> int:
    """Give every notice made after `since` a sending to every destination; returns how many are new.

    What waits for a destination that is gone is parked.
    """
    recent = select(notice.c.id).where(notice.c.created_at > since).order_by(notice.c.id)
    ids = connection.execute(recent.with_for_update()).scalars().all()  # another planner waits, and finds these planned
    known = set(connection.execute(select(notice_sending.c.notice_id, notice_sending.c.destination)).tuples())
    wanted = [_sending(one, name, now) for one in ids for name in destinations if (one, name) not in known]
    if wanted:
        connection.execute(insert(notice_sending), wanted)
    gone = and_(notice_sending.c.state == SendingState.WAITING, notice_sending.c.destination.not_in(list(destinations)))
    parked = {"state": SendingState.PARKED.value, "problem": "this destination is no longer among the site's rules"}
    connection.execute(update(notice_sending).where(gone).values(**parked))
    return len(wanted)


def _sending(notice_id: str, destination: str, now: datetime) -> dict[str, Any]:
    waiting = {"state": SendingState.WAITING.value, "attempts": 0, "not_before": now}
    return {"notice_id": notice_id, "destination": destination, **waiting}


def claim_due(
    connection: Connection, destinations: Sequence[str], *, now: datetime, lease: timedelta, most: int
) -> list[HeldNotice] | None:
    """Hold notices that go out together to one destination, or None when nothing is due.

    What failed together is held together again, so that a digest sent twice is the same digest. An empty list says that
    another run was quicker: ask again.
    """
    due = and_(
        notice_sending.c.state == SendingState.WAITING,
        notice_sending.c.not_before <= now,
        notice_sending.c.destination.in_(list(destinations)),
    )
    first = connection.execute(
        select(notice_sending).where(due).order_by(notice_sending.c.not_before, notice_sending.c.notice_id).limit(1)
    ).one_or_none()
    if first is None:
        return None
    same = and_(notice_sending.c.destination == first.destination, notice_sending.c.attempts == first.attempts)
    together = (
        and_(due, same) if first.attempts == 0 else and_(due, same, notice_sending.c.not_before == first.not_before)
    )
    query = (
        select(notice, notice_sending.c.destination, notice_sending.c.attempts)
        .join(notice_sending, notice_sending.c.notice_id == notice.c.id)
        .where(together)
        .order_by(notice.c.created_at, notice.c.id)
        .limit(most)
        .with_for_update(of=notice_sending)
    )
    return [held for row in connection.execute(query).all() if (held := _hold(connection, row, now + lease))]


def _hold(connection: Connection, row: Any, until: datetime) -> HeldNotice | None:
    seen = HeldNotice(notice=_notice(row), destination=row.destination, attempts=row.attempts)
    taken = {"attempts": row.attempts + 1, "not_before": until}
    if connection.execute(update(notice_sending).where(_is_held(seen)).values(**taken)).rowcount != 1:
        return None
    return HeldNotice(notice=seen.notice, destination=seen.destination, attempts=seen.attempts + 1)


def _notice(row: Any) -> Notice:
    return Notice(
        id=row.id, kind=NoticeKind(row.kind), subject=row.subject, content=row.content, created_at=row.created_at
    )


def _is_held(held: HeldNotice) -> ColumnElement[bool]:
    return and_(
        notice_sending.c.notice_id == held.notice.id,
        notice_sending.c.destination == held.destination,
        notice_sending.c.attempts == held.attempts,
        notice_sending.c.state == SendingState.WAITING,
    )


def mark_sent(connection: Connection, held: HeldNotice, now: datetime) -> bool:
    """The destination took it; False where the hold passed to another run meanwhile."""
    done = {"state": SendingState.SENT.value, "sent_at": now, "problem": None}
    return connection.execute(update(notice_sending).where(_is_held(held)).values(**done)).rowcount == 1


def put_off(connection: Connection, held: HeldNotice, problem: str, *, again_at: datetime | None) -> bool:
    """It was not taken: tried again at that moment, or parked where there is none."""
    values: dict[str, Any] = {"problem": problem[:255]}
    values |= {"state": SendingState.PARKED.value} if again_at is None else {"not_before": again_at}
    return connection.execute(update(notice_sending).where(_is_held(held)).values(**values)).rowcount == 1


def send_parked_again(connection: Connection, destinations: Sequence[str], now: datetime) -> int:
    """A person asks for everything that was parked for these destinations; returns how many sendings that are."""
    parked = and_(notice_sending.c.state == SendingState.PARKED, notice_sending.c.destination.in_(list(destinations)))
    again = {"state": SendingState.WAITING.value, "not_before": now, "attempts": 0}
    return connection.execute(update(notice_sending).where(parked).values(**again)).rowcount


def counts(connection: Connection) -> dict[str, int]:
    """How many sendings stand where."""
    query = select(notice_sending.c.state, func.count()).group_by(notice_sending.c.state)
    found = {str(state): int(count) for state, count in connection.execute(query)}
    return {state.value.lower(): found.get(state.value, 0) for state in SendingState}


def newest(connection: Connection, *, limit: int) -> list[Notice]:
    """The newest notices, newest first."""
    query = select(notice).order_by(notice.c.created_at.desc(), notice.c.id).limit(limit)
    return [_notice(row) for row in connection.execute(query)]


def sendings(connection: Connection, notice_ids: Sequence[str]) -> list[Sending]:
    """Where each of these notices stands at each destination."""
    query = (
        _sendings()
        .where(notice.c.id.in_(list(notice_ids)))
        .order_by(notice.c.created_at.desc(), notice.c.id, notice_sending.c.destination)
    )
    return [_sending_of(row) for row in connection.execute(query)]


def _sendings() -> Select[Any]:
    sent = [notice_sending.c[name] for name in ("destination", "state", "attempts", "problem", "sent_at")]
    return select(notice, *sent).join(notice_sending, notice_sending.c.notice_id == notice.c.id)


def _sending_of(row: Any) -> Sending:
    return Sending(
        notice=_notice(row),
        destination=row.destination,
        state=SendingState(row.state),
        attempts=row.attempts,
        problem=row.problem,
        sent_at=row.sent_at,
    )


def troubled(connection: Connection, *, limit: int) -> list[Sending]:
    """Sendings that failed at least once and are not through, those given up first."""
    query = (
        _sendings()
        .where(notice_sending.c.state != SendingState.SENT, notice_sending.c.problem.is_not(None))
        .order_by(notice_sending.c.state, notice.c.created_at.desc(), notice.c.id, notice_sending.c.destination)
        .limit(limit)
    )
    return [_sending_of(row) for row in connection.execute(query)]


def untold(connection: Connection, *, before: datetime) -> int:
    """How many notices made before that moment were never given to any destination: nobody outside knows of them."""
    some = exists().where(notice_sending.c.notice_id == notice.c.id)
    return int(
        connection.execute(
            select(func.count()).select_from(notice).where(~some, notice.c.created_at < before)
        ).scalar_one()
    )
