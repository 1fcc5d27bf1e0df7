from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from pipeline import claiming, outside_reading, review
from pipeline.answering import CANNOT_BE_READ, Read
from pipeline.domain.case import Reason
from pipeline.domain.result import Absent, ResultKind
from pipeline.errors import NotAllowed, StaleClaim
from pipeline.outside_reading import ItemConflict
from pipeline.protocol import Reading, SecondReads
from pipeline.review import Agreement, CaseView
from pipeline.store import account_rows, agreement_rows, audit_rows, exposure_rows, read_rows, result_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.line_rows import Line
from pipeline.store.tables import account, audit_event, outbox, worklist_item
from tests.reading_room_cases import AUDIT, NOW, Wanted, add_account, add_case, protocol
from tests.unit.test_second_reads import KEY

LEASE = timedelta(minutes=15)
ALWAYS = Reading(second_reads=SecondReads(share=1.0))


@dataclass
class Ward:
    """One database with readers who commit at whatever moment a test wants."""

    database: Database
    blobs: BlobStore

    def person(self, name: str, role: Role = Role.READER) -> Account:
        account_id = add_account(self.database, name, role=role)
        return Account(id=account_id, name=name, role=role, specialties=("neuroradiology",))

    def case(self, wanted: Wanted | None = None) -> str:
        return add_case(self.database, self.blobs, wanted or Wanted())

    def read(
        self,
        who: Account,
        case_id: str,
        finding: str = "tumour",
        certainty: int = 4,
        *,
        reading: Reading = ALWAYS,
        minutes: int = 0,
        comment: str = "so I see it",
    ) -> str:
        now = NOW + timedelta(minutes=minutes)
        claim = claiming.claim_case(self.database, who, case_id, lease=LEASE, now=now)
        said = Read(finding=finding, certainty=certainty, comment=comment)
        return review.commit_read(
            self.database, who, case_id, claim.fence, said, reading=reading, key=KEY, now=now + timedelta(minutes=1)
        )

    def reveal(self, who: Account, case_id: str) -> CaseView:
        review.reveal(self.database, who, case_id, now=NOW + timedelta(hours=1))
        return self.view(who, case_id)

    def view(self, who: Account, case_id: str) -> CaseView:
        return review.view_case(self.database, who, case_id, now=NOW + timedelta(hours=1))

    def items(self, case_id: str) -> list[tuple[int, str, list[str]]]:
        query = worklist_item.select().where(worklist_item.c.case_id == case_id).order_by(worklist_item.c.round)
        with self.database.read() as connection:
            return [(row.round, row.state, row.reasons) for row in connection.execute(query)]

    def announced(self, case_id: str) -> list[str]:
        with self.database.read() as connection:
            rows = connection.execute(outbox.select()).all()
        return [row.id for row in rows if row.payload["case"] == case_id and row.kind == ResultKind.READ]


@pytest.fixture
def ward(database: Database, tmp_path: Path) -> Ward:
    made = Ward(database, BlobStore(tmp_path / "blobs"))
    made.person("zoe")  # somebody who could be asked
    return made


def test_a_read_that_asks_for_no_second_one_ends_the_case(ward: Ward) -> None:
    reader, case_id = ward.person("ann"), ward.case()
    ward.read(reader, case_id, reading=Reading())
    assert [item[:2] for item in ward.items(case_id)] == [(1, "COMPLETED")]
    assert len(ward.announced(case_id)) == 1
    view = ward.reveal(reader, case_id)
    assert (view.others, view.outcome) == ((), None)


@pytest.mark.parametrize(
    ("rule", "finding", "certainty", "rounds"),
    [
        (SecondReads(share=1.0), "no_tumour", 5, 2),
        (SecondReads(findings=("tumour",)), "tumour", 5, 2),
        (SecondReads(findings=("tumour",)), "no_tumour", 5, 1),
        (SecondReads(findings=(CANNOT_BE_READ,)), CANNOT_BE_READ, 5, 2),
        (SecondReads(least_certainty=3), "no_tumour", 2, 2),
        (SecondReads(least_certainty=3), "no_tumour", 3, 1),
    ],
)
def test_a_rule_opens_the_second_round_in_the_same_transaction(
    ward: Ward, rule: SecondReads, finding: str, certainty: int, rounds: int
) -> None:
    case_id = ward.case()
    ward.read(ward.person("ann"), case_id, finding, certainty, reading=Reading(second_reads=rule))
    assert len(ward.items(case_id)) == rounds
    assert len(ward.announced(case_id)) == (1 if rounds == 1 else 0)


