"""The viewer's data: the series of a case, and one series as display values with what is needed to window them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from pipeline import review
from pipeline.errors import DeferCase, NoSuchCase
from pipeline.store.session_rows import SignedIn
from pipeline.web.access import CLOSED, Session
from pipeline.web.room import Here, Room
from pipeline.web.shelf import SeriesEntry, Stack, series_entries

router = APIRouter(dependencies=CLOSED)
CaseId = Annotated[str, Path(pattern=r"^[0-9a-f-]{1,36}$")]
SeriesIndex = Annotated[int, Path(ge=0, le=9999)]


def _entries(room: Room, session: SignedIn, case_id: str) -> list[SeriesEntry]:
    view = review.view_case(room.database, session.account, case_id, now=room.now())
    return series_entries(review.images_of_case(room.database, view.case), view.protocol)


def _stack(room: Room, session: SignedIn, case_id: str, index: int) -> Stack:
    entries = _entries(room, session, case_id)
    if index >= len(entries):
        raise NoSuchCase("there is no such series; open the case again")
    return room.shelf.stack(entries[index], room.blobs)


@router.get("/cases/{case_id}/series")
def list_series(case_id: CaseId, room: Here, session: Session) -> dict[str, Any]:
    """The series of a case, those that the protocol reads first."""
    return {
        "series": [
            {"index": i, "words": entry.words, "images": entry.frames, "chosen": entry.chosen}
            for i, entry in enumerate(_entries(room, session, case_id))
        ]
    }


@router.get("/cases/{case_id}/series/{index}")
def describe_series(case_id: CaseId, index: SeriesIndex, room: Here, session: Session) -> dict[str, Any]:
    """Shape, intensity scale, first window, aspect and edges of one series; or why it cannot be shown."""
    try:
        stack = _stack(room, session, case_id, index)
    except DeferCase as refused:
        return {"depth": 0, "notes": [f"None of these images can be shown ({refused.detail})."]}
    depth, height, width = stack.values.shape
    return {
        "depth": depth,
        "height": height,
        "width": width,
        "slope": stack.slope,
        "intercept": stack.intercept,
        "window_centre": stack.window_centre,
        "window_width": stack.window_width,
        "aspect": stack.aspect,
        "modality": stack.modality,
        "edges": list(stack.edges),
        "notes": list(stack.notes),
    }


@router.get("/cases/{case_id}/series/{index}/pixels")
def series_pixels(case_id: CaseId, index: SeriesIndex, room: Here, session: Session) -> Response:
    """The display values (D, H, W) as uint16, little endian."""
    try:
        values = _stack(room, session, case_id, index).values
    except DeferCase as refused:
        raise NoSuchCase("none of these images can be shown") from refused
    little = values if sys.byteorder == "little" else values.byteswap()
    return Response(little.tobytes(), media_type="application/octet-stream")
