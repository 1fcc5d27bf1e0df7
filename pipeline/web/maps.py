"""The maps of a case for the reader who has seen the model's answer; for everybody else there is nothing here, ever.

An unknown case, a case without maps and a case whose answer the caller has not revealed get the very same answer.
"""

from __future__ import annotations

import zlib
from typing import Annotated

from fastapi import APIRouter, Query, Response

from pipeline import review
from pipeline.domain.drawn_map import MapKind
from pipeline.errors import DeferCase, NoSuchCase
from pipeline.store import map_rows
from pipeline.store.exposure_rows import Exposure
from pipeline.store.map_rows import StoredMap
from pipeline.store.session_rows import SignedIn
from pipeline.web.access import FOR_CASES, SeesCases
from pipeline.web.api_models import Told
from pipeline.web.room import Here, Room
from pipeline.web.told_case import CaseId

router = APIRouter(dependencies=FOR_CASES)
SeriesNumber = Annotated[int, Query(ge=0, le=9999)]


class ToldMap(Told):
    """One map: its kind, the series it belongs to, (D, H, W), and the affine from index to LPS millimetres."""

    kind: MapKind
    series: int
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    full_scale: float


class ToldMaps(Told):
    """Every map of a case."""

    maps: tuple[ToldMap, ...]


def _revealed(room: Room, session: SignedIn, case_id: str) -> list[StoredMap]:
    """The maps that this reader may see; raises NoSuchCase."""
    with room.database.read() as connection:
        found = map_rows.revealed_maps(connection, case_id=case_id, reader_id=session.account.id)
    if not found:
        raise NoSuchCase("there is nothing of that kind to show")
    return found


@router.get("/cases/{case_id}/maps", response_model=ToldMaps)
def list_maps(case_id: CaseId, room: Here, session: SeesCases) -> ToldMaps:
    """Say which maps there are, and where they lie in the patient."""
    return ToldMaps(maps=tuple(ToldMap.model_validate(one) for one in _revealed(room, session, case_id)))


@router.get("/cases/{case_id}/maps/{kind}", response_class=Response)
def map_values(case_id: CaseId, kind: MapKind, room: Here, session: SeesCases, series: SeriesNumber = 0) -> Response:
    """One map (D, H, W) as uint8, and note that it was shown."""
    chosen = [one for one in _revealed(room, session, case_id) if one.kind is kind and one.series == series]
    if not chosen:
        raise NoSuchCase("there is nothing of that kind to show")
    values = _bytes_of(room, chosen[0])
    review.note_exposure(room.database, session.account, case_id, Exposure.MAPS, now=room.now())
    return Response(values, media_type="application/octet-stream")


def _bytes_of(room: Room, one: StoredMap) -> bytes:
    """The verified values, as many as the shape says; raises NoSuchCase when they are lost."""
    depth, height, width = one.shape
    unpacked = zlib.decompressobj()
    try:
        values = unpacked.decompress(room.blobs.read(one.sha256), depth * height * width + 1)
    except (DeferCase, zlib.error) as error:
        raise NoSuchCase("this map was lost; read without it") from error
    if len(values) != depth * height * width:
        raise NoSuchCase("this map was lost; read without it")
    return values
