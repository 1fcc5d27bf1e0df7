"""The line one chunk of cases runs along: the next case is read while the engine works on this one.

Decisions are written together, but none waits longer than `LONGEST_UNWRITTEN_S`, and a case that was begun before takes
no other with it: it is worked on with nothing unwritten beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from pipeline.domain.evidence import Decision
from pipeline.errors import RetryLater
from pipeline.protocol import TriageProtocol
from pipeline.store.case_rows import ClaimedCase
from pipeline.store.database import Database
from pipeline.store.decided_cases import ReadyRecord, write_decision, write_decisions
from pipeline.triage import Bench, PreparedCase

LONGEST_UNWRITTEN_S: Final = 2.0

OnDecided = Callable[[ClaimedCase, Decision], None]
OnTrouble = Callable[[ClaimedCase, Exception], None]


class CaseLine:
    """Reads, decides and writes cases; tells `decided` or `trouble` of each, and `seconds` says where the time went."""

    def __init__(
        self,
        database: Database,
        *,
        audit_key: bytes,
        now: Callable[[], datetime],
        decided: OnDecided,
        trouble: OnTrouble,
        seconds: dict[str, float],
    ) -> None:
        self._database, self._audit_key, self._now = database, audit_key, now
        self._decided, self._trouble, self._seconds = decided, trouble, seconds
        self._unwritten: list[ReadyRecord] = []
        self._oldest = 0.0

    def run(
        self, cases: Sequence[ClaimedCase], protocol: TriageProtocol, bench_of: Callable[[ClaimedCase], Bench]
    ) -> None:
        """Work on the cases in their order. Raises RetryLater, with everything written that was decided."""
        with ThreadPoolExecutor(1, thread_name_prefix="reading") as reader:
            try:
                for claimed, prepared in self._read_ahead(reader, cases, bench_of):
                    self._work(claimed, prepared, protocol)
            finally:
                self._write(protocol)

    def _read_ahead(
        self, reader: ThreadPoolExecutor, cases: Sequence[ClaimedCase], bench_of: Callable[[ClaimedCase], Bench]
    ) -> Iterator[tuple[ClaimedCase, Future[PreparedCase]]]:
        def begun(claimed: ClaimedCase) -> Future[PreparedCase]:
            return reader.submit(PreparedCase, self._database, bench_of(claimed), claimed)

        coming = (begun(claimed) for claimed in cases)  # one is begun whenever the one before is taken
        prepared = next(coming, None)
        for claimed in cases:
            if prepared is None:
                return
            with self._timed("waiting for images"):
                prepared.exception()
            taken, prepared = prepared, next(coming, None)
            yield claimed, taken

    def _work(self, claimed: ClaimedCase, prepared: Future[PreparedCase], protocol: TriageProtocol) -> None:
        begun_before = claimed.attempts > 1
        if begun_before:
            self._write(protocol)
        try:
            with self._timed("analysis"):
                ready = prepared.result().decided(self._now)
        except RetryLater:
            raise
        except Exception as error:  # noqa: BLE001 - the case stays in the queue, and the next one gets its turn
            self._trouble(claimed, error)
            return
        self._oldest = self._oldest if self._unwritten else time.monotonic()
        self._unwritten.append(ready)
        if begun_before or time.monotonic() - self._oldest >= LONGEST_UNWRITTEN_S:
            self._write(protocol)

    def _write(self, protocol: TriageProtocol) -> None:
        """Write what is unwritten, together where that can be. Raises RetryLater."""
        ready, self._unwritten = self._unwritten, []
        if not ready:
            return
        with self._timed("writing"):
            together = write_decisions(self._database, protocol, ready, audit_key=self._audit_key)
            if together is None:
                for one in ready:
                    self._write_alone(protocol, one)
                return
        for one, decision in zip(ready, together, strict=True):
            self._decided(one.claimed, decision)

    def _write_alone(self, protocol: TriageProtocol, ready: ReadyRecord) -> None:
        try:
            decision = write_decision(self._database, protocol, ready, audit_key=self._audit_key)
        except RetryLater:
            raise
        except Exception as error:  # noqa: BLE001 - the case stays in the queue, and the next one gets its turn
            self._trouble(ready.claimed, error)
            return
        self._decided(ready.claimed, decision)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - started
