from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import claiming, review
from pipeline.domain.case import Reason
from pipeline.errors import NoSuchCase, NotAllowed, StaleClaim, UnfinishedRead
from pipeline.review import CANNOT_BE_READ, Agreement, Read
from pipeline.store import audit_rows, reading_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from tests.reading_room_cases import NOW, Wanted, add_account, add_case, mr_series

LEASE = timedelta(minutes=15)
TUMOUR = Read(finding="tumour", certainty=4, comment=" seen at 2 o'clock ")


def someone(database: Database, name: str = "dr.okafor", role: Role = Role.READER, *more: str) -> Account:
    specialties = ("neuroradiology", *more)
    account_id = add_account(database, name, role=role, specialties=specialties)
    return Account(id=account_id, name=name, role=role, specialties=specialties)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


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
