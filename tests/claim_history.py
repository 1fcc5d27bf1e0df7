"""What readers were told and what the audit trail says, held against the promise: one holder per case, none forgotten.

Three judges. The first sees only answers: a hold lasts from the moment that its answer names until its end, and a later hold
of the same case is lawful only after that, or after its reader began to let go. The second replays the trail, in the order in
which the database wrote it, through one register per case. The third counts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import func, select

from pipeline.store import audit_rows, worklist_rows
from pipeline.store.database import Database
from pipeline.store.tables import audit_event, read, worklist_item


@dataclass(kw_only=True)
class Hold:
    """One claim that a reader was told of; every moment is by the room's clock."""

    reader: str
    case_id: str
    fence: int
    asked: datetime
    told: datetime
    since: datetime  # the room's own moment: the end of the lease less its length
    until: datetime  # the latest end that the reader was told of
    let_go: datetime | None = None  # when the reader began to release or commit, whatever came of it
    read: bool = False  # a commit was answered with success


@dataclass(kw_only=True)
class History:
    """All that a crowd was told."""

    lease: timedelta
    holds: list[Hold] = field(default_factory=list)
    late_writes: list[str] = field(default_factory=list)  # accepted under a hold that had ended
    late_refused: int = 0
    cut: int = 0  # claims whose answer nobody heard
    busy: int = 0  # answers 503
    too_often: int = 0  # answers 429
    surprises: list[str] = field(default_factory=list)  # answers that nothing explains


def told_wrong(history: History) -> list[str]:
    """What no single register per case could have answered, one sentence each."""
    by_case: dict[str, list[Hold]] = defaultdict(list)
    for hold in history.holds:
        by_case[hold.case_id].append(hold)
    problems = [*history.late_writes, *history.surprises]
    for case_id, holds in by_case.items():
        ordered = sorted(holds, key=lambda hold: (hold.fence, hold.since))
        for earlier, later in pairwise(ordered):
            problems += [f"{case_id}: {problem}" for problem in _clash(earlier, later)]
    return problems


def _clash(earlier: Hold, later: Hold) -> Iterator[str]:
    if earlier.fence == later.fence:
        yield f"{earlier.reader} and {later.reader} got the same fence"
    if later.told < earlier.asked:
        yield "a later claim got a smaller fence"
    if earlier.read:
        yield f"{later.reader} got it after {earlier.reader} had read it"
    given_back = earlier.let_go is not None and earlier.let_go <= later.told
    if later.since < earlier.until and not given_back:
        yield f"{later.reader} got it while {earlier.reader} held it"


@dataclass
class Register:
    """Who holds one case while the trail is replayed."""

    fence: int = 0
    holder: str | None = None
    until: datetime | None = None
    is_read: bool = False

    def take(self, actor: str, fence: int, at: datetime, until: datetime) -> Iterator[str]:
        if self.is_read:
            yield "opened after it was read"
        if self.until is not None and at < self.until:
            yield f"opened by {actor} while {self.holder} held it"
        if fence != self.fence + 1:
            yield f"fence {fence} follows fence {self.fence}"
        self.fence, self.holder, self.until = fence, actor, until

    def let_go(self, actor: str, fence: int, at: datetime, *, is_read: bool) -> Iterator[str]:
        if (actor, fence) != (self.holder, self.fence) or self.until is None or at >= self.until:
            yield f"{actor} wrote under fence {fence}, which held nothing at that moment"
        self.holder, self.until, self.is_read = None, None, self.is_read or is_read


def written_wrong(database: Database, history: History) -> list[str]:
    """What the trail holds against the promise, where it is broken, and how it differs from the answers."""
    ends = {(hold.case_id, hold.fence): hold.until for hold in history.holds}
    registers: dict[str, Register] = defaultdict(Register)
    opened: set[tuple[str, int, str]] = set()
    with database.read() as connection:
        problems = audit_rows.verify_chain(connection)
        events = connection.execute(select(audit_event).order_by(audit_event.c.sequence)).mappings().all()
    for row in events:
        case_id, said = row["case_id"], json.loads(row["payload"])
        if row["event"] == "read.opened":
            opened.add((case_id, said["fence"], row["actor"]))
        problems += [f"{case_id}: {one}" for one in _replay(registers[case_id], dict(row), said, ends, history.lease)]
    told = {(hold.case_id, hold.fence, hold.reader) for hold in history.holds}
    problems += [f"{case_id}: the claim under fence {fence} left no trace" for case_id, fence, _ in told - opened]
    if len(opened - told) > history.cut:
        problems.append(f"{len(opened - told)} claims are in the trail that nobody was told of")
    return problems


def _replay(
    register: Register,
    row: dict[str, Any],
    said: dict[str, Any],
    ends: dict[tuple[str, int], datetime],
    lease: timedelta,
) -> Iterator[str]:
    actor, at, fence = row["actor"], row["at"], said.get("fence", 0)
    if row["event"] == "read.opened":
        until = max(at + lease, ends.get((row["case_id"], fence), at))
        yield from register.take(actor, fence, at, until)
    elif row["event"] in ("read.released", "read.committed"):
        yield from register.let_go(actor, fence, at, is_read=row["event"] == "read.committed")


def forgotten(database: Database, history: History, *, cases: int, now: datetime) -> list[str]:
    """Where the counts do not add up once every lease has ended: each case is read or free, and reads are as answered."""
    state = worklist_item.c.state
    with database.read() as connection:
        items, done = (
            connection.execute(select(func.count()).select_from(worklist_item).where(which)).scalar_one()
            for which in (state.is_not(None), state == "COMPLETED")
        )
        free = connection.execute(
            select(func.count()).select_from(worklist_item).where(worklist_rows.is_free(now))
        ).scalar_one()
        reads = set(connection.execute(select(read.c.case_id)).scalars())
    answered = {hold.case_id for hold in history.holds if hold.read}
    problems = []
    if (items, free + done) != (cases, cases):
        problems.append(f"of {cases} cases {items} have an item, {done} are done and {free} are free")
    if len(reads) != done or reads != answered:
        problems.append(f"{done} items are done, {len(reads)} reads are stored and {len(answered)} were answered")
    return problems
