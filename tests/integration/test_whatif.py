"""What if: another policy over stored evidence, on both databases; nothing is changed by asking."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.domain.certificate import Certificate, certify
from pipeline.errors import HaltPipeline
from pipeline.store import evidence_rows
from pipeline.store.columns import metadata
from pipeline.store.database import Database
from pipeline.store.json_values import evidence_json
from pipeline.store.tables import decision
from pipeline.whatif import Change, covered, what_if
from tests.integration.test_triage import PROTOCOL, Room
from tests.pretend_scanner import PretendedRelease, slice_bytes

SCORES = (0.02, 0.05, 0.3, 0.6, 0.95)


@pytest.fixture
def room(database: Database, tmp_path: Path) -> Room:
    """Five studies: two in ROUTINE, two in REVIEW, one in PRIORITY."""
    found = Room(database, tmp_path)
    for number, score in enumerate(SCORES):
        maker = "North" if number % 2 else "South"
        found.take(*[slice_bytes(f"1.{number}", number=i, manufacturer=maker) for i in (1, 2, 3)])
        found.decide(PretendedRelease(PROTOCOL, score))
    return found


def asked(room: Room, change: Change = Change(), **options: Any) -> dict[str, Any]:  # noqa: B008 - frozen
    return what_if(room.database, PROTOCOL, change, **options)


def certificate(side: str) -> Certificate:
    n = 100
    positive = [side == "routine"] * n
    return certify(
        [0.1, 0.5, 0.9],
        [True, False, True],
        [0.05 + 0.9 * i / n for i in range(n)],
        positive,
        [f"c{i}" for i in range(n)],
        tune_patients=["a", "b", "c"],
        alpha=0.5,
        delta=0.05,
        side=side,  # type: ignore[arg-type]
        made_on=date(2026, 1, 1),
        expires_on=date(2027, 1, 1),
        dependencies={},
        method="order_statistic",
    )


def test_the_stored_policy_decides_every_study_as_it_was_decided(room: Room) -> None:
    found = asked(room)
    assert (found["studies"], found["recomputed_alike"], found["flips"]) == (5, 5, [])
    assert found["unreadable"] == 0


def test_a_higher_threshold_moves_studies_to_routine_and_names_them(room: Room) -> None:
    found = asked(room, Change(routine_below=0.4))
    assert [(f["from"], f["to"], f["n"]) for f in found["flips"]] == [("REVIEW", "ROUTINE", 1)]
    (case,) = found["flips"][0]["cases"]
    (stored,) = [row for row in room.rows(decision) if row.case_id == case]
    assert stored.route_score == 0.3


def test_a_lower_novelty_and_information_limit_send_everything_to_review(room: Room) -> None:
    found = asked(room, Change(mutual_information_limit=0.01))
    assert {f["to"] for f in found["flips"]} == {"REVIEW"}
    assert sum(f["n"] for f in found["flips"]) == 3


def test_asking_changes_nothing_in_the_database(room: Room) -> None:
    def everything() -> list[Any]:
        return [[tuple(row) for row in room.rows(table)] for table in metadata.sorted_tables]

    before = everything()
    asked(room, Change(routine_below=0.9), studies_per_day=10)
    assert everything() == before


def test_groups_are_told_and_studies_of_an_unknown_group_have_their_own(room: Room) -> None:
    rows = {(g["column"], g["value"]): g for g in asked(room, Change(routine_below=0.4))["groups"]}
    scanners = {value: g["n"] for (column, value), g in rows.items() if column == "scanner"}
    assert sum(scanners.values()) == 5
    assert any(value.startswith("North") for value in scanners)
    assert sum(g["flips"] for (column, _), g in rows.items() if column == "scanner") == 1
    assert sum(g["n"] for (column, _), g in rows.items() if column == "age_band") == 5


def test_reads_a_day_fall_when_studies_move_to_routine(room: Room) -> None:
    reads = asked(room, Change(routine_below=0.4), studies_per_day=100)["reads"]
    before, after = (reads[when][0]["mean"] for when in ("before", "after"))
    share = PROTOCOL.limits.audit_share
    assert before == pytest.approx(100 * (3 / 5 + share * 2 / 5))
    assert after == pytest.approx(100 * (2 / 5 + share * 3 / 5))


def test_studies_of_another_release_stay_as_they_were(room: Room) -> None:
    other = replace(PretendedRelease(PROTOCOL, 0.5).policy, release_digest="b" * 64)
    found = asked(room, Change(routine_below=0.9), policy=other)
    assert (found["other_release"], found["flips"]) == (5, [])


def test_evidence_that_cannot_be_read_stays_with_a_clinician(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    with room.database.read() as connection:
        stored = evidence_rows.decided_studies(connection, PROTOCOL.name)
    first = next(one for one in stored if one.route == "ROUTINE")
    broken = tuple(replace(one, evidence=None) if one is first else one for one in stored)
    monkeypatch.setattr(evidence_rows, "decided_studies", lambda *_: broken)
    found = asked(room, Change(routine_below=0.9))
    assert found["unreadable"] == 1
    assert ("ROUTINE", "REVIEW", 1) in [(f["from"], f["to"], f["n"]) for f in found["flips"]]


def test_evidence_survives_the_database_and_refuses_what_it_does_not_know(room: Room) -> None:
    for row in room.rows(decision):
        assert evidence_json(evidence_rows.evidence_from(row.evidence)) == row.evidence
    content = json.loads(json.dumps(room.rows(decision)[0].evidence))
    for wrong in (
        {**content, "surprise": 1},
        {k: v for k, v in content.items() if k != "problems"},
        {**content, "quality": ["UNHEARD_OF"]},
        {**content, "analysis": {**content["analysis"], "uncertainty": {"passes": 3}}},
    ):
        with pytest.raises((KeyError, TypeError, ValueError)):
            evidence_rows.evidence_from(wrong)


def test_without_a_decision_there_is_nothing_to_ask(database: Database) -> None:
    with pytest.raises(HaltPipeline, match="no study was decided"):
        what_if(database, PROTOCOL, Change())


@pytest.mark.parametrize(
    ("change", "routine", "priority"),
    [
        (Change(), True, True),
        (Change(routine_below=0.01), True, True),
        (Change(routine_below=0.99), False, True),
        (Change(priority_above=0.999), True, True),
        (Change(mutual_information_limit=0.4), True, True),
        (Change(mutual_information_limit=0.6), False, False),
        (Change(novelty_level=0.05), True, True),
        (Change(novelty_level=0.001), False, False),
    ],
)
def test_only_a_policy_on_the_safe_side_of_the_certificate_is_covered(
    change: Change, routine: bool, priority: bool
) -> None:
    held = {side: certificate(side) for side in ("routine", "priority")}
    policy = PretendedRelease(PROTOCOL).policy
    assert covered(change, held, policy) == {"routine": routine, "priority": priority}


def test_the_newest_revision_of_a_study_counts_once(room: Room) -> None:
    room.take(slice_bytes("1.0", number=4))
    room.decide(PretendedRelease(PROTOCOL, 0.02))
    found = asked(room)
    assert (found["studies"], len(room.rows(decision))) == (5, 6)
