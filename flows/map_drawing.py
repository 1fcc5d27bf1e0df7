"""Drawing the maps of decided cases, when nothing else waits: it delays no decision by more than one case's time.

Why so little is promised: maps prove nothing and nothing needs them. Whatever goes wrong, the case has none, the log says
so, and it is not tried again. Only cases that a person is asked to read are drawn.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.store import map_rows, revision_rows
from pipeline.triage import Bench, volumes_of

if TYPE_CHECKING:
    from flows.bootstrap import House

SECONDS_PER_CASE = 20.0
MOST_WAITING = 1000  #: cases; beyond it the oldest go without

_log = logging.getLogger(__name__)
BenchOf = Callable[[str], Bench]  #: of a protocol's name


class MapDrawer:
    """The decided cases of one run whose protocol asks for maps, in the order they were decided."""

    def __init__(self, house: House, *, seconds: float = SECONDS_PER_CASE) -> None:
        self._database, self._blobs, self._protocols = house.database, house.blobs, house.protocols
        self._seconds = seconds
        self._waiting: deque[tuple[str, str]] = deque(maxlen=MOST_WAITING)

    def wish(self, case_id: str, protocol: str) -> None:
        """Have this decided case drawn later, where its protocol asks for maps."""
        if self._protocols[protocol].reading.maps:
            self._waiting.append((case_id, protocol))

    def draw_next(self, bench_of: BenchOf) -> bool:
        """Draw one case that waits; False when none does. Raises nothing: a case that cannot be drawn has no maps."""
        if not self._waiting:
            return False
        case_id, protocol = self._waiting.popleft()
        try:
            self._draw(case_id, bench_of(protocol))
        except Exception as error:  # noqa: BLE001 - maps are optional, and nothing that decides may end because of one
            _log.warning("a case has no maps", extra={"case_id": case_id, "error": type(error).__name__})
        return True

    def _draw(self, case_id: str, bench: Bench) -> None:
        predictor, began = bench.predictor, time.monotonic()
        if predictor is None:
            return
        with self._database.read() as connection:
            revision_id = map_rows.revision_to_draw(
                connection, case_id=case_id, release_digest=predictor.release_digest
            )
            if revision_id is None:
                return
            revision = revision_rows.sealed_revision(connection, revision_id)
        volumes = volumes_of(bench, revision)
        maps = predictor.maps(revision.manifest_digest, volumes, lambda: time.monotonic() - began > self._seconds)
        stored = [(drawn, self._blobs.put(zlib.compress(drawn.values.tobytes()))) for drawn in maps]
        with self._database.transaction() as connection:
            map_rows.add_maps(
                connection,
                case_id=case_id,
                maps=stored,
                release_digest=predictor.release_digest,
                now=datetime.now(UTC),
            )
