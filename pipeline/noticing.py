"""Step 3, outwards: whoever is in charge hears of overdue cases, of the safe state and of emergencies.

A notice is a row first, written with what it is about; a sending is held, sent, then marked. Whoever dies between
sending and marking sends the same digest again under the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from pipeline.domain.notices import Notice, NoticeKind
from pipeline.domain.retrying import HORIZON, is_over, next_attempt
from pipeline.errors import SecondreadError
from pipeline.store import audit_rows, escalation_rows, notice_rows
from pipeline.store.database import Database, Transaction
from pipeline.store.escalation_rows import OverdueItem
from pipeline.store.notice_rows import HeldNotice

ACTOR = "noticing"
LEASE = timedelta(minutes=5)
"""Longer than any one sending may take."""
MOST_TOGETHER = 50
MOST_ESCALATED = 500
"""Items of one run; the next run takes the rest."""

_PRIORITIES = {2: "high", 1: "medium", 0: "low"}

Tell = Callable[[Sequence[Notice], datetime], None]
"""Sends notices as one digest. Raises RetryLater."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Somebody outside who is told, by name, and how."""

    name: str
    tell: Tell


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one run did: items escalated, sendings planned, sent, put off and parked."""

    escalated: int
    planned: int
    sent: int
    put_off: int
    parked: int


def escalate(database: Database, *, now: datetime) -> int:
    """Mark items that wait beyond their limit, each once, and ask for a notice of each; returns how many."""
    with database.transaction() as connection:
        items = escalation_rows.take_overdue(connection, now=now, limit=MOST_ESCALATED)
        for item in items:
            _note(connection, item, now)
    return len(items)


def _note(connection: Transaction, item: OverdueItem, now: datetime) -> None:
    minutes = int((now - item.due_at).total_seconds() // 60)
    audit_rows.append(
        connection,
        at=now,
        actor=ACTOR,
        event="item.escalated",
        case_id=item.case_id,
        payload={"item": item.item_id, "minutes_overdue": minutes},
    )
    content = {
        "protocol": item.protocol,
        "specialty": item.specialty,
        "priority": _PRIORITIES.get(item.priority, "medium"),
        "minutes_overdue": minutes,
        "case": item.case_id,
        "path": f"/cases/{item.case_id}",
    }
    notice_rows.add(connection, kind=NoticeKind.ESCALATION, subject=item.item_id, content=content, now=now)


def notify(database: Database, listeners: Sequence[Listener], *, now: Callable[[], datetime], random: Random) -> Told:
    """Escalate what is overdue and send every notice that is due. Raises RetryLater when the database is away."""
    escalated = escalate(database, now=now())
    if not listeners:
        return Told(escalated=escalated, planned=0, sent=0, put_off=0, parked=0)
    names = [listener.name for listener in listeners]
    with database.transaction() as connection:
        planned = notice_rows.plan(connection, names, since=now() - HORIZON, now=now())
    by_name = {listener.name: listener for listener in listeners}
    done: list[str] = []
    while (held := _claim(database, names, now())) is not None:
        done += _tell(database, by_name[held[0].destination], held, now, random) if held else []
    return Told(
        escalated=escalated,
        planned=planned,
        sent=done.count("sent"),
        put_off=done.count("put_off"),
        parked=done.count("parked"),
    )


def _claim(database: Database, names: Sequence[str], now: datetime) -> list[HeldNotice] | None:
    with database.transaction() as connection:
        return notice_rows.claim_due(connection, names, now=now, lease=LEASE, most=MOST_TOGETHER)


def _tell(
    database: Database, listener: Listener, held: Sequence[HeldNotice], now: Callable[[], datetime], random: Random
) -> list[str]:
    try:
        listener.tell([one.notice for one in held], now())
    except SecondreadError as problem:
        return _put_off(database, held, str(problem), now(), random)
    except Exception as error:  # noqa: BLE001 - whatever a library raises, the notice stays
        return _put_off(database, held, f"sending failed ({type(error).__name__})", now(), random)
    with database.transaction() as connection:
        return ["sent" if notice_rows.mark_sent(connection, one, now()) else "passed on" for one in held]


def _put_off(database: Database, held: Sequence[HeldNotice], problem: str, now: datetime, random: Random) -> list[str]:
    """All of one digest wait equally long, so that it goes out as the same digest again."""
    again = next_attempt(held[0].attempts, now, random)
    done = []
    with database.transaction() as connection:
        for one in held:
            over = is_over(one.notice.created_at, now)
            kept = notice_rows.put_off(connection, one, problem, again_at=None if over else again)
            if kept and over:
                what = {"notice": one.notice.id, "destination": one.destination}
                audit_rows.append(connection, at=now, actor=ACTOR, event="notice_parked", payload=what)
            done.append("parked" if over else "put_off")
    return done
