"""`make bench-queue`: a hundred readers over HTTP at a million open cases, on SQLite and PostgreSQL.

    python -m tests.benchmarks.queue [--cases 1000000] [--claims 5000] [--readers 100] [--only sqlite] [--out build/bench]

The readers work in a closed loop without a pause: they claim, commit, give back, lengthen, crash, come back too late and cut
connections; a wait is from asking for a case to having one, busy answers included. Beside it stands the same claim by one
caller inside one process, on this store and on one of a thousand cases: what HTTP and the crowd cost, and what size costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from pipeline import claiming
from pipeline.domain.interleaved import Row, as_text
from pipeline.store import account_rows
from pipeline.store.database import Database, open_database, upgrade
from pipeline.web.app import LEASE
from tests import conftest
from tests.claim_history import forgotten, told_wrong, written_wrong
from tests.crowd_of_readers import Crowd, seat_readers, send_crowd
from tests.million_cases import fill
from tests.reading_room_cases import NOW
from tests.served_room import SharedClock, served_room

ALONE = 200  #: claims by one caller
FEW = 1_000  #: cases of the small store
AIMS = {"sqlite": 80.0, "postgresql": 150.0}  #: claims a second


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run of the crowd."""

    store: str
    processes: int
    cases: int
    readers: int
    claims: int
    claims_per_s: float
    server_cpu_ms: float  # of the room's processes for each claim and all that is done with it
    p50_ms: float
    p95_ms: float
    p99_ms: float
    busy: int  # answers 503
    too_often: int  # answers 429
    late_refused: int
    cut: int
    problems: list[str]


@contextmanager
def stores(kind: str, folder: Path) -> Iterator[Iterator[str]]:
    """URLs of migrated, empty stores of one kind, as durable as a site's."""
    if kind == "sqlite":
        yield (_sqlite(folder / f"store-{number}.db") for number in range(9))
        return
    with contextmanager(conftest.postgres_url.__wrapped__)() as server:
        with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = on")
            connection.execute("SELECT pg_reload_conf()")
        yield (_postgres(server, f"store_{number}") for number in range(9))


def _sqlite(path: Path) -> str:
    upgrade(f"sqlite:///{path}")
    return f"sqlite:///{path}"


def _postgres(server: str, name: str) -> str:
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    upgrade(url)
    return url


def filled(url: str, cases: int) -> str:
    """The store at `url` with that many open items, as a site's own upkeep leaves it."""
    fill(url, cases)
    if url.startswith("postgresql"):
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")  # autovacuum's work
    return url


def crowd_figures(url: str, folder: Path, *, readers: int, claims: int, cases: int, processes: int) -> Figures:
    """Let the crowd work and judge what it was told and what was written."""
    database = open_database(url)
    clock = SharedClock(folder / "clock", start=True)
    seats = seat_readers(database, readers, clock())
    with served_room(url, folder / "clock", processes=processes) as room:
        before = room.cpu_seconds()
        crowd = send_crowd(room.addresses, seats, clock, claims=claims)
        worked = room.cpu_seconds() - before
    clock.jump(2 * LEASE)
    history = crowd.history
    problems = [*told_wrong(history), *written_wrong(database, history)]
    problems += forgotten(database, history, cases=cases, now=clock())
    kind = database.url_kind
    database.close()
    return _figures(crowd, kind, processes=processes, cases=cases, readers=readers, worked=worked, problems=problems)


def _figures(
    crowd: Crowd, kind: str, *, processes: int, cases: int, readers: int, worked: float, problems: list[str]
) -> Figures:
    hundredths = statistics.quantiles(crowd.waits, n=100, method="inclusive")
    return Figures(
        store=kind,
        processes=processes,
        cases=cases,
        readers=readers,
        claims=len(crowd.waits),
        claims_per_s=len(crowd.waits) / crowd.seconds,
        server_cpu_ms=1000 * worked / len(crowd.waits),
        p50_ms=1000 * hundredths[49],
        p95_ms=1000 * hundredths[94],
        p99_ms=1000 * hundredths[98],
        busy=crowd.history.busy,
        too_often=crowd.history.too_often,
        late_refused=crowd.history.late_refused,
        cut=crowd.history.cut,
        problems=problems,
    )


def alone_seconds(database: Database, name: str) -> list[float]:
    """Times of claims of the next case by one caller in this process."""
    with database.read() as connection:
        found = account_rows.find_for_sign_in(connection, name)
    assert found is not None
    taken = []
    for _ in range(ALONE):
        started = time.perf_counter()
        claiming.claim_next(database, found.account, lease=LEASE, now=NOW)
        taken.append(time.perf_counter() - started)
    return taken


def alone_rows(kind: str, small: str, large: str, cases: int) -> list[Row]:
    """One caller's claim at many cases, against one at few."""
    databases = [open_database(small), open_database(large)]
    for database in databases:
        seat_readers(database, 1, NOW)
    rows = []
    few, many = (alone_seconds(database, "reader-0") for database in databases)
    ratio = statistics.median(many) / statistics.median(few)
    quarters = statistics.quantiles([one / other for one, other in zip(many, few, strict=True)], n=4)
    name = f"{kind}: one caller's claim at {cases} open cases (median {1000 * statistics.median(many):.1f} ms)"
    rows.append(Row(name=name, baseline=f"at {FEW}", ratio=ratio, low=quarters[0], high=quarters[2]))
    for database in databases:
        database.close()
    return rows


def as_line(figures: Figures) -> str:
    """The figures of one crowd as a line."""
    aim = f"aim {AIMS[figures.store]:.0f}"
    return (
        f"{figures.store}, {figures.processes} process(es): {figures.claims} claims by {figures.readers} readers of "
        f"{figures.cases} cases: {figures.claims_per_s:.0f} claims/s ({aim}), p50 {figures.p50_ms:.0f} ms, "
        f"p95 {figures.p95_ms:.0f} ms, p99 {figures.p99_ms:.0f} ms; {figures.server_cpu_ms:.1f} ms of the room's CPU each; busy {figures.busy}, too often {figures.too_often}, "
        f"late writes refused {figures.late_refused}, answers never heard {figures.cut}, "
        f"PROBLEMS {len(figures.problems)}\n"
    )


def main() -> None:
    """Print and write the figures; the exit code is 1 when any promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--claims", type=int, default=5_000)
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    found: list[Figures] = []
    for kind in [asked.only] if asked.only else ["sqlite", "postgresql"]:
        found += measure(kind, readers=asked.readers, claims=asked.claims, cases=asked.cases)
    (asked.out / "queue.json").write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", "utf-8")
    sys.exit(1 if any(one.problems for one in found) else 0)


def measure(kind: str, *, readers: int, claims: int, cases: int) -> list[Figures]:
    """One kind of store: alone first, then the crowd at one process and at two, each at a store of its own."""
    found = []
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        urls = opened.enter_context(stores(kind, folder))
        rows = alone_rows(kind, filled(next(urls), FEW), filled(next(urls), cases), cases)
        sys.stdout.write(as_text(rows))
        for processes in (1, 2):
            url = filled(next(urls), cases)
            figures = crowd_figures(url, folder, readers=readers, claims=claims, cases=cases, processes=processes)
            sys.stdout.write(as_line(figures) + "".join(f"    {problem}\n" for problem in figures.problems[:20]))
            sys.stdout.flush()
            found.append(figures)
    return found


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
