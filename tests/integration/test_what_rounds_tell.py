"""What a later round, a later revision and a policy with one side could tell, and do not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import chronicle, claiming, noticing, oversight
from pipeline.domain.case import Reason, Route
from pipeline.domain.evidence import Decision
from pipeline.errors import NotAllowed
from pipeline.oversight import Period
from pipeline.store import agreement_rows, decided_cases, escalation_rows, exposure_rows, worklist_rows
from pipeline.store.account_rows import Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.exposure_rows import Exposure
from pipeline.store.tables import case, worklist_item
from tests.integration.test_second_reads import LEASE, Ward
from tests.reading_room_cases import NOW, Wanted


@pytest.fixture
def ward(database: Database, tmp_path: Path) -> Ward:
    made = Ward(database, BlobStore(tmp_path / "blobs"))
    made.person("zoe")
    return made


class Record:
    """As much of a decision's record as its worklist reasons follow from."""

    def __init__(self, route: Route, *reasons: Reason, certified: bool = True) -> None:
        self.decision = Decision(route=route, reasons=reasons, guards=(("certificate_valid", certified),))


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (Record(Route.ROUTINE, Reason.CONFIDENT_ABSENCE), {Reason.UNCERTAIN}),
        (Record(Route.REVIEW, Reason.UNCERTAIN), {Reason.UNCERTAIN}),
        (Record(Route.REVIEW, Reason.NOT_CERTIFIED), {Reason.UNCERTAIN}),
        (Record(Route.REVIEW, Reason.NOVEL, Reason.NOT_CERTIFIED), {Reason.NOVEL}),
        (Record(Route.REVIEW, Reason.NOVEL, Reason.UNCERTAIN), {Reason.NOVEL}),
        (Record(Route.REVIEW, Reason.NOT_CERTIFIED, certified=False), {Reason.NOT_CERTIFIED}),
    ],
)
def test_reasons_on_the_worklist_do_not_follow_from_the_score(record: Record, told: set[Reason]) -> None:
    assert set(decided_cases._told(record)) == told  # type: ignore[arg-type]


def test_a_lead_s_figures_do_not_move_with_the_second_round_of_a_case_they_have_read(ward: Ward) -> None:
    lead, ben = ward.person("lena", Role.LEAD), ward.person("ben")
    case_id = ward.case()
    ward.read(lead, case_id)
    later = NOW + timedelta(minutes=5)
    assert oversight.figures(ward.database, Period.DAY, asking=lead, now=later).standing.open == 0
    seen = oversight.figures(ward.database, Period.DAY, asking=ben, now=later)
    assert (seen.standing.open, sum(line.summary.n for line in seen.waits[:1])) == (1, 1)


def test_agreement_is_not_told_of_a_case_whose_answer_one_has_yet_to_see(ward: Ward) -> None:
    ann, ben = ward.person("ann"), ward.person("ben")
    case_id = ward.case()
    ward.read(ann, case_id, "tumour")
    ward.read(ben, case_id, "tumour", minutes=2)
    with ward.database.read() as connection:
        assert agreement_rows.tables(connection, since=None, asking=ann.id).overrides == ()
        assert len(agreement_rows.tables(connection, since=None, asking="somebody").overrides) == 2
    ward.reveal(ann, case_id)
    with ward.database.read() as connection:
        assert len(agreement_rows.tables(connection, since=None, asking=ann.id).overrides) == 2


def test_after_one_s_own_reveal_the_story_keeps_quiet_while_a_colleague_still_reads(ward: Ward) -> None:
    ann, ben = ward.person("ann"), ward.person("ben")
    case_id = ward.case()
    ward.read(ann, case_id)
    ward.reveal(ann, case_id)
    claiming.claim_case(ward.database, ben, case_id, lease=LEASE, now=NOW + timedelta(minutes=2))
    story = chronicle.timeline(ward.database, ann, case_id)
    assert story.is_whole
    assert {one.event for one in story.entries} & {"round.opened", "item_scheduled"} == set()
    assert "ben" not in {one.actor for one in story.entries}


def test_a_second_round_that_waits_too_long_is_escalated_although_the_first_was(ward: Ward) -> None:
    case_id = ward.case(Wanted(age=timedelta(hours=5)))
    noticing.escalate(ward.database, now=NOW)
    ward.read(ward.person("ann"), case_id)
    with ward.database.transaction() as connection:
        (again,) = escalation_rows.take_overdue(connection, now=NOW + timedelta(minutes=5), limit=9)
        rows = connection.execute(worklist_item.select().order_by(worklist_item.c.round)).all()
    assert again.item_id == rows[1].id
    assert rows[0].escalated_at == rows[1].escalated_at == NOW


def of_one_study(ward: Ward) -> tuple[str, str]:
    """Two cases whose studies are then made one, as two revisions of it are."""
    first, second = ward.case(), ward.case()
    with ward.database.transaction() as connection:
        study = connection.execute(case.select().where(case.c.id == first)).one().study_id
        connection.execute(case.update().where(case.c.id == second).values(study_id=study))
    return first, second


def test_who_knows_the_answer_to_an_earlier_revision_gives_no_second_read(ward: Ward) -> None:
    earlier, newer = of_one_study(ward)
    ann, ben = ward.person("ann"), ward.person("ben")
    with ward.database.transaction() as connection:
        exposure_rows.note(connection, case_id=earlier, account_id=ben.id, kind=Exposure.ANSWER, now=NOW)
    assert ward.view(ben, newer).may_claim  # a first read is not lost for it
    ward.read(ann, newer)
    assert not ward.view(ben, newer).may_claim
    assert ward.view(ward.person("cleo"), newer).may_claim


def test_the_record_of_an_earlier_revision_stays_shut_while_one_holds_the_newer(ward: Ward) -> None:
    earlier, newer = of_one_study(ward)
    lead = ward.person("lena", Role.LEAD)
    claiming.claim_case(ward.database, lead, newer, lease=LEASE, now=NOW)
    with pytest.raises(NotAllowed, match="you hold"):
        chronicle.record(ward.database, lead, earlier, now=NOW)


@pytest.mark.parametrize("reason", [worklist_rows.REQUESTED, Reason.UNCERTAIN])
def test_a_read_that_a_colleague_asked_for_is_still_asked_for_after_late_images(ward: Ward, reason: str) -> None:
    earlier, newer = of_one_study(ward)
    with ward.database.transaction() as connection:
        values = {"state": "CANCELED", "reasons": [str(reason)]}
        connection.execute(worklist_item.update().where(worklist_item.c.case_id == earlier).values(**values))
        assert worklist_rows.was_asked_for(connection, newer) is (reason == worklist_rows.REQUESTED)
        assert not worklist_rows.was_asked_for(connection, earlier)


def test_the_first_reader_is_told_the_same_whether_or_not_a_second_one_is_asked(ward: Ward) -> None:
    lead, ben = ward.person("lena", Role.LEAD), ward.person("ben")
    case_id = ward.case()
    ward.read(lead, case_id)
    for act in (
        lambda: claiming.resume_case(ward.database, lead, case_id, now=NOW),
        lambda: claiming.hand_over(ward.database, lead, case_id, ben.name, now=NOW),
    ):
        with pytest.raises(Exception, match="has left the worklist"):
            act()
    assert replace(ward.view(lead, case_id), answer=None).case.item is not None
