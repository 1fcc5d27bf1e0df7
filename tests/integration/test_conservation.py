"""Conservation: each query is shown to find what it is for, and to find nothing in any history of the real steps."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pipeline.domain.case import Route
from pipeline.intake import accept_file, accept_folder, seal_quiet_studies
from pipeline.store import alias_rows, audit_rows, case_rows, conservation, safe_state_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.case_rows import ClaimedCase, LostClaim
from pipeline.store.database import Database, open_database
from pipeline.store.refusals import ConstraintRefused
from pipeline.store.tables import case, decision, instance, revision_instance, study, worklist_item
from pipeline.triage import triage_case
from tests.pretend_scanner import (
    KEY,
    MINUTE,
    NOON,
    PretendedRelease,
    PretendedSandbox,
    claim,
    refused_bytes,
    seal_all,
    slice_bytes,
    tiny_protocol,
    write_study,
)

PROTOCOL = tiny_protocol()
START = NOON + 11 * MINUTE


@pytest.fixture
def decided(database: Database, tmp_path: Path) -> Database:
    """One ROUTINE and one REVIEW case, a duplicate, a quarantined file, and an open study."""
    blobs, sandbox = BlobStore(tmp_path / "blobs"), PretendedSandbox()
    given: dict[str, Any] = {"source": "folder", "pseudonym_key": KEY}
    for number in (1, 2):
        write_study(tmp_path / "in", f"1.{number}", patient_id=f"P{number}")
    (tmp_path / "in" / "again.dcm").write_bytes(slice_bytes("1.1", 1, patient_id="P1"))
    (tmp_path / "in" / "odd").write_bytes(b"odd")
    list(accept_folder(database, blobs, sandbox, tmp_path / "in", now=lambda: NOON, **given))
    seal_all(database, PROTOCOL)
    for score, held in zip((0.05, 0.5), claim(database, PROTOCOL), strict=True):
        release = PretendedRelease(PROTOCOL, score)
        triage_case(database, blobs, sandbox, release, held, PROTOCOL, audit_key=KEY, now=lambda: START)
    late = tmp_path / "late"
    late.write_bytes(slice_bytes("1.3"))
    accept_file(database, blobs, sandbox, late, now=NOON, **given)
    return database


def status(database: Database) -> dict[str, Any]:
    with database.read() as connection:
        return conservation.status(connection, START + MINUTE)


def test_the_status_is_what_the_house_promises(decided: Database) -> None:
    assert status(decided) == {
        "instances": {"accepted": 7, "quarantined": 1, "duplicate": 1, "unaccounted": 0},
        "studies": {"open": 1, "sealed": 2, "unrouted": 0},
        "cases": {"PRIORITY": 0, "ROUTINE": 1, "REVIEW": 1, "OUT_OF_SCOPE": 0},
        "worklist": {"open": 1, "missing": 0},
        "door": {
            "deliveries": {"waiting": 0, "proven": 0, "parked": 0, "overtaken": 0},
            "pulls": {"wanted": 0, "fetched": 0, "parked": 0},
            "reconciled": None,
        },
        "oldest_wait_s": 60.0,
        "safe_state": False,
        "release": {},
    }


def test_an_empty_house_is_in_order(database: Database) -> None:
    found = status(database)
    assert found["instances"] == {"accepted": 0, "quarantined": 0, "duplicate": 0, "unaccounted": 0}
    assert (found["studies"]["unrouted"], found["oldest_wait_s"]) == (0, 0.0)
    assert found["cases"] == {route.value: 0 for route in Route}


def test_the_status_names_champion_and_safe_state(database: Database) -> None:
    with database.transaction() as connection:
        safe_state_rows.set_safe_state(connection, on=True, actor="a", reason="r", at=NOON)
        alias_rows.record_alias(
            connection, model="m", alias="champion", version="3", release_digest="d", actor="a", reason="r", at=NOON
        )
    found = status(database)
    assert (found["safe_state"], found["release"]) == (True, {"m": {"version": "3", "digest": "d"}})


def unlink_an_instance(connection: sa.Connection) -> None:
    (one, *_) = connection.execute(sa.select(revision_instance.c.instance_id)).scalars()
    connection.execute(sa.delete(revision_instance).where(revision_instance.c.instance_id == one))


def lose_an_original(connection: sa.Connection) -> None:
    twin = sa.select(instance.c.sha256).where(instance.c.verdict == "duplicate").scalar_subquery()
    original = sa.and_(instance.c.sha256 == twin, instance.c.verdict == "accepted")
    connection.execute(sa.update(instance).where(original).values(verdict="quarantined", reason="x", is_image=False))


def close_without_sealing(connection: sa.Connection) -> None:
    connection.execute(sa.update(study).where(study.c.state == "OPEN").values(state="SEALED"))


def undo_a_state(connection: sa.Connection) -> None:
    connection.execute(sa.update(case).values(state="READY"))


def forget_a_decision(connection: sa.Connection) -> None:
    held = {"state": "DECIDED", "revision_id": sa.select(case.c.revision_id).limit(1).scalar_subquery()}
    (row, *_) = connection.execute(sa.select(case)).mappings()
    connection.execute(sa.update(case).values(state="SUPERSEDED"))
    connection.execute(sa.insert(case).values(**{**row, "id": "new", "protocol": "another", **held}))


def lose_an_item(connection: sa.Connection) -> None:
    connection.execute(sa.delete(worklist_item))


@pytest.mark.parametrize(
    ("damage", "part", "key"),
    [
        (unlink_an_instance, "instances", "unaccounted"),
        (lose_an_original, "instances", "unaccounted"),
        (close_without_sealing, "instances", "unaccounted"),
        (close_without_sealing, "studies", "unrouted"),
        (undo_a_state, "studies", "unrouted"),
        (forget_a_decision, "studies", "unrouted"),
        (lose_an_item, "worklist", "missing"),
    ],
)
def test_each_loss_is_found(decided: Database, damage: Any, part: str, key: str) -> None:
    with decided.transaction() as connection:
        damage(connection)
    assert status(decided)[part][key] > 0


def test_lost_bytes_are_found(decided: Database, tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    with decided.read() as connection:
        assert conservation.lost_bytes(connection, blobs) == []
        (first, second, *_) = connection.execute(sa.select(instance.c.sha256).distinct()).scalars()
        blobs.path(first).unlink()
        blobs.path(second).write_bytes(b"rot")
        assert set(conservation.lost_bytes(connection, blobs)) == {first, second}


class Hospital(RuleBasedStateMachine):
    """Deliver, repeat, contradict, delay, seal, claim, stall and decide in any order; the promises hold after each."""

    template: Path

    @initialize()
    def open_house(self) -> None:
        memory = Path("/dev/shm")  # these histories ask about order and not about power: no disk need wait for them
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        shutil.copy(self.template, self.folder / "own.db")
        self.database = open_database(f"sqlite:///{self.folder / 'own.db'}")
        self.blobs = BlobStore(self.folder / "blobs")
        self.now = NOON
        self.held: list[ClaimedCase] = []
        self.receipts = 0
        self.decisions = 0

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
            shutil.rmtree(self.folder)

    def take(self, data: bytes) -> None:
        path = self.folder / "received"
        path.write_bytes(data)
        sandbox: Any = PretendedSandbox()
        accept_file(self.database, self.blobs, sandbox, path, source="f", pseudonym_key=KEY, now=self.now)
        self.receipts += 1

    @rule(study=st.sampled_from(["1.1", "1.2"]), number=st.integers(1, 4), content=st.sampled_from(["", "", "x"]))
    def deliver(self, study: str, number: int, content: str) -> None:
        self.take(slice_bytes(study, number, content, patient_id=study))

    @rule(study=st.sampled_from(["1.1", "1.2"]))
    def deliver_another_patient(self, study: str) -> None:
        self.take(slice_bytes(study, 5, patient_id="somebody else"))

    @rule(study=st.sampled_from(["1.1", "1.3"]), is_image=st.booleans())
    def deliver_refused(self, study: str, is_image: bool) -> None:
        self.take(refused_bytes("refused", is_image=is_image, study=study, patient_id=study))

    @rule(minutes=st.integers(-2, 3))
    def wait(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule(force=st.booleans())
    def seal(self, force: bool) -> None:
        seal_quiet_studies(self.database, [PROTOCOL], quiet=2 * MINUTE, now=self.now, force=force)

    @rule(owner=st.sampled_from(["a", "b"]))
    def claim(self, owner: str) -> None:
        self.held += claim(self.database, PROTOCOL, owner=owner, now=self.now, lease=2 * MINUTE, limit=1)

    @rule(data=st.data(), score=st.sampled_from([0.05, 0.5, 0.95]))
    def decide(self, data: st.DataObject, score: float) -> None:
        """Any hold that was ever had, alive or long lost."""
        if self.held:
            held = data.draw(st.sampled_from(self.held))
            self._decide(held, PretendedRelease(PROTOCOL, score))

    def _decide(self, held: ClaimedCase, release: Any) -> None:
        sandbox: Any = PretendedSandbox()
        try:
            triage_case(
                self.database, self.blobs, sandbox, release, held, PROTOCOL, audit_key=KEY, now=lambda: self.now
            )
            self.decisions += 1
        except LostClaim:
            return

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if not hasattr(self, "database"):
            return
        with self.database.read() as connection:
            found = conservation.status(connection, self.now)
            lines = found["instances"]
            assert lines["unaccounted"] == 0
            assert lines["accepted"] + lines["duplicate"] + lines["quarantined"] == self.receipts
            assert found["worklist"]["missing"] == 0
            assert audit_rows.verify_chain(connection) == []
            assert connection.execute(sa.select(sa.func.count()).select_from(decision)).scalar() == self.decisions

    @invariant()
    def nothing_routine_is_doubtful(self) -> None:
        """A ROUTINE case stands on images of one patient without conflict, gap, or late arrival."""
        if not hasattr(self, "database"):
            return
        doubtful = sa.or_(study.c.identity_conflict, study.c.content_conflict)
        query = (
            sa.select(sa.func.count())
            .select_from(decision)
            .join(case, case.c.id == decision.c.case_id)
            .join(study, study.c.id == case.c.study_id)
            .where(decision.c.route == "ROUTINE", case.c.state == "DECIDED", study.c.state == "SEALED", doubtful)
        )
        with self.database.read() as connection:
            assert connection.execute(query).scalar() == 0

    @rule()
    def work_everything_off(self) -> None:
        """Whatever happened, in the end every study is sealed and routed."""
        self.now += 10 * MINUTE
        seal_quiet_studies(self.database, [PROTOCOL], quiet=MINUTE, now=self.now, force=True)
        for held in claim(self.database, PROTOCOL, owner="c", now=self.now):
            self._decide(held, PretendedRelease(PROTOCOL))
        with self.database.read() as connection:
            found = conservation.status(connection, self.now)
            assert conservation.lost_bytes(connection, self.blobs) == []
        assert found["studies"]["unrouted"] == found["studies"]["open"] == 0


def run_hospital(template: Path, examples: int, steps: int) -> None:
    class House(Hospital):
        pass

    House.template = template
    given = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(House, settings=given)


def test_no_history_loses_anything(migrated_sqlite: Path) -> None:
    run_hospital(migrated_sqlite, examples=25, steps=25)


@pytest.mark.slow
def test_no_long_history_loses_anything(migrated_sqlite: Path) -> None:
    run_hospital(migrated_sqlite, examples=300, steps=50)


def test_the_histories_find_a_late_image_that_does_not_reopen(migrated_sqlite: Path, monkeypatch) -> None:
    """The search has teeth: without the reopening an image belongs to nothing."""
    monkeypatch.setattr("pipeline.store.study_rows.note_arrival", lambda *_: None)
    with pytest.raises(AssertionError):
        run_hospital(migrated_sqlite, examples=50, steps=20)


def test_the_histories_find_a_missing_fence(migrated_sqlite: Path, monkeypatch) -> None:
    def careless(connection: sa.Connection, *, case_id: str, **_: object) -> None:
        connection.execute(sa.update(case).where(case.c.id == case_id).values(state="DECIDED"))

    monkeypatch.setattr(case_rows, "finish", careless)
    with pytest.raises(ConstraintRefused):  # the database keeps the second decision out
        run_hospital(migrated_sqlite, examples=50, steps=20)
