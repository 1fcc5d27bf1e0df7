"""Where a page of the worklist begins, as it stands in an address: opaque, and nothing about a patient in it."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any

from fastapi import Depends, Query
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError

from pipeline.store.page_rows import Before, Cursor
from pipeline.store.reading_order import PRIORITIES, Place
from pipeline.web.api_models import Moment

_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{1,32}$")]
_PLACE: TypeAdapter[tuple[bool, int, Moment, _Id]] = TypeAdapter(tuple[bool, int, Moment, _Id])
_BEFORE: TypeAdapter[tuple[Moment, _Id]] = TypeAdapter(tuple[Moment, _Id])
LONGEST = 200  #: characters


def written(cursor: Cursor | None) -> str | None:
    """A cursor as text, None where there is none."""
    if cursor is None:
        return None
    if isinstance(cursor, Place):
        parts: list[Any] = [cursor.overdue, cursor.priority, cursor.due_at.isoformat(), cursor.item_id]
    else:
        parts = [cursor.at.isoformat(), cursor.id]
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """A cursor from its text; raises ValueError."""
    content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    parts = json.loads(content)
    if isinstance(parts, list) and len(parts) == 2:
        at, row_id = _BEFORE.validate_python(parts)
        return Before(at=at, id=row_id)
    overdue, priority, due_at, item_id = _PLACE.validate_python(parts)
    if priority not in PRIORITIES:
        raise ValueError("no such priority")
    return Place(overdue=overdue, priority=priority, due_at=due_at, item_id=item_id)


def asked_cursor(
    after: Annotated[
        str | None, Query(max_length=LONGEST, description="where the page begins, from the page before")
    ] = None,
) -> Cursor | None:
    """The cursor in a request; raises RequestValidationError for one that was not made here."""
    if not after:
        return None
    try:
        return read_cursor(after)
    except (ValueError, ValidationError):
        problem = {"type": "value_error", "loc": ("query", "after"), "msg": "no place of this list", "input": None}
        raise RequestValidationError([problem]) from None


AskedCursor = Annotated[Cursor | None, Depends(asked_cursor)]