def test_the_second_item_looks_like_one_that_was_given_back(ward: Ward) -> None:
    case_id = ward.case(Wanted(age=timedelta(minutes=30), wait=timedelta(hours=4), priority=2))
    ward.read(ward.person("ann"), case_id)
    with ward.database.read() as connection:
        rows = connection.execute(worklist_item.select().order_by(worklist_item.c.round)).all()
    first, second = rows
    assert (first.specialty, first.priority, first.reasons) == (second.specialty, second.priority, second.reasons)
    assert (first.created_at, first.due_at, first.fence) == (second.created_at, second.due_at, second.fence)
    assert second.due_at - second.created_at == timedelta(hours=4)


def test_a_read_that_nobody_could_second_stands_by_itself_and_is_told(database: Database, tmp_path: Path) -> None:
    alone = Ward(database, BlobStore(tmp_path / "blobs"))
    case_id = alone.case()
    alone.person("dr.other")
    with database.transaction() as connection:
        connection.execute(account.update().values(specialties=["chest"]))
    ann = alone.person("ann")
    alone.read(ann, case_id)
    assert [item[:2] for item in alone.items(case_id)] == [(1, "COMPLETED"), (2, "CANCELED")]
    assert len(alone.announced(case_id)) == 1
    with database.read() as connection:
        events = connection.execute(audit_event.select().where(audit_event.c.case_id == case_id)).all()
    assert "round.impossible" in {row.event for row in events}
    assert alone.reveal(ann, case_id).answer is not None


def test_nobody_gives_two_reads_of_one_case(ward: Ward) -> None:
    ann, ben, case_id = ward.person("ann"), ward.person("ben"), ward.case()
    ward.read(ann, case_id)
    assert not ward.view(ann, case_id).may_claim
    assert ward.view(ben, case_id).may_claim
    with pytest.raises((NotAllowed, StaleClaim)) as of_open:
        claiming.claim_case(ward.database, ann, case_id, lease=LEASE, now=NOW)
    assert claiming.claim_next(ward.database, ann, lease=LEASE, now=NOW) is None
    ward.read(ben, case_id, minutes=2)
    with pytest.raises((NotAllowed, StaleClaim)) as of_done:
        claiming.claim_case(ward.database, ann, case_id, lease=LEASE, now=NOW)
    assert str(of_open.value) == str(of_done.value)  # the words do not tell whether anybody else is asked


def test_the_first_reader_learns_nothing_of_the_second_round_until_it_is_over(ward: Ward) -> None:
    ann, ben = ward.person("ann"), ward.person("ben")
    alone, twice = ward.case(), ward.case()
    ward.read(ann, alone, reading=Reading())
    ward.read(ann, twice)
    of_alone, of_twice = ward.view(ann, alone), ward.view(ann, twice)
    for one in (of_alone, of_twice):
        assert one.case.item is not None
        assert one.case.item.state == "COMPLETED"
    assert told(of_alone) == told(of_twice)
    claiming.claim_case(ward.database, ben, twice, lease=LEASE, now=NOW + timedelta(minutes=2))
    assert told(ward.view(ann, twice)) == told(of_alone)
    revealed = ward.reveal(ann, twice)
    assert (revealed.others, revealed.outcome) == ((), None)


def told(view: CaseView) -> tuple[object, ...]:
    """What a view says, without ids, names of images and the read itself."""
    assert view.case.item is not None
    item = replace(view.case.item, case_id="", item_id="", header={})
    assert isinstance(item, Line)
    return item, view.held, view.may_claim, view.others, view.outcome, view.answer, view.draft


def test_two_reads_that_agree_end_the_case_and_are_shown_without_names(ward: Ward) -> None:
    ann, lena, case_id = ward.person("ann"), ward.person("lena", Role.LEAD), ward.case()
    ward.read(ann, case_id, comment="left frontal")
    assert ward.announced(case_id) == []
    ward.read(lena, case_id, certainty=2, minutes=2, comment="I think so too")
    assert [item[:2] for item in ward.items(case_id)] == [(1, "COMPLETED"), (2, "COMPLETED")]
    assert len(ward.announced(case_id)) == 1
    assert ward.view(ann, case_id).others == ()  # not before the own reveal
    seen = ward.reveal(ann, case_id)
    assert seen.outcome == "tumour"
    assert [(other.name, other.comment) for other in seen.others] == [(None, "I think so too")]
    of_lead = ward.reveal(lena, case_id)
    assert [(other.name, other.comment) for other in of_lead.others] == [("ann", "left frontal")]


