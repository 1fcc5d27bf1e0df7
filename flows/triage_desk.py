"""One triage run's desk: what it holds, what it decided and why, and which release spoke.

Why cases are given back and not failed: a case leaves the queue by a decision alone. What cannot be decided now goes
back with a delay, and what was begun too often is decided without the model (`pipeline.triage`).

Why chunks with a case begun before stay small: it may be what kills its workers, and every case claimed beside it counts
one more attempt when it does.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from flows.bootstrap import House
from flows.case_line import CaseLine
from flows.champion import Champion, ChampionDesk
from flows.leases import kept
from flows.map_drawing import MapDrawer
from flows.pulling import ask_before_sealing
from pipeline import intake, triage
from pipeline.domain.case import Reason
from pipeline.domain.evidence import Decision
from pipeline.errors import RetryLater
from pipeline.store import case_rows
from pipeline.store.case_rows import ClaimedCase
from pipeline.store.database import Transaction
from pipeline.triage import Bench

_log = logging.getLogger(__name__)
_BACK_OFF = timedelta(seconds=60)
CHUNK_SECONDS = 10.0
"""Chunks grow until one lasts about so long: what a chunk costs in Prefect is then about one part in a hundred."""
MOST_PER_CHUNK = 256


class TriageDesk:
    """The cases one worker holds, the champion of each protocol, and the counts of the run."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._owner = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lease = timedelta(seconds=house.settings.lease_seconds)
        self._champions = ChampionDesk(house)
        self._champion: dict[str, Champion] = {}
        self._held: dict[str, tuple[ClaimedCase, str]] = {}
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._cases: list[dict[str, Any]] = []
        self._waiting = 0
        self._chunk_size = house.settings.chunk_size
        self._seconds: dict[str, float] = defaultdict(float)
        self._started = time.perf_counter()
        self._maps = MapDrawer(house)
        self._line = CaseLine(
            house.database,
            audit_key=house.keys.audit,
            now=_now,
            decided=self._count,
            trouble=self._trouble,
            seconds=self._seconds,
        )

    @property
    def decided(self) -> int:
        """How many cases this run decided."""
        return len(self._cases)

    def seal(self, *, everything: bool) -> list[str]:
        """Seal the studies that are quiet, or every open one, and return the new cases."""
        quiet, started = timedelta(seconds=self._house.settings.quiet_seconds), time.perf_counter()
        protocols, now = list(self._house.protocols.values()), _now()
        try:
            ask_before_sealing(self._house, quiet_since=None if everything else now - quiet, now=now)
            return intake.seal_quiet_studies(self._house.database, protocols, quiet=quiet, now=_now(), force=everything)
        finally:
            self._seconds["sealing"] += time.perf_counter() - started

    def leases(self) -> AbstractContextManager[None]:
        """Keeps what is held while the block runs."""
        return kept(self._house.database, self._holding, owner=self._owner, lease=self._lease)

    def claim(self, protocol: str) -> list[str]:
        """Claim a chunk of ready cases, resolve the champion once for it and return the case ids."""
        started, now, least = time.perf_counter(), _now(), self._house.settings.chunk_size
        with self._house.database.transaction() as connection:
            claimed = self._claimed(connection, protocol, least, now)
            if self._chunk_size > least and not _begun_before(claimed):
                claimed += self._claimed(connection, protocol, self._chunk_size - least, now)
        self._seconds["claiming"] += time.perf_counter() - started
        with self._lock:
            self._held.update({case.case_id: (case, protocol) for case in claimed})
        if claimed:
            self._champion.pop(protocol, None)
        return [case.case_id for case in claimed]

    def _claimed(self, connection: Transaction, protocol: str, limit: int, now: datetime) -> list[ClaimedCase]:
        return case_rows.claim_cases(
            connection, protocol=protocol, owner=self._owner, limit=limit, lease=self._lease, now=now
        )

    def decide(self, case_ids: list[str]) -> None:
        """Decide the cases that are still held, which are of one protocol. Raises RetryLater."""
        held, started = [self._held[case_id] for case_id in case_ids if case_id in self._held], time.perf_counter()
        for name in dict.fromkeys(name for _, name in held):
            protocol = self._house.protocols[name]
            self._line.run([case for case, of in held if of == name], protocol, partial(self._bench, name))
        self._resize_chunk([case for case, _ in held], time.perf_counter() - started)

    def _resize_chunk(self, cases: Sequence[ClaimedCase], seconds: float) -> None:
        """The next chunk is at most twice this one and never smaller than the setting, which follows cases begun before."""
        least = self._house.settings.chunk_size
        fitting = 0 if _begun_before(cases) else int(CHUNK_SECONDS * len(cases) / max(seconds, 1e-3))
        self._chunk_size = max(least, min(fitting, 2 * self._chunk_size, MOST_PER_CHUNK))

    def give_up(self, case_ids: Sequence[str]) -> None:
        """Give what is still held of these back to the queue, to be tried again later."""
        for case_id in case_ids:
            if case_id in self._held:
                self._give_back(case_id)

    def work_off(self) -> None:
        """Seal what is quiet and decide everything that is ready, here and without Prefect."""
        self.seal(everything=False)
        with self.leases():
            for protocol in self._house.protocols:
                while case_ids := self.claim(protocol):
                    try:
                        self.decide(case_ids)
                    except RetryLater:
                        self.give_up(case_ids)
            while not self.ready() and self.draw_next_maps():
                pass

    def draw_next_maps(self) -> bool:
        """Draw the maps of one case that this run decided, where its protocol asks for them; False when none waits."""
        started = time.perf_counter()
        if not self._maps.draw_next(self._bench_now):
            return False
        self._seconds["drawing maps"] += time.perf_counter() - started
        return True

    def ready(self) -> int:
        """How many cases wait at this moment."""
        with self._house.database.read() as connection:
            return case_rows.count_ready(connection, now=_now())

    def somebody_holds_cases(self) -> bool:
        """Whether a case is held by a living lease, so that it may come back."""
        with self._house.database.read() as connection:
            return case_rows.count_held(connection) > 0

    def summary(self) -> dict[str, Any]:
        """What this run did: counts by route and reason, each case, what waits."""
        reasons = [{"route": r, "reason": why, "cases": n} for (r, why), n in sorted(self._counts.items())]
        routes = Counter(case["route"] for case in self._cases)
        problems = {champion.problem for champion in self._champion.values() if champion.problem}
        return {
            "decided": self.decided,
            "waiting": self._waiting,
            "open_studies": self._open_studies(),
            "routes": dict(sorted(routes.items())),
            "reasons": reasons,
            "release_problems": sorted(problems),
            "cases": self._cases,
            "seconds": self._stages(),
        }

    def _stages(self) -> dict[str, float]:
        """Where the run's time went; what no stage claims is Prefect's and everybody else's."""
        whole = time.perf_counter() - self._started
        rest = max(0.0, whole - sum(self._seconds.values()))
        return {stage: round(spent, 3) for stage, spent in (*self._seconds.items(), ("the rest", rest), ("all", whole))}

    def _bench(self, name: str, claimed: ClaimedCase) -> Bench:
        return self._bench_of(name, self._champion_of(name, claimed.attempts))

    def _bench_now(self, name: str) -> Bench:
        return self._bench_of(name, self._champion_of(name, 1))

    def _bench_of(self, name: str, champion: Champion) -> Bench:
        return Bench(
            blobs=self._house.blobs,
            sandbox=self._house.sandbox,
            predictor=champion.predictor,
            protocol=self._house.protocols[name],
            release_problem=champion.problem,
        )

    def _trouble(self, claimed: ClaimedCase, error: Exception) -> None:
        kind = type(error).__name__
        _log.error("a case could not be decided", exc_info=error, extra={"case_id": claimed.case_id, "error": kind})
        self._give_back(claimed.case_id)

    def _champion_of(self, protocol: str, attempts: int) -> Champion:
        started = time.perf_counter()
        if protocol not in self._champion:
            try:
                self._champion[protocol] = self._champions.resolve(self._house.protocols[protocol])
            except RetryLater:
                if attempts < triage.MOST_ATTEMPTS:
                    raise
                problem = f"{Reason.NOT_ANALYSED}: the registry was away at {attempts} attempts"
                self._champion[protocol] = Champion(predictor=None, problem=problem)
            finally:
                self._seconds["loading the release"] += time.perf_counter() - started
        return self._champion[protocol]

    def _count(self, claimed: ClaimedCase, decision: Decision) -> None:
        _, protocol = self._held[claimed.case_id]
        reasons = [str(reason) for reason in decision.reasons]
        row = {
            "case": claimed.case_id,
            "study": claimed.study_id,
            "protocol": protocol,
            "route": str(decision.route),
            "reasons": reasons,
        }
        with self._lock:
            del self._held[claimed.case_id]
            self._cases.append(row)
            self._counts.update((str(decision.route), reason) for reason in reasons)
        self._maps.wish(claimed.case_id, protocol)

    def _give_back(self, case_id: str) -> None:
        with self._lock:
            claimed, _ = self._held.pop(case_id)
        self._waiting += 1
        try:
            with self._house.database.transaction() as connection:
                now = _now()
                case_rows.release(
                    connection, case_id=case_id, owner=self._owner, fence=claimed.fence, not_before=now + _BACK_OFF
                )
        except RetryLater:
            _log.warning("a case stays held until its lease ends", extra={"case_id": case_id})

    def _holding(self) -> list[ClaimedCase]:
        with self._lock:
            return [case for case, _ in self._held.values()]

    def _open_studies(self) -> int:
        with self._house.database.read() as connection:
            return case_rows.count_open_studies(connection)


def _begun_before(cases: Sequence[ClaimedCase]) -> bool:
    return any(case.attempts > 1 for case in cases)


def _now() -> datetime:
    return datetime.now(UTC)
