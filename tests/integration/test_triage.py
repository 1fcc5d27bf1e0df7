from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline import triage
from pipeline.domain.case import Reason, Route
from pipeline.domain.evidence import Decision
from pipeline.errors import DeferCase, HaltPipeline, RetryLater
from pipeline.intake import accept_file
from pipeline.store import audit_rows, case_rows, conservation, decision_rows, safe_state_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.case_rows import LostClaim
from pipeline.store.database import Database
from pipeline.store.tables import audit_event, case, decision, outbox, routine_proof, worklist_item
from pipeline.triage import replay, triage_case
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
)

PROTOCOL = tiny_protocol()
LATER = NOON + 11 * MINUTE


class Room:
    """A database, blobs and a pretended scanner, with a study taken in and sealed in one call."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.blobs = BlobStore(folder / "blobs")
        self.sandbox: Any = PretendedSandbox()
        self._folder = folder
        self._count = 0

    def take(self, *instances: bytes) -> None:
        for data in instances:
            self._count += 1
            path = self._folder / f"received-{self._count}"
            path.write_bytes(data)
            accept_file(self.database, self.blobs, self.sandbox, path, source="folder", pseudonym_key=KEY, now=NOON)

    def decide(self, release: Any = None, *, protocol: Any = PROTOCOL, **options: Any) -> Decision:
        """Seal what is open, claim the one case and decide it."""
        seal_all(self.database, protocol)
        (claimed,) = claim(self.database, protocol)
        return self.decide_claimed(claimed, release, protocol=protocol, **options)

    def decide_claimed(
        self, claimed: Any, release: Any = None, *, protocol: Any = PROTOCOL, **options: Any
    ) -> Decision:
        given = {"audit_key": KEY, "now": lambda: LATER, **options}
        return triage_case(self.database, self.blobs, self.sandbox, release, claimed, protocol, **given)

    def rows(self, table: sa.Table) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(table)))

    def holds(self) -> bool:
        """Whether conservation and the audit trail hold."""
        with self.database.read() as connection:
            state = conservation.status(connection, NOON)
            broken = state["instances"]["unaccounted"] + state["studies"]["unrouted"] + state["worklist"]["missing"]
            return broken == 0 and audit_rows.verify_chain(connection) == []


@pytest.fixture
def room(database: Database, tmp_path: Path) -> Room:
    return Room(database, tmp_path)


def whole_study() -> list[bytes]:
    return [slice_bytes(number=number) for number in (1, 2, 3)]


def test_a_confident_absence_is_routine_with_its_proof_and_no_item(room: Room) -> None:
    room.take(*whole_study())
    found = room.decide(PretendedRelease(PROTOCOL, 0.05))
    assert (found.route, found.reasons) == (Route.ROUTINE, (Reason.CONFIDENT_ABSENCE,))
    (proof,), (stored,), (sent,) = room.rows(routine_proof), room.rows(decision), room.rows(outbox)
    assert proof.case_id == stored.proof_case_id == stored.case_id
    assert (stored.route_score, stored.release_digest, stored.audit) == (0.05, "a" * 64, False)
    assert sent.payload == {"decision": stored.id, "case": stored.case_id, "route": "ROUTINE"}
    assert room.rows(worklist_item) == []
    assert room.holds()


def test_a_confident_finding_goes_to_the_front(room: Room) -> None:
    room.take(*whole_study())
    assert room.decide(PretendedRelease(PROTOCOL, 0.95)).route == Route.PRIORITY
    (item,) = room.rows(worklist_item)
    assert (item.priority, item.due_at) == (2, LATER + timedelta(minutes=60))
    assert room.rows(routine_proof) == []


def test_an_uncertain_case_is_read(room: Room) -> None:
    room.take(*whole_study())
    assert room.decide(PretendedRelease(PROTOCOL, 0.5)).route == Route.REVIEW
    (item,) = room.rows(worklist_item)
    assert (item.priority, item.reasons, item.specialty) == (1, ["UNCERTAIN"], "neuroradiology")
    assert item.due_at == LATER + timedelta(minutes=240)
    assert room.holds()


def test_an_audited_case_looks_to_its_reader_like_any_other(room: Room) -> None:
    protocol = tiny_protocol(audit_share=1.0)
    room.take(*whole_study(), *(slice_bytes("1.2", number) for number in (1, 2)))
    seal_all(room.database, protocol)
    first, second = claim(room.database, protocol)
    assert room.decide_claimed(first, PretendedRelease(protocol, 0.05), protocol=protocol).route == Route.ROUTINE
    assert room.decide_claimed(second, PretendedRelease(protocol, 0.5), protocol=protocol).route == Route.REVIEW
    audited, uncertain = room.rows(worklist_item)
    for name in ("state", "specialty", "priority", "reasons", "created_at", "due_at", "fence"):
        assert getattr(audited, name) == getattr(uncertain, name)
    assert sorted(row.audit for row in room.rows(decision)) == [False, True]


def test_another_modality_is_out_of_scope_without_any_release(room: Room) -> None:
    room.take(*(slice_bytes(number=n, modality="CT", sop_class_uid="1.2.840.10008.5.1.4.1.1.2") for n in (1, 2)))
    found = room.decide(None)
    assert (found.route, found.reasons) == (Route.OUT_OF_SCOPE, (Reason.WRONG_MODALITY,))
    assert room.rows(worklist_item) == []
    assert room.holds()


def test_a_study_of_reports_is_out_of_scope(room: Room) -> None:
    room.take(refused_bytes("not_an_image", is_image=False))
    found = room.decide(PretendedRelease(PROTOCOL))
    assert (found.route, found.reasons) == (Route.OUT_OF_SCOPE, (Reason.NOT_AN_IMAGE,))
    assert room.holds()


def test_a_study_of_unreadable_images_is_read(room: Room) -> None:
    room.take(refused_bytes("truncated"))
    found = room.decide(PretendedRelease(PROTOCOL))
    assert found.route == Route.REVIEW
    assert Reason.UNREADABLE in found.reasons
    assert room.holds()


def test_a_missing_slice_is_read(room: Room) -> None:
    room.take(*(slice_bytes(number=number) for number in (1, 2, 4, 5)))
    found = room.decide(PretendedRelease(PROTOCOL))
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.INCOMPLETE,))


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (None, Reason.NOT_ANALYSED),
        ("the registry says nothing", Reason.NOT_ANALYSED),
        ("RELEASE_INVALID: the bytes are others", Reason.RELEASE_INVALID),
    ],
)
def test_without_a_release_everything_in_scope_is_read(room: Room, problem: str | None, reason: Reason) -> None:
    room.take(*whole_study())
    found = room.decide(None, release_problem=problem)
    assert (found.route, found.reasons) == (Route.REVIEW, (reason,))


def test_a_release_for_another_protocol_may_not_speak(room: Room) -> None:
    room.take(*whole_study())
    release = PretendedRelease(tiny_protocol(novelty_level=0.03))
    found = room.decide(release)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.RELEASE_INVALID,))
    assert release.asked == []


def test_two_series_that_fit_leave_the_choice_to_a_person(room: Room) -> None:
    room.take(*whole_study())
    room.take(*(slice_bytes(number=n, series_instance_uid="1.1.8", sop_instance_uid=f"1.1.8.{n}") for n in (1, 2, 3)))
    assert Reason.AMBIGUOUS_SERIES in room.decide(PretendedRelease(PROTOCOL)).reasons


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DeferCase("UNCERTAINTY_INVALID", "a member is missing"), Reason.UNCERTAINTY_INVALID),
        (DeferCase("NO_SUCH_WORD", "?"), Reason.NOT_ANALYSED),
        (ValueError("JANE DOE"), Reason.NOT_ANALYSED),
        (MemoryError(), Reason.NOT_ANALYSED),
        (StopIteration(), Reason.NOT_ANALYSED),
    ],
)
def test_an_analysis_that_fails_in_any_way_is_a_read(room: Room, error: Exception, reason: Reason) -> None:
    room.take(*whole_study())
    release = PretendedRelease(PROTOCOL)
    release.analyse = _raising(error)
    found = room.decide(release)
    assert (found.route, found.reasons) == (Route.REVIEW, (reason,))
    assert "JANE" not in json.dumps([row.evidence for row in room.rows(decision)])
    assert room.holds()


def _raising(error: Exception) -> Callable[..., Any]:
    def analyse(*_: object) -> Any:
        raise error

    return analyse


class EmptyError(Exception):
    """An error that counts as false."""

    def __bool__(self) -> bool:
        return False


def test_a_failure_before_the_analysis_is_told_and_replayed_whatever_its_error_is(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PretendedSandbox, "read_series", _raising(EmptyError()))
    room.take(*whole_study())
    release = PretendedRelease(PROTOCOL, 0.05)
    found = room.decide(release)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.NOT_ANALYSED,))
    (stored,) = room.rows(decision)
    assert stored.evidence["problems"] == [["NOT_ANALYSED", "the analysis failed (EmptyError)"]]
    assert replay(room.database, room.blobs, room.sandbox, release, stored.case_id).identical


def test_an_answer_that_is_not_a_number_is_kept_and_read(room: Room) -> None:
    room.take(*whole_study())
    assert room.decide(PretendedRelease(PROTOCOL, float("nan"))).route == Route.REVIEW
    (stored,) = room.rows(decision)
    assert stored.route_score is None
    assert stored.evidence["analysis"]["uncertainty"]["route_score"] == "nan"


def test_findings_about_quality_are_evidence(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:

    read = PretendedSandbox.read_series
    monkeypatch.setattr(
        PretendedSandbox, "read_series", lambda *given: replace(read(*given), quality=("LOW_QUALITY", "odd"))
    )
    room.take(*whole_study())
    found = room.decide(PretendedRelease(PROTOCOL))
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.LOW_QUALITY,))


def test_fewer_decoded_slices_than_listed_are_a_read(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    read = PretendedSandbox.read_series
    monkeypatch.setattr(
        PretendedSandbox, "read_series", lambda self, paths, digests: read(self, paths[:-1], digests[:-1])
    )
    room.take(*whole_study())
    assert Reason.INCOMPLETE in room.decide(PretendedRelease(PROTOCOL)).reasons


def test_stored_bytes_that_rot_are_a_read(room: Room) -> None:
    room.take(*whole_study())
    for path in (p for p in room.blobs.path("0" * 64).parents[1].rglob("*") if len(p.name) == 64):
        path.chmod(0o600)
        path.write_bytes(b"rot")
    found = room.decide(PretendedRelease(PROTOCOL))
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.UNREADABLE,))


def test_in_the_safe_state_everything_is_read(room: Room) -> None:
    with room.database.transaction() as connection:
        safe_state_rows.set_safe_state(connection, on=True, actor="a", reason="drift", at=NOON)
    room.take(*whole_study())
    found = room.decide(PretendedRelease(PROTOCOL, 0.05))
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.STOPPED,))


def test_late_data_after_a_decision_is_a_read_for_ever(room: Room) -> None:
    release = PretendedRelease(PROTOCOL, 0.05)
    room.take(*whole_study())
    assert room.decide(release).route == Route.ROUTINE
    for number in (4, 5):
        room.take(slice_bytes(number=number))
        found = room.decide(release)
        assert (found.route, found.reasons) == (Route.REVIEW, (Reason.LATE_DATA,))
    states = sorted((row.state, row.priority) for row in room.rows(worklist_item))
    assert states == [("CANCELED", 1), ("SCHEDULED", 1)]
    assert sorted(row.state for row in room.rows(case)) == ["DECIDED", "SUPERSEDED", "SUPERSEDED"]
    assert room.holds()


def test_late_data_before_any_decision_is_analysed_afresh(room: Room) -> None:
    room.take(*whole_study())
    seal_all(room.database, PROTOCOL)
    room.take(slice_bytes(number=4))
    assert room.decide(PretendedRelease(PROTOCOL, 0.05)).route == Route.ROUTINE


def test_a_case_of_a_study_that_grows_again_is_not_claimed(room: Room) -> None:
    room.take(*whole_study())
    seal_all(room.database, PROTOCOL)
    room.take(slice_bytes(number=4))
    assert claim(room.database, PROTOCOL) == []


def test_what_is_away_leaves_the_case_undecided_but_not_for_ever(room: Room) -> None:
    room.take(*whole_study())
    seal_all(room.database, PROTOCOL)
    release = PretendedRelease(PROTOCOL)
    release.analyse = _raising(RetryLater("the disk is away"))
    for attempt in (1, 2):
        (claimed,) = claim(room.database, PROTOCOL)
        assert claimed.attempts == attempt
        with pytest.raises(RetryLater):
            room.decide_claimed(claimed, release)
        assert room.rows(decision) == []
        with room.database.transaction() as connection:
            assert case_rows.release(
                connection, case_id=claimed.case_id, owner="worker", fence=claimed.fence, not_before=LATER
            )
    (claimed,) = claim(room.database, PROTOCOL)
    found = room.decide_claimed(claimed, release)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.NOT_ANALYSED,))


def test_a_case_that_kills_its_workers_is_decided_without_the_model(room: Room) -> None:
    room.take(*whole_study())
    seal_all(room.database, PROTOCOL)
    release = PretendedRelease(PROTOCOL)
    for minute in range(4):
        (claimed,) = claim(room.database, PROTOCOL, now=LATER + 2 * minute * MINUTE)
    found = room.decide_claimed(claimed, release, now=lambda: LATER + 6 * MINUTE)
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.NOT_ANALYSED,))
    assert release.asked == []


def test_a_proof_that_lacks_a_guard_is_refused_by_the_database_and_read(room: Room, monkeypatch) -> None:
    room.take(*whole_study())
    decide = triage.decide

    def careless(*given: Any) -> Decision:
        honest = decide(*given)
        guards = tuple((name, name != "complete") for name, _ in honest.guards)
        return Decision(route=Route.ROUTINE, reasons=(Reason.CONFIDENT_ABSENCE,), guards=guards)

    monkeypatch.setattr(triage, "decide", careless)
    found = room.decide(PretendedRelease(PROTOCOL, 0.05))
    assert (found.route, found.reasons) == (Route.REVIEW, (Reason.NOT_ANALYSED,))
    assert [row.route for row in room.rows(decision)] == ["REVIEW"]
    assert len(room.rows(worklist_item)) == 1
    assert room.holds()


@pytest.mark.parametrize("missing", ["release_digest", "samples_digest", "route_score", "policy"])
def test_a_routine_decision_without_its_grounds_is_refused_by_the_database(
    room: Room, monkeypatch, missing: str
) -> None:
    room.take(*whole_study())

    monkeypatch.setattr(decision_rows, "insert", lambda table: _without(table, missing))
    assert room.decide(PretendedRelease(PROTOCOL, 0.05)).route == Route.REVIEW


def _without(table: sa.Table, missing: str) -> Any:
    statement = sa.insert(table)
    if table is not decision:
        return statement

    class Forgetful:
        def values(self, **row: Any) -> Any:
            return statement.values(**{**row, missing: None})

    return Forgetful()


def test_a_worker_whose_lease_has_ended_writes_nothing(room: Room) -> None:
    room.take(*whole_study())
    seal_all(room.database, PROTOCOL)
    (claimed,) = claim(room.database, PROTOCOL, lease=MINUTE)
    before = len(room.rows(audit_event))
    with pytest.raises(LostClaim):
        room.decide_claimed(claimed, PretendedRelease(PROTOCOL), now=lambda: LATER + 2 * MINUTE)
    for table in (decision, outbox, worklist_item, routine_proof):
        assert room.rows(table) == []
    assert len(room.rows(audit_event)) == before


def test_no_case_is_decided_twice(room: Room) -> None:
    room.take(*whole_study())
    seal_all(room.database, PROTOCOL)
    (claimed,) = claim(room.database, PROTOCOL)
    room.decide_claimed(claimed, PretendedRelease(PROTOCOL))
    with pytest.raises(LostClaim):
        room.decide_claimed(claimed, PretendedRelease(PROTOCOL))
    assert len(room.rows(decision)) == 1


@pytest.mark.parametrize("score", [0.05, 0.5, 0.95, float("nan")])
def test_a_replay_gives_the_same_decision(room: Room, score: float) -> None:
    room.take(*whole_study())
    room.decide(PretendedRelease(PROTOCOL, score))
    (stored,) = room.rows(decision)
    release = PretendedRelease(PROTOCOL, score)
    result = replay(room.database, room.blobs, room.sandbox, release, stored.case_id)
    assert (result.identical, result.same_stack) == (True, True)
    other = PretendedRelease(PROTOCOL, 0.3, fingerprint={"pretended": "2"})
    result = replay(room.database, room.blobs, room.sandbox, other, stored.case_id)
    assert (result.identical, result.same_stack) == (False, False)


def test_a_replay_without_a_release_and_of_nothing(room: Room) -> None:
    room.take(*whole_study())
    room.decide(None, release_problem="RELEASE_INVALID: others")
    (stored,) = room.rows(decision)
    assert replay(room.database, room.blobs, room.sandbox, None, stored.case_id).identical
    with pytest.raises(HaltPipeline, match="decided by release"):
        replay(room.database, room.blobs, room.sandbox, PretendedRelease(PROTOCOL), stored.case_id)
    with pytest.raises(HaltPipeline, match="no decision"):
        replay(room.database, room.blobs, room.sandbox, None, "0" * 32)