def test_two_reads_that_disagree_go_to_an_adjudicator_whose_finding_stands(ward: Ward) -> None:
    ann, ben, cleo = ward.person("ann"), ward.person("ben"), ward.person("cleo", Role.ADJUDICATOR)
    case_id = ward.case()
    ward.read(ann, case_id, "tumour", comment="a rim")
    review.reveal(ward.database, ann, case_id, now=NOW + timedelta(minutes=1))
    review.record_agreement(
        ward.database, ann, case_id, Agreement.AMEND, amended_to="no_tumour", now=NOW + timedelta(minutes=1)
    )
    ward.read(ben, case_id, "no_tumour", minutes=2, comment="a vessel")
    assert ward.items(case_id)[2] == (3, "SCHEDULED", [Reason.UNCERTAIN, Reason.DISCORDANT])
    assert ward.announced(case_id) == []
    other = ward.person("dan")
    assert not ward.view(other, case_id).may_claim
    with pytest.raises((NotAllowed, StaleClaim)):
        claiming.claim_case(ward.database, other, case_id, lease=LEASE, now=NOW)
    assert ward.view(cleo, case_id).others == ()  # not before the case is held
    claim = claiming.claim_case(ward.database, cleo, case_id, lease=LEASE, now=NOW + timedelta(minutes=5))
    view = review.view_case(ward.database, cleo, case_id, now=NOW + timedelta(minutes=5))
    assert view.answer is None
    assert sorted(other.comment for other in view.others) == ["a rim", "a vessel"]
    assert sorted(other.label for other in view.others) == ["Reader A", "Reader B"]
    shown = repr(view.others)
    for hidden in ("ann", "ben", "amend", "AMEND"):  # names, and what the model's answer did to a reader
        assert f"'{hidden}'" not in shown
    said = Read(finding="no_tumour", certainty=5, comment="a vessel indeed")
    review.commit_read(ward.database, cleo, case_id, claim.fence, said, reading=ALWAYS, key=KEY, now=NOW + LEASE)
    assert len(ward.items(case_id)) == 3
    assert len(ward.announced(case_id)) == 1
    with ward.database.read() as connection:
        final = read_rows.final_read(connection, case_id)
        assert final is not None
        assert (final[0].finding, final[1]) == ("no_tumour", "cleo")
        kinds = [(seen.name, seen.kind.value) for seen in exposure_rows.of_case(connection, case_id)]
        assert ("cleo", "READS") in kinds
        assert ("ann", "ANSWER") in kinds
        assert audit_rows.verify_chain(connection) == []
    assert ward.view(ann, case_id).outcome == "no_tumour"


