"""Watching a drop folder: take in what has settled, seal what is quiet, triage what is ready.

Files are read and left where they are; what was taken in is remembered by name, size and time of change, and the
intake knows bytes it has seen, so a restart loses and doubles nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.bootstrap import House
from flows.receiving import take_file_in
from flows.triage_desk import TriageDesk

_Seen = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one look did."""

    received: int
    quarantined: int
    decided: int


class Watcher:
    """Looks at `folder` again and again; a file is taken once it was left alone for `settle_seconds`."""

    def __init__(self, house: House, folder: Path, *, settle_seconds: float) -> None:
        self._house = house
        self._folder = folder
        self._settle = settle_seconds
        self._taken: dict[Path, _Seen] = {}
        self._desk = TriageDesk(house)

    def look(self, clock: float) -> Found:
        """Take in what is new at `clock` (seconds since the epoch), then seal and triage. Raises RetryLater."""
        verdicts = [self._take(path, seen) for path, seen in self._settled(clock)]
        before = self._desk.decided
        self._desk.work_off()
        quarantined = sum(verdict == "quarantined" for verdict in verdicts)
        return Found(received=len(verdicts), quarantined=quarantined, decided=self._desk.decided - before)

    def _settled(self, clock: float) -> Iterator[tuple[Path, _Seen]]:
        for folder, _, names in os.walk(self._folder):
            for name in sorted(names):
                path = Path(folder) / name
                seen = _size_and_time(path)
                if seen is not None and clock - seen[1] / 1e9 >= self._settle and self._taken.get(path) != seen:
                    yield path, seen

    def _take(self, path: Path, seen: _Seen) -> str:
        receipt = take_file_in(self._house, path, source="folder")
        self._taken[path] = seen
        return str(receipt.verdict)


def _size_and_time(path: Path) -> _Seen | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
