"""Maps of a case: where their bytes are and where they lie in the patient; told to nobody before their own reveal.

Nothing reads these rows to decide anything. `revealed_maps` joins the reader's own committed and revealed read, as
`reading_rows.model_answer` does, so that not even whether there are maps is known before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, exists, insert, select

from pipeline.domain.drawn_map import DrawnMap, MapKind
from pipeline.store.database import Database
from pipeline.store.room_tables import case_map
from pipeline.store.tables import case, decision, read, worklist_item


@dataclass(frozen=True, kw_only=True)
class StoredMap:
    """One map of one series the network was shown; the bytes are zlib-compressed uint8 of `shape`."""

    kind: MapKind
    series: int
    sha256: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]  #: (4, 4) from index (d, h, w) to LPS millimetres
    full_scale: float


def revision_to_draw(connection: Connection, *, case_id: str, release_digest: str) -> str | None:
    """The revision of a case that a person is asked to read and that release has spoken on, until it has maps."""
    query = (
        select(case.c.revision_id)
        .join(decision, decision.c.case_id == case.c.id)
        .where(
            case.c.id == case_id,
            decision.c.release_digest == release_digest,
            decision.c.samples_digest.is_not(None),
            exists().where(worklist_item.c.case_id == case_id),
            ~exists().where(case_map.c.case_id == case_id),
        )
    )
    return connection.execute(query).scalar_one_or_none()


def add_maps(
    connection: Connection,
    *,
    case_id: str,
    maps: Sequence[tuple[DrawnMap, str]],
    release_digest: str,
    now: datetime,
) -> None:
    """Write the maps of a case, each with the SHA-256 of its stored bytes; the database refuses them a second time."""
    rows = [
        {
            "case_id": case_id,
            "series": drawn.series,
            "kind": drawn.kind.value,
            "sha256": sha256,
            "shape": list(drawn.values.shape),
            "affine": drawn.affine.tolist(),
            "full_scale": drawn.full_scale,
            "release_digest": release_digest,
            "made_at": now,
        }
        for drawn, sha256 in maps
    ]
    connection.execute(insert(case_map), rows)


def has_maps(database: Database, case_id: str, *, reader_id: str) -> bool:
    """Whether there are maps that this reader may see."""
    with database.read() as connection:
        return bool(revealed_maps(connection, case_id=case_id, reader_id=reader_id))


def revealed_maps(connection: Connection, *, case_id: str, reader_id: str) -> list[StoredMap]:
    """The maps of a case for a reader whose own read is committed and revealed; none for everybody else.

    Only those that the release drew whose answer was revealed.
    """
    own = exists().where(
        read.c.case_id == case_id,
        read.c.reader_id == reader_id,
        read.c.revealed_at.is_not(None),
        read.c.revealed_at >= read.c.committed_at,
    )
    query = (
        select(case_map)
        .join(decision, decision.c.case_id == case_map.c.case_id)
        .where(case_map.c.case_id == case_id, case_map.c.release_digest == decision.c.release_digest, own)
        .order_by(case_map.c.series, case_map.c.kind)
    )
    return [
        StoredMap(
            kind=MapKind(row.kind),
            series=row.series,
            sha256=row.sha256,
            shape=(row.shape[0], row.shape[1], row.shape[2]),
            affine=tuple(tuple(float(value) for value in line) for line in row.affine),
            full_scale=row.full_scale,
        )
        for row in connection.execute(query)
    ]