def test_the_order_of_the_two_reads_tells_nothing_and_stays(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """SHA-256 of "1", "2", "5" and "3" begins with 6b, d4, ef and 4e: of each pair the lower is shown first."""
    ann, ben, cleo = ward.person("ann"), ward.person("ben"), ward.person("cleo", Role.ADJUDICATOR)
    for ids, first in ((("1", "2"), "first"), (("5", "3"), "second")):
        case_id, given = ward.case(), iter(ids)
        monkeypatch.setattr(read_rows, "new_id", partial(next, given))
        ward.read(ann, case_id, "tumour", comment="first")
        ward.read(ben, case_id, "no_tumour", comment="second")
        claiming.claim_case(ward.database, cleo, case_id, lease=LEASE, now=NOW + timedelta(minutes=55))
        shown = [[other.comment for other in ward.view(cleo, case_id).others] for _ in range(3)]
        assert shown[0] == shown[1] == shown[2]
        assert shown[0][0] == first


def test_a_result_leaves_with_the_read_that_stands_and_with_numbers_only_then(ward: Ward) -> None:
    ann, ben, cleo = ward.person("ann"), ward.person("ben"), ward.person("cleo", Role.ADJUDICATOR)
    case_id = ward.case(AUDIT)
    with ward.database.read() as connection:
        triage = connection.execute(outbox.select()).one().id

    def told_of(row: str) -> tuple[object, ...]:
        with ward.database.read() as connection:
            result = result_rows.load_result(connection, row, withhold=True, version="1")
        read = result.read and (result.read.reader, result.read.finding)
        return result.absent, result.numbers is None, result.route, result.reasons, result.due_at, read

    blind = told_of(triage)
    assert blind[:3] == (Absent.WITHHELD, True, "REVIEW")
    ward.read(ann, case_id, "tumour")
    assert told_of(triage) == blind
    ward.read(ben, case_id, "no_tumour", minutes=2)
    assert told_of(triage) == blind  # also with a third item, which has another reason and another due time
    ward.read(cleo, case_id, "no_tumour", minutes=4)
    (row,) = ward.announced(case_id)
    absent, without_numbers, route, _, _, read = told_of(row)
    assert (absent, without_numbers, route, read) == (None, False, "ROUTINE", ("cleo", "no_tumour"))


def test_numbers_stay_back_while_anybody_still_reads_blind(ward: Ward) -> None:
    ann, case_id = ward.person("ann"), ward.case()
    ward.read(ann, case_id)
    with ward.database.transaction() as connection:
        from pipeline.store import outbox_rows

        outbox_rows.announce(connection, case_id=case_id, kind=ResultKind.READ, now=NOW)
    (row,) = ward.announced(case_id)
    with ward.database.read() as connection:
        assert result_rows.load_result(connection, row, withhold=True, version="1").numbers is None


def test_an_outside_system_reads_a_case_once_and_is_told_of_no_further_round(ward: Ward) -> None:
    case_id, later = ward.case(), NOW + timedelta(minutes=2)
    (item,) = outside_reading.search(ward.database, state=None, limit=9, offset=0, now=NOW)
    outside_reading.claim(ward.database, item.id, "2.25.1", lease=LEASE, now=NOW)
    room = {"brain-tumour-mr": protocol().model_copy(update={"reading": ALWAYS})}
    said = Read(finding="tumour", certainty=4)
    outside_reading.commit(ward.database, item.id, "2.25.1", said, protocols=room, key=KEY, now=NOW)
    assert [entry[:2] for entry in ward.items(case_id)] == [(1, "COMPLETED"), (2, "SCHEDULED")]
    found = partial(outside_reading.search, ward.database, state=None, limit=9, offset=0, now=later)
    assert [one.id for one in found()] == [item.id]
    with ward.database.read() as connection:
        query = worklist_item.select().where(worklist_item.c.round == 2)
        second = connection.execute(query).one().id
    with pytest.raises(ItemConflict, match="not one for other systems"):
        outside_reading.claim(ward.database, second, "2.25.2", lease=LEASE, now=later)
    ward.read(ward.person("ann"), case_id, "no_tumour", minutes=2)
    assert [one.id for one in found()] == [item.id]
    ward.read(ward.person("cleo", Role.ADJUDICATOR), case_id, minutes=4)
    assert len(found()) == 3


def test_an_outside_system_can_be_the_second_reader_and_sees_one_item(ward: Ward) -> None:
    case_id = ward.case()
    ward.read(ward.person("ann"), case_id)
    (item,) = outside_reading.search(ward.database, state=None, limit=9, offset=0, now=NOW + timedelta(minutes=2))
    outside_reading.claim(ward.database, item.id, "2.25.1", lease=LEASE, now=NOW + timedelta(minutes=2))
    again = outside_reading.give_back(ward.database, item.id, "2.25.1", "110514", now=NOW + timedelta(minutes=3))
    with ward.database.read() as connection:
        assert connection.execute(worklist_item.select().where(worklist_item.c.id == again)).one().round == 2


def test_agreement_is_told_per_protocol_reader_and_pair_once_a_case_is_over(ward: Ward) -> None:
    """Ann and Ben read ten cases: 4 and 3 alike, 1 and 2 unlike; the model's likeliest class is always no_tumour."""
    ann, ben, cleo = ward.person("ann"), ward.person("ben"), ward.person("cleo", Role.ADJUDICATOR)
    pairs = [("tumour", "tumour")] * 4 + [("no_tumour", "no_tumour")] * 3
    pairs += [("tumour", "no_tumour")] + [("no_tumour", "tumour")] * 2
    for one, two in pairs:
        case_id = ward.case()
        ward.read(ann, case_id, one)
        ward.read(ben, case_id, two, minutes=2)
        if one != two:
            ward.read(cleo, case_id, "tumour", minutes=4)
    ward.read(ann, ward.case(), "tumour")  # its second read is still open: it counts nowhere
    with ward.database.read() as connection:
        found = agreement_rows.tables(connection, since=None)
        later = agreement_rows.tables(connection, since=NOW + timedelta(days=1))
    # seen 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    (whole,) = found.protocols
    assert (whole.protocol, whole.n, whole.agreement) == ("brain-tumour-mr", 10, 0.7)
    assert whole.kappa == pytest.approx(0.4)
    assert [(row.label, row.n, row.kappa) for row in found.readers] == [
        ("ann", 10, pytest.approx(0.4)),
        ("ben", 10, pytest.approx(0.4)),
    ]
    assert [(row.label, row.n) for row in found.pairs] == [("ann and ben", 10)]
    (model,) = found.with_model
    assert (model.n, model.agreement) == (10, 0.5)
    assert model.kappa == pytest.approx(0.0)
    assert [(row.label, row.n, row.overridden, row.rate) for row in found.overrides] == [
        ("ann", 10, 5, 0.5),
        ("ben", 10, 6, 0.6),
    ]
    assert later == agreement_rows.AgreementTables(protocols=(), readers=(), pairs=(), with_model=(), overrides=())


def test_the_outside_account_is_no_person(ward: Ward) -> None:
    with ward.database.transaction() as connection:
        account = account_rows.outside_account(connection, now=NOW)
    assert not account.may(account_rows.May.ADJUDICATE)
