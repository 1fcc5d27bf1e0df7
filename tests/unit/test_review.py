from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import claiming, review
from pipeline.domain.case import Reason
from pipeline.errors import NoSuchCase, NotAllowed, StaleClaim, UnfinishedRead
from pipeline.review import CANNOT_BE_READ, Agreement, Read
from pipeline.store import audit_rows, reading_rows, worklist_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.line_rows import Show
from pipeline.store.refusals import ConstraintRefused
from tests.reading_room_cases import AUDIT, NOW, PRIORITY, ROUTINE, Wanted, add_account, add_case, mr_series

LEASE = timedelta(minutes=15)
TUMOUR = Read(finding="tumour", certainty=4, comment=" seen at 2 o'clock ")


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


def test_a_lease_that_ended_is_free_again_and_the_old_holder_writes_nothing(
    database: Database, blobs: BlobStore
) -> None:
    first, second = someone(database), someone(database, "dr.weiss")
    case_id = add_case(database, blobs, Wanted())
    old = claiming.claim_case(database, first, case_id, lease=LEASE, now=NOW)
    after = NOW + LEASE
    with pytest.raises(StaleClaim):
        review.commit_read(database, first, case_id, old.fence, TUMOUR, now=after)
    new = claiming.claim_case(database, second, case_id, lease=LEASE, now=after)
    assert new.fence > old.fence
    for write in (
        lambda: review.commit_read(database, first, case_id, old.fence, TUMOUR, now=after),
        lambda: claiming.extend_claim(database, first, case_id, old.fence, lease=LEASE, now=after),
        lambda: claiming.release_case(database, first, case_id, old.fence, now=after),
    ):
        with pytest.raises(StaleClaim):
            write()
    review.commit_read(database, second, case_id, new.fence, TUMOUR, now=after)


def test_a_stale_fence_of_the_same_reader_is_refused(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted())
    old = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    claiming.release_case(database, reader, case_id, old.fence, now=NOW)
    claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    with pytest.raises(StaleClaim):
        review.commit_read(database, reader, case_id, old.fence, TUMOUR, now=NOW)


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


def test_reads_keep_the_moments_of_opening_committing_and_revealing(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW + timedelta(minutes=2))
    committed, revealed = NOW + timedelta(minutes=6), NOW + timedelta(minutes=7)
    review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=committed)
    review.reveal(database, reader, case_id, now=revealed)
    review.reveal(database, reader, case_id, now=revealed + timedelta(hours=1))
    view = review.view_case(database, reader, case_id, now=revealed)
    assert view.read is not None
    assert (view.read.opened_at, view.read.committed_at, view.read.revealed_at) == (NOW, committed, revealed)
    assert (view.read.finding, view.read.certainty, view.read.comment) == ("tumour", 4, "seen at 2 o'clock")
    with database.read() as connection:
        assert audit_rows.verify_chain(connection) == []


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (Read(finding="", certainty=3), "choose what you see"),
        (Read(finding="glioma", certainty=3), "choose what you see"),
        (Read(finding="tumour", certainty=0), "how certain"),
        (Read(finding="tumour", certainty=6), "how certain"),
        (Read(finding=CANNOT_BE_READ, certainty=3, comment="  "), "why"),
        (Read(finding="tumour", certainty=3, comment="x" * 4001), "longer"),
    ],
)
def test_an_unfinished_read_is_refused_and_keeps_the_claim(
    database: Database, blobs: BlobStore, read: Read, words: str
) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    with pytest.raises(UnfinishedRead, match=words):
        review.commit_read(database, reader, case_id, claim.fence, read, now=NOW)
    review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=NOW)


def test_the_answer_exists_only_for_the_reader_who_committed_and_revealed(database: Database, blobs: BlobStore) -> None:
    reader, colleague = someone(database), someone(database, "dr.weiss", Role.LEAD)
    case_id = add_case(database, blobs, Wanted())

    def answer(who: Account) -> object:
        return review.view_case(database, who, case_id, now=NOW).answer

    assert answer(reader) is None
    with pytest.raises(NotAllowed):
        review.reveal(database, reader, case_id, now=NOW)
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    assert answer(reader) is None
    review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=NOW)
    assert answer(reader) is None
    with pytest.raises(NotAllowed):
        review.reveal(database, colleague, case_id, now=NOW)
    review.reveal(database, reader, case_id, now=NOW)
    assert answer(reader) is not None
    assert answer(colleague) is None


def test_agreement_is_noted_once_and_after_the_reveal(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=NOW)
    with pytest.raises(NotAllowed):
        review.record_agreement(database, reader, case_id, Agreement.AGREE, now=NOW)
    review.reveal(database, reader, case_id, now=NOW)
    with pytest.raises(UnfinishedRead):
        review.record_agreement(database, reader, case_id, Agreement.AMEND, now=NOW)
    review.record_agreement(database, reader, case_id, Agreement.AMEND, amended_to="no_tumour", now=NOW)
    with pytest.raises(NotAllowed):
        review.record_agreement(database, reader, case_id, Agreement.AGREE, now=NOW)
    view = review.view_case(database, reader, case_id, now=NOW)
    assert view.read is not None
    assert (view.read.finding, view.read.agreement) == ("tumour", "amend")


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


def test_an_unknown_case_is_named_as_such(database: Database) -> None:
    reader = someone(database)
    with pytest.raises(NoSuchCase):
        review.view_case(database, reader, "0" * 32, now=NOW)
    with pytest.raises(NoSuchCase):
        claiming.claim_case(database, reader, "0" * 32, lease=LEASE, now=NOW)


def test_problems_are_told_but_none_that_repeat_the_model(database: Database, blobs: BlobStore) -> None:
    told = ((Reason.IRREGULAR_GEOMETRY, "slices differ"), (Reason.UNCERTAIN, "score 0.38263 lies between"))
    case_id = add_case(database, blobs, Wanted(problems=told), files=mr_series())
    with database.read() as connection:
        case = reading_rows.blind_case(connection, case_id)
    assert case is not None
    assert case.problems == (("IRREGULAR_GEOMETRY", "slices differ"),)
