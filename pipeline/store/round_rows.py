"""Rounds of a case: the first read, a blind second one, and the adjudication where the two disagree.

Every round is a worklist item of its own, and a case has one open item at most, so rounds follow each other. What a second
reader sees of an item is copied from the first, so that nothing tells the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, and_, func, select

from pipeline.domain.second_reads import ADJUDICATION, FIRST
from pipeline.store import worklist_rows
from pipeline.store.reading_order import is_open
from pipeline.store.tables import worklist_item


def may_take_item(connection: Connection, *, item_id: str, account_id: str, adjudicates: bool) -> bool:
    """Whether this item's round is one for this account: nobody reads a case twice or with the answer in mind."""
    allowed = worklist_rows.is_open_to(account_id, may_adjudicate=adjudicates)
    query = select(worklist_item.c.id).where(worklist_item.c.id == item_id, allowed)
    return connection.execute(query).first() is not None


def round_of(connection: Connection, item_id: str) -> int:
    """The round that an item asks for."""
    return int(connection.execute(select(worklist_item.c.round).where(worklist_item.c.id == item_id)).scalar_one())


def open_round(connection: Connection, case_id: str) -> int | None:
    """The round that a case waits for, or None where nothing is asked of anybody any more."""
    query = select(worklist_item.c.round).where(worklist_item.c.case_id == case_id, is_open())
    return connection.execute(query).scalar_one_or_none()


def schedule_next(
    connection: Connection, *, item_id: str, number: int, more_reasons: Sequence[str] = (), now: datetime
) -> str:
    """Put the case of a completed item on the worklist for its next round.

    What readers see of it is copied from the first, its moments and its fence too, so that an item of a second round looks
    like one that was given back. An adjudication is due at once: the case has waited for two reads already.
    """
    done = connection.execute(select(worklist_item).where(worklist_item.c.id == item_id)).one()
    of_first = and_(worklist_item.c.case_id == done.case_id, worklist_item.c.round == FIRST)
    first = connection.execute(
        select(
            func.min(worklist_item.c.created_at).label("asked_at"), func.max(worklist_item.c.due_at).label("due_at")
        ).where(of_first)
    ).one()
    return worklist_rows.schedule_item(
        connection,
        case_id=done.case_id,
        specialty=done.specialty,
        priority=done.priority,
        reasons=[*done.reasons, *more_reasons],
        due_at=min(first.due_at, now) if number == ADJUDICATION else first.due_at,
        now=first.asked_at,
        round_=number,
        fence=done.fence,
        escalated_at=done.escalated_at,
    )
