"""Studies arriving in every order that a network makes of them, against the real store.

A machine of rules sends slices of a few studies: in any order and interleaved, twice, with other content under a known
UID, with another patient's name, after the study was sealed or decided, over connections that break before the
confirmation. The PACS answers for the counts, answers wrongly early, or not at all. After each step the law of
conservation holds; no study is ROUTINE on a fragment; nothing that was confirmed is ever missing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pipeline.domain.announced import AnnouncedSeries, Announcement
from pipeline.errors import RetryLater
from pipeline.intake import accept_stream, seal_quiet_studies
from pipeline.store import conservation, pacs_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database, open_database
from pipeline.store.tables import case, decision, instance, study
from pipeline.triage import triage_case
from tests.pretend_scanner import (
    KEY,
    MINUTE,
    NOON,
    PretendedRelease,
    PretendedSandbox,
    claim,
    slice_bytes,
    tiny_protocol,
)

PROTOCOL = tiny_protocol()
SLICES = {"1.1": 3, "1.2": 4, "1.3": 5}
"""How many slices each study truly has."""

studies = st.sampled_from(sorted(SLICES))
numbers = st.integers(1, 5)


class IntakeMachine(RuleBasedStateMachine):
    """What a hospital's network does to a handful of studies."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        shutil.copy(self.template, self.folder / "own.db")
        self.database: Database = open_database(f"sqlite:///{self.folder / 'own.db'}")
        self.blobs = BlobStore(self.folder / "blobs")
        self.now: datetime = NOON
        self.came: dict[str, set[int]] = defaultdict(set)
        self.spoilt: set[str] = set()
        self.decided: set[str] = set()
        self.confirmed = 0

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    def send(self, uid: str, number: int, **changes: Any) -> str | None:
        receipt = accept_stream(
            self.database,
            self.blobs,
            PretendedSandbox(),  # type: ignore[arg-type]
            BytesIO(slice_bytes(uid, number, patient_id=changes.pop("patient_id", uid), **changes)),
            source="receiver:ANY",
            pseudonym_key=KEY,
            now=self.now,
        )
        self.confirmed += 1
        return receipt.reason

    @rule(uid=studies, number=numbers)
    def a_slice_arrives(self, uid: str, number: int) -> None:
        number = 1 + (number - 1) % SLICES[uid]
        if self.send(uid, number) is None:
            self.came[uid].add(number)

    @rule(uid=studies, upto=numbers, backwards=st.booleans())
    def an_association_brings_several(self, uid: str, upto: int, backwards: bool) -> None:
        wanted = range(1, 1 + min(upto, SLICES[uid]))
        for number in reversed(wanted) if backwards else wanted:
            self.a_slice_arrives(uid, number)

    @rule(uid=studies, number=numbers)
    def other_content_comes_under_a_known_uid(self, uid: str, number: int) -> None:
        number = 1 + (number - 1) % SLICES[uid]
        known = number in self.came[uid]
        reason = self.send(uid, number, content="other")
        if known:
            self.spoilt.add(uid)
        elif reason is None:
            self.came[uid].add(number)
            self.spoilt.add(uid)  # the true slice will conflict with it, now or later

    @rule(uid=studies)
    def a_slice_of_somebody_else_carries_this_study(self, uid: str) -> None:
        if self.came[uid]:
            assert self.send(uid, 1, patient_id="SOMEBODY", sop_instance_uid=f"{uid}.8.8") == "identity_conflict"
            self.spoilt.add(uid)

    @rule(uid=studies, number=numbers)
    def the_connection_breaks_before_the_confirmation(self, uid: str, number: int) -> None:
        class Broken:
            def read(self, _: int) -> bytes:
                raise RetryLater("the connection is gone")

        with pytest.raises(RetryLater):
            accept_stream(
                self.database,
                self.blobs,
                PretendedSandbox(),  # type: ignore[arg-type]
                Broken(),
                source="receiver:ANY",
                pseudonym_key=KEY,
                now=self.now,
            )

    @rule(minutes=st.integers(0, 3))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    def seal(self, *, pacs_answers: bool) -> None:
        if pacs_answers:
            self.tell_counts()
        quiet = MINUTE
        seal_quiet_studies(self.database, [PROTOCOL], quiet=quiet, now=self.now, force=False)

    def tell_counts(self) -> None:
        with self.database.transaction() as connection:
            for row in connection.execute(sa.select(study)).all():
                uid = row.study_instance_uid
                series = AnnouncedSeries(uid=f"{uid}.9", modality="MR", instances=SLICES[uid])
                pacs_rows.note_answer(connection, row.id, Announcement(source="pacs", series=(series,)), self.now)

    @rule()
    def quiet_studies_are_sealed_and_decided(self) -> None:
        self.now += 2 * MINUTE
        self.seal(pacs_answers=True)
        self.decide()

    @rule()
    def late_worker_decides_what_was_sealed_before(self) -> None:
        self.now += 2 * MINUTE
        self.seal(pacs_answers=True)

    @precondition(lambda self: self.came)
    @rule()
    def the_pacs_is_away_when_a_study_is_sealed(self) -> None:
        """Then headers are the evidence: a fragment without its last slices cannot be told from a whole."""
        self.now += 2 * MINUTE
        self.seal(pacs_answers=False)
        for claimed in claim(self.database, PROTOCOL, now=self.now):
            decided = self.decide_one(claimed)
            numbers = self.came[self.uid_of(claimed.study_id)]
            if decided == "ROUTINE":
                assert numbers == set(range(1, len(numbers) + 1)), "a gap was not seen"

    def decide(self) -> None:
        for claimed in claim(self.database, PROTOCOL, now=self.now):
            uid = self.uid_of(claimed.study_id)
            late = uid in self.decided
            if self.decide_one(claimed) == "ROUTINE":
                assert len(self.came[uid]) == SLICES[uid], "a fragment was scored"
                assert uid not in self.spoilt, "a conflict was scored"
                assert not late, "late data was scored"

    def decide_one(self, claimed: Any) -> str:
        release = PretendedRelease(PROTOCOL, score=0.05)
        made = triage_case(
            self.database,
            self.blobs,
            PretendedSandbox(),  # type: ignore[arg-type]
            release,
            claimed,
            PROTOCOL,
            audit_key=KEY,
            now=lambda: self.now,
        )
        self.decided.add(self.uid_of(claimed.study_id))
        return str(made.route)

    def uid_of(self, study_id: str) -> str:
        with self.database.read() as connection:
            found: str = connection.execute(
                sa.select(study.c.study_instance_uid).where(study.c.id == study_id)
            ).scalar_one()
        return found

    @invariant()
    def everything_confirmed_is_accounted_for(self) -> None:
        with self.database.read() as connection:
            state = conservation.status(connection, self.now)
            rows = connection.execute(sa.select(sa.func.count()).select_from(instance)).scalar_one()
        assert rows == self.confirmed
        assert state["instances"]["unaccounted"] == 0
        assert state["worklist"]["missing"] == 0

    @invariant()
    def every_decision_that_stands_is_of_the_newest_revision(self) -> None:
        query = (
            sa.select(sa.func.count())
            .select_from(decision)
            .join(case, case.c.id == decision.c.case_id)
            .where(case.c.state == "DECIDED")
            .group_by(case.c.study_id)
        )
        with self.database.read() as connection:
            assert all(count == 1 for count in connection.execute(query).scalars())


def run_machine(template: Path, examples: int, steps: int, *, shrink: bool = True) -> None:
    machine = type("Machine", (IntakeMachine,), {"template": template})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=timedelta(minutes=5),
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            phases=tuple(Phase) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_order_of_arrival_loses_an_image_or_scores_a_fragment(migrated_sqlite: Path) -> None:
    run_machine(migrated_sqlite, 25, 25)


@pytest.mark.slow
def test_no_order_of_arrival_loses_an_image_or_scores_a_fragment_in_many_runs(migrated_sqlite: Path) -> None:
    run_machine(migrated_sqlite, 500, 50)


def test_the_machine_finds_counts_that_are_not_asked_for(migrated_sqlite: Path, monkeypatch) -> None:
    monkeypatch.setattr(pacs_rows, "answer", lambda *_, **__: None)
    with pytest.raises(AssertionError, match="a fragment was scored"):
        run_machine(migrated_sqlite, 150, 30, shrink=False)


def test_the_machine_finds_late_images_that_do_not_reopen_a_study(migrated_sqlite: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.intake._note_arrival", lambda *_: None)
    with pytest.raises(AssertionError):
        run_machine(migrated_sqlite, 150, 30, shrink=False)
