"""Drafts: what a reader has filled in and not committed; nobody but that reader is ever shown it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from pipeline.domain.case import ItemState
from pipeline.errors import NewerDraft
from pipeline.store.room_tables import draft
from pipeline.store.tables import worklist_item


@dataclass(frozen=True, kw_only=True)
class StoredDraft:
    """The fields of the read form as its reader left them."""

    content: Mapping[str, Any]
    saved_at: datetime


def save(
    connection: Connection,
    *,
    case_id: str,
    account_id: str,
    fence: int,
    content: Mapping[str, Any],
    seen: datetime | None = None,
    now: datetime,
) -> bool:
    """Keep a draft; False where the item is closed or has passed to somebody else.

    `seen` is when the draft was saved that this one follows; raises NewerDraft where the stored one is newer than that.
    A hold that merely ended does not matter: nobody else has the item, and nothing is written but the reader's own words.
    """
    query = select(worklist_item.c.id).where(
        worklist_item.c.case_id == case_id,
        worklist_item.c.state == ItemState.IN_PROGRESS.value,
        worklist_item.c.claimed_by == account_id,
        worklist_item.c.fence == fence,
    )
    item_id = connection.execute(query.with_for_update()).scalar_one_or_none()
    if item_id is None:
        return False
    _refuse_older(connection, item_id, account_id, seen)
    _write(connection, item_id, account_id, {"content": dict(content), "saved_at": now})
    return True


def _refuse_older(connection: Connection, item_id: str, account_id: str, seen: datetime | None) -> None:
    own = select(draft.c.saved_at).where(draft.c.item_id == item_id, draft.c.account_id == account_id)
    saved = connection.execute(own).scalar_one_or_none()
    if seen is not None and saved is not None and saved > seen:
        raise NewerDraft("another tab has a newer draft of this read; reload the page to go on with it")


def _write(connection: Connection, item_id: str, account_id: str, values: Mapping[str, Any]) -> None:
    own = (draft.c.item_id == item_id, draft.c.account_id == account_id)
    if connection.execute(update(draft).where(*own).values(**values)).rowcount == 1:
        return
    try:
        with connection.begin_nested():
            connection.execute(insert(draft).values(item_id=item_id, account_id=account_id, **values))
    except IntegrityError:  # another tab of the same reader saved at this moment
        connection.execute(update(draft).where(*own).values(**values))


def keep(connection: Connection, *, case_id: str, account_id: str, content: Mapping[str, Any], now: datetime) -> bool:
    """Bring a draft up to date whose item may be lost by now; False where this reader has none of this case."""
    newest = _own(case_id, account_id).order_by(draft.c.saved_at.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    if row is None:
        return False
    _write(connection, row.item_id, account_id, {"content": dict(content), "saved_at": now})
    return True


def _own(case_id: str, account_id: str) -> Any:
    return (
        select(draft)
        .join(worklist_item, worklist_item.c.id == draft.c.item_id)
        .where(worklist_item.c.case_id == case_id, draft.c.account_id == account_id)
    )


def newest(connection: Connection, *, case_id: str, account_id: str) -> StoredDraft | None:
    """This reader's newest draft of the case, or None."""
    row = connection.execute(_own(case_id, account_id).order_by(draft.c.saved_at.desc()).limit(1)).one_or_none()
    return None if row is None else StoredDraft(content=row.content, saved_at=row.saved_at)


def forget(connection: Connection, *, case_id: str, account_id: str) -> None:
    """Remove this reader's drafts of the case."""
    items = select(worklist_item.c.id).where(worklist_item.c.case_id == case_id)
    connection.execute(delete(draft).where(draft.c.account_id == account_id, draft.c.item_id.in_(items)))
