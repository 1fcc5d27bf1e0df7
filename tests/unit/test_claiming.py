from __future__ import annotations

import threading
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select

from pipeline import claiming, review
from pipeline.errors import NotAllowed, StaleClaim
from pipeline.review import Read
from pipeline.store import exposure_rows, work_item_rows, worklist_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.exposure_rows import Exposure
from pipeline.store.line_rows import Show
from pipeline.store.refusals import ConstraintRefused
from pipeline.store.tables import worklist_item
from tests.reading_room_cases import AUDIT, NOW, PRIORITY, ROUTINE, Wanted, add_account, add_case

LEASE = timedelta(minutes=15)
TUMOUR = Read(finding="tumour", certainty=4)


def someone(database: Database, name: str = "dr.okafor", role: Role = Role.READER, *more: str) -> Account:
    specialties = ("neuroradiology", *more)
    account_id = add_account(database, name, role=role, specialties=specialties)
    return Account(id=account_id, name=name, role=role, specialties=specialties)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def order(database: Database, reader: Account, show: Show = Show.ALL) -> list[str]:
    return [line.case_id for line in claiming.open_worklist(database, reader, show, now=NOW).lines]


def test_overdue_comes_first_then_priority_then_what_is_due_first(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    late = add_case(database, blobs, Wanted(age=timedelta(hours=5)))
    soon = add_case(database, blobs, Wanted(age=timedelta(hours=3)))
    early = add_case(database, blobs, PRIORITY)
    later = add_case(database, blobs, Wanted(age=timedelta(minutes=5)))
    assert order(database, reader) == [late, early, soon, later]
    taken = claiming.claim_next(database, reader, lease=LEASE, now=NOW)
    assert taken is not None
    assert taken.case_id == late


def test_an_item_is_due_until_the_moment_it_is_overdue(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    add_case(database, blobs, Wanted(age=timedelta(hours=4)))
    assert claiming.open_worklist(database, reader, Show.ALL, now=NOW).counts["overdue"] == 1
    before = claiming.open_worklist(database, reader, Show.ALL, now=NOW - timedelta(seconds=1))
    assert before.counts["overdue"] == 0


def test_filters_and_counts(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    mine = add_case(database, blobs, Wanted())
    waiting = add_case(database, blobs, Wanted(age=timedelta(minutes=5)))
    other = add_case(database, blobs, Wanted(specialty="general_radiology"))
    routine = add_case(database, blobs, ROUTINE)
    audit = add_case(database, blobs, replace(AUDIT, age=timedelta(minutes=1)))
    claiming.claim_case(database, reader, mine, lease=LEASE, now=NOW)
    assert set(order(database, reader)) == {mine, waiting, other, audit}
    assert set(order(database, reader, Show.SPECIALTY)) == {mine, waiting, audit}
    assert order(database, reader, Show.MINE) == [mine]
    assert order(database, reader, Show.UNREAD) == [routine]
    assert order(database, reader, Show.DONE) == []
    counts = claiming.open_worklist(database, reader, Show.ALL, now=NOW).counts
    assert counts == {"open": 4, "overdue": 0, "specialty": 3, "held": 1, "mine": 1, "unread": 1}


def test_a_held_case_cannot_be_claimed_by_somebody_else(database: Database, blobs: BlobStore) -> None:
    first, second = someone(database), someone(database, "dr.weiss")
    case_id = add_case(database, blobs, Wanted())
    held = claiming.claim_case(database, first, case_id, lease=LEASE, now=NOW)
    with pytest.raises(StaleClaim):
        claiming.claim_case(database, second, case_id, lease=LEASE, now=NOW)
    again = claiming.claim_case(database, first, case_id, lease=LEASE, now=NOW + timedelta(minutes=1))
    assert again.fence == held.fence
    assert claiming.claim_next(database, second, lease=LEASE, now=NOW) is None


def test_of_many_readers_at_once_each_case_goes_to_one(database: Database, blobs: BlobStore) -> None:
    cases = {add_case(database, blobs, Wanted(age=timedelta(minutes=n))) for n in range(1, 6)}
    readers = [someone(database, f"reader{n}") for n in range(8)]
    taken: list[str] = []

    def take(reader: Account) -> None:
        while (claim := claiming.claim_next(database, reader, lease=LEASE, now=NOW)) is not None:
            if claim.case_id in taken:
                break
            taken.append(claim.case_id)

    threads = [threading.Thread(target=take, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(cases)


def test_an_extension_moves_the_end_of_the_lease(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    later = NOW + timedelta(minutes=14)
    assert claiming.extend_claim(database, reader, case_id, claim.fence, lease=LEASE, now=later) == later + LEASE
    review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=NOW + timedelta(minutes=28))


def test_a_superseded_case_leaves_the_readers_hands(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    with database.transaction() as connection:
        assert worklist_rows.cancel_open_items(connection, case_id=case_id, now=NOW) == 1
        assert worklist_rows.cancel_open_items(connection, case_id=case_id, now=NOW) == 0
    with pytest.raises(StaleClaim):
        review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=NOW)


def test_a_case_has_one_open_item_at_most(database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    with pytest.raises(ConstraintRefused), database.transaction() as connection:
        worklist_rows.schedule_item(
            connection, case_id=case_id, specialty="x", priority=1, reasons=[], due_at=NOW, now=NOW
        )


def test_accounts_claim_only_what_their_role_and_specialty_allow(database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted(specialty="general_radiology"))
    reader, viewer = someone(database), someone(database, "dr.look", Role.VIEWER, "general_radiology")
    for who in (reader, viewer):
        with pytest.raises(NotAllowed):
            claiming.claim_case(database, who, case_id, lease=LEASE, now=NOW)
    with pytest.raises(NotAllowed):
        claiming.claim_next(database, viewer, lease=LEASE, now=NOW)
    assert claiming.claim_next(database, reader, lease=LEASE, now=NOW) is None
    lead = someone(database, "dr.lead", Role.LEAD)
    assert claiming.claim_next(database, lead, lease=LEASE, now=NOW) is not None


def test_a_case_decided_without_a_read_can_be_put_on_the_list_once(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, ROUTINE)
    claiming.request_read(database, reader, case_id, now=NOW)
    assert order(database, reader) == [case_id]
    assert order(database, reader, Show.UNREAD) == []
    with pytest.raises(NotAllowed):
        claiming.request_read(database, reader, case_id, now=NOW)


def reads_of(database: Database, case_id: str, reader: Account, *, now: datetime = NOW) -> None:
    """A committed read of a first round, after which a second round is opened as the first was."""
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=now)
    review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=now)


def ask_again(database: Database, case_id: str, *, round_: int = 2) -> None:
    with database.transaction() as connection:
        worklist_rows.schedule_item(
            connection,
            case_id=case_id,
            specialty="neuroradiology",
            priority=1,
            reasons=["UNCERTAIN"],
            due_at=NOW + timedelta(hours=3),
            now=NOW - timedelta(minutes=30),
            round_=round_,
        )


def see(database: Database, case_id: str, account: Account, kind: Exposure) -> None:
    with database.transaction() as connection:
        exposure_rows.note(connection, case_id=case_id, account_id=account.id, kind=kind, now=NOW)


def rows_of(database: Database, case_id: str) -> list[Row[Any]]:
    query = select(worklist_item).where(worklist_item.c.case_id == case_id).order_by(worklist_item.c.round)
    with database.read() as connection:
        return list(connection.execute(query))


def next_case(database: Database, reader: Account, *, now: datetime = NOW) -> str | None:
    claim = claiming.claim_next(database, reader, lease=LEASE, now=now)
    return None if claim is None else claim.case_id


def test_who_has_read_a_case_is_neither_shown_nor_given_its_second_read(database: Database, blobs: BlobStore) -> None:
    first, second = someone(database), someone(database, "dr.weiss")
    case_id = add_case(database, blobs, Wanted())
    reads_of(database, case_id, first)
    ask_again(database, case_id)
    assert next_case(database, first) is None
    with pytest.raises(StaleClaim):
        claiming.claim_case(database, first, case_id, lease=LEASE, now=NOW)
    for show in (Show.ALL, Show.SPECIALTY, Show.MINE):
        assert order(database, first, show) == []
    counts = claiming.open_worklist(database, first, Show.ALL, now=NOW).counts
    assert (counts["open"], counts["specialty"], counts["overdue"]) == (0, 0, 0)
    assert order(database, second) == [case_id]
    assert next_case(database, second) == case_id


def test_the_line_of_a_second_read_is_the_line_of_a_first(database: Database, blobs: BlobStore) -> None:
    first, second = someone(database), someone(database, "dr.weiss")
    case_id = add_case(database, blobs, replace(Wanted(), wait=timedelta(hours=3, minutes=30)))
    (before,) = claiming.open_worklist(database, second, Show.ALL, now=NOW).lines
    reads_of(database, case_id, first)
    ask_again(database, case_id)
    (after,) = claiming.open_worklist(database, second, Show.ALL, now=NOW).lines
    assert replace(after, item_id=before.item_id) == before
    assert "round" not in {field.name for field in fields(after)}


HARMLESS = (Exposure.IMAGES, Exposure.ROUTE)


@pytest.mark.parametrize("kind", [kind for kind in Exposure if kind not in HARMLESS])
def test_who_was_shown_what_colours_a_read_cannot_claim(database: Database, blobs: BlobStore, kind: Exposure) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted())
    see(database, case_id, reader, kind)
    assert next_case(database, reader) is None
    assert order(database, reader, Show.SPECIALTY) == []
    with pytest.raises(StaleClaim):
        claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    assert next_case(database, someone(database, "dr.weiss")) == case_id


@pytest.mark.parametrize("kind", HARMLESS)
def test_who_has_seen_the_images_or_that_no_read_was_asked_for_may_claim(
    database: Database, blobs: BlobStore, kind: Exposure
) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted())
    see(database, case_id, reader, kind)
    assert next_case(database, reader) == case_id


def test_an_adjudication_goes_to_who_may_adjudicate_and_may_have_seen_the_reads(
    database: Database, blobs: BlobStore
) -> None:
    reader, judge = someone(database), someone(database, "dr.judge", Role.ADJUDICATOR)
    case_id = add_case(database, blobs, replace(Wanted(), item_reasons=None))
    ask_again(database, case_id, round_=3)
    see(database, case_id, judge, Exposure.READS)
    assert next_case(database, reader) is None
    with pytest.raises(StaleClaim):
        claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    assert next_case(database, judge) == case_id
    other = someone(database, "dr.other", Role.ADJUDICATOR)
    see(database, case_id, other, Exposure.ANSWER)
    later = NOW + LEASE
    assert next_case(database, other, now=later) is None


def test_being_shown_that_a_case_asked_for_no_read_is_written_down_once(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, ROUTINE)
    for _ in range(2):
        assert order(database, reader, Show.UNREAD) == [case_id]
    with database.read() as connection:
        (seen,) = exposure_rows.of_case(connection, case_id)
    assert (seen.account_id, seen.kind) == (reader.id, Exposure.ROUTE)
    claiming.request_read(database, reader, case_id, now=NOW)
    assert next_case(database, reader) == case_id


def test_with_several_specialties_the_most_pressing_of_all_comes_first(database: Database, blobs: BlobStore) -> None:
    reader = someone(database, "dr.okafor", Role.READER, "general_radiology")
    ages = {"neuroradiology": (20, 200), "general_radiology": (100, 30), "chest": (230,)}
    made = {
        (kind, age): add_case(database, blobs, Wanted(specialty=kind, age=timedelta(minutes=age)))
        for kind, many in ages.items()
        for age in many
    }
    wanted = [("neuroradiology", 200), ("general_radiology", 100), ("general_radiology", 30), ("neuroradiology", 20)]
    assert order(database, reader, Show.SPECIALTY) == [made[one] for one in wanted]
    taken = [next_case(database, reader) for _ in range(5)]
    assert taken == [*(made[one] for one in wanted), None]


def test_items_that_are_read_superseded_or_replaced_say_when_they_ended(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    read, gone, back = (add_case(database, blobs, Wanted()) for _ in range(3))
    reads_of(database, read, reader, now=NOW + timedelta(minutes=1))
    claim = claiming.claim_case(database, reader, back, lease=LEASE, now=NOW)
    with database.transaction() as connection:
        worklist_rows.cancel_open_items(connection, case_id=gone, now=NOW + timedelta(minutes=2))
        work_item_rows.replace_claim(
            connection, item_id=claim.item_id, account_id=reader.id, fence=claim.fence, now=NOW + timedelta(minutes=3)
        )
    ended = [{row.ended_at for row in rows_of(database, case_id)} for case_id in (read, gone, back)]
    assert ended == [{NOW + timedelta(minutes=1)}, {NOW + timedelta(minutes=2)}, {NOW + timedelta(minutes=3), None}]


def test_an_item_of_an_unknown_priority_is_refused(database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, ROUTINE)
    with pytest.raises(ValueError, match="priority 3"), database.transaction() as connection:
        worklist_rows.schedule_item(
            connection, case_id=case_id, specialty="x", priority=3, reasons=[], due_at=NOW, now=NOW
        )
