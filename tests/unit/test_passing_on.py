from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select

from pipeline import claiming, review
from pipeline.errors import NotAllowed, StaleClaim
from pipeline.review import Read
from pipeline.store import account_rows, audit_rows, worklist_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.handover_rows import PauseReason
from pipeline.store.line_rows import Show
from pipeline.store.tables import worklist_item
from tests.reading_room_cases import NOW, PRIORITY, Wanted, add_account, add_case

LEASE = timedelta(minutes=15)
TUMOUR = Read(finding="tumour", certainty=4)


def someone(database: Database, name: str = "dr.okafor", role: Role = Role.READER, *more: str) -> Account:
    specialties = ("neuroradiology", *more)
    account_id = add_account(database, name, role=role, specialties=specialties)
    return Account(id=account_id, name=name, role=role, specialties=specialties)


def order(database: Database, reader: Account, show: Show = Show.ALL) -> list[str]:
    return [line.case_id for line in claiming.open_worklist(database, reader, show, now=NOW).lines]


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


def rows_of(database: Database, case_id: str) -> list[Row[Any]]:
    query = select(worklist_item).where(worklist_item.c.case_id == case_id).order_by(worklist_item.c.round)
    with database.read() as connection:
        return list(connection.execute(query))


def next_case(database: Database, reader: Account, *, now: datetime = NOW) -> str | None:
    claim = claiming.claim_next(database, reader, lease=LEASE, now=now)
    return None if claim is None else claim.case_id


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_the_holder_hands_a_case_to_a_colleague_who_takes_it_first(database: Database, blobs: BlobStore) -> None:
    giver, colleague, third = someone(database), someone(database, "dr.weiss"), someone(database, "dr.third")
    case_id = add_case(database, blobs, Wanted())
    pressing = add_case(database, blobs, PRIORITY)
    claim = claiming.claim_case(database, giver, case_id, lease=LEASE, now=NOW)
    until = claiming.hand_over(database, giver, case_id, "dr.weiss", fence=claim.fence, now=NOW)
    assert until == NOW + timedelta(minutes=60)
    with pytest.raises(StaleClaim):
        review.commit_read(database, giver, case_id, claim.fence, TUMOUR, now=NOW)
    (line,) = claiming.open_worklist(database, colleague, Show.MINE, now=NOW).lines
    assert (line.case_id, line.offered_by_name, line.is_handed_over(NOW)) == (case_id, "dr.okafor", True)
    assert next_case(database, third) == pressing
    assert next_case(database, third) is None
    assert next_case(database, colleague) == case_id
    assert rows_of(database, case_id)[0].offered_to is None


def test_a_reservation_ends_with_its_hour_or_when_the_case_is_due(database: Database, blobs: BlobStore) -> None:
    giver, third = someone(database), someone(database, "dr.third")
    someone(database, "dr.weiss")
    due_soon = add_case(database, blobs, Wanted(age=timedelta(hours=3, minutes=40)))
    claim = claiming.claim_case(database, giver, due_soon, lease=LEASE, now=NOW)
    until = claiming.hand_over(database, giver, due_soon, "dr.weiss", fence=claim.fence, now=NOW)
    assert until == NOW + timedelta(minutes=20)
    assert next_case(database, third, now=until - timedelta(seconds=1)) is None
    assert next_case(database, third, now=until) == due_soon


def test_who_asks_for_a_case_that_was_handed_to_another_has_it_all_the_same(
    database: Database, blobs: BlobStore
) -> None:
    giver, third = someone(database), someone(database, "dr.third")
    someone(database, "dr.weiss")
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, giver, case_id, lease=LEASE, now=NOW)
    claiming.hand_over(database, giver, case_id, "dr.weiss", fence=claim.fence, now=NOW)
    assert next_case(database, third) is None
    assert claiming.claim_case(database, third, case_id, lease=LEASE, now=NOW).case_id == case_id


def test_an_overdue_case_is_reserved_for_ten_minutes_alone(database: Database, blobs: BlobStore) -> None:
    giver = someone(database)
    someone(database, "dr.weiss")
    case_id = add_case(database, blobs, Wanted(age=timedelta(hours=5)))
    claim = claiming.claim_case(database, giver, case_id, lease=LEASE, now=NOW)
    until = claiming.hand_over(database, giver, case_id, "dr.weiss", fence=claim.fence, now=NOW)
    assert until == NOW + timedelta(minutes=10)


def test_a_lead_takes_a_case_from_its_holder_whose_fence_dies(database: Database, blobs: BlobStore) -> None:
    holder, colleague = someone(database), someone(database, "dr.weiss")
    lead = someone(database, "dr.lead", Role.LEAD)
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, holder, case_id, lease=LEASE, now=NOW)
    with pytest.raises(NotAllowed):
        claiming.hand_over(database, colleague, case_id, "dr.okafor", now=NOW)
    claiming.hand_over(database, lead, case_id, "dr.weiss", now=NOW)
    for write in (
        lambda: review.commit_read(database, holder, case_id, claim.fence, TUMOUR, now=NOW),
        lambda: claiming.extend_claim(database, holder, case_id, claim.fence, lease=LEASE, now=NOW),
        lambda: claiming.hand_over(database, holder, case_id, "dr.weiss", fence=claim.fence, now=NOW),
    ):
        with pytest.raises(StaleClaim):
            write()
    assert next_case(database, colleague) == case_id
    with database.read() as connection:
        assert audit_rows.verify_chain(connection) == []


def test_a_case_is_handed_only_to_who_may_read_it(database: Database, blobs: BlobStore) -> None:
    giver = someone(database)
    someone(database, "dr.look", Role.VIEWER)
    add_account(database, "dr.chest", specialties=("chest",))
    add_account(database, "dr.gone", specialties=("neuroradiology",))
    with database.transaction() as connection:
        account_rows.disable_account(connection, name="dr.gone")
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, giver, case_id, lease=LEASE, now=NOW)
    for name in ("dr.look", "dr.chest", "dr.gone", "dr.okafor", "nobody"):
        with pytest.raises(NotAllowed):
            claiming.hand_over(database, giver, case_id, name, fence=claim.fence, now=NOW)
    review.commit_read(database, giver, case_id, claim.fence, TUMOUR, now=NOW)


def test_handing_a_second_read_to_its_first_reader_tells_nothing_and_holds_nobody_up(
    database: Database, blobs: BlobStore
) -> None:
    first, second, third = someone(database), someone(database, "dr.weiss"), someone(database, "dr.third")
    case_id = add_case(database, blobs, Wanted())
    reads_of(database, case_id, first)
    ask_again(database, case_id)
    assert {one.name for one in claiming.colleagues(database, second, "neuroradiology")} == {"dr.okafor", "dr.third"}
    claim = claiming.claim_case(database, second, case_id, lease=LEASE, now=NOW)
    claiming.hand_over(database, second, case_id, "dr.okafor", fence=claim.fence, now=NOW)
    assert order(database, first, Show.MINE) == []
    assert claiming.open_worklist(database, first, Show.MINE, now=NOW).counts["mine"] == 0
    assert next_case(database, first) is None
    assert next_case(database, third) is None
    assert claiming.claim_case(database, third, case_id, lease=LEASE, now=NOW).case_id == case_id


def test_a_paused_case_is_left_by_take_next_until_its_time_and_can_be_claimed(
    database: Database, blobs: BlobStore
) -> None:
    reader, colleague = someone(database), someone(database, "dr.weiss")
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    asked = NOW + timedelta(hours=1)
    until = claiming.pause_case(
        database, reader, case_id, claim.fence, PauseReason.PRIORS_AWAITED, until=asked, now=NOW
    )
    assert until == asked
    with pytest.raises(StaleClaim):
        review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=NOW)
    assert next_case(database, colleague) is None
    (line,) = claiming.open_worklist(database, colleague, Show.ALL, now=NOW).lines
    assert (line.pause_reason, line.is_paused(NOW)) == ("PRIORS_AWAITED", True)
    assert next_case(database, colleague, now=until) == case_id
    with database.read() as connection:
        assert audit_rows.verify_chain(connection) == []


def test_anybody_may_claim_a_paused_case_or_put_it_back(database: Database, blobs: BlobStore) -> None:
    reader, colleague = someone(database), someone(database, "dr.weiss")
    case_id = add_case(database, blobs, Wanted())
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    claiming.pause_case(database, reader, case_id, claim.fence, PauseReason.TECHNICAL, now=NOW)
    claiming.resume_case(database, colleague, case_id, now=NOW)
    assert next_case(database, colleague) == case_id
    with pytest.raises(StaleClaim):
        claiming.resume_case(database, colleague, case_id, now=NOW)
    again = claiming.claim_case(database, colleague, case_id, lease=LEASE, now=NOW)
    claiming.pause_case(database, colleague, case_id, again.fence, PauseReason.TECHNICAL, now=NOW)
    claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    assert rows_of(database, case_id)[0].paused_until is None


@pytest.mark.parametrize(
    ("wait", "asked", "end"),
    [
        (timedelta(hours=4), None, timedelta(hours=3, minutes=30)),
        (timedelta(hours=4), timedelta(hours=9), timedelta(hours=3, minutes=30)),
        (timedelta(days=9), None, timedelta(hours=24)),
        (timedelta(days=9), timedelta(days=2), timedelta(hours=24)),
    ],
)
def test_a_pause_ends_when_the_case_is_due_or_after_a_day(
    database: Database, blobs: BlobStore, wait: timedelta, asked: timedelta | None, end: timedelta
) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted(wait=wait))
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    until = claiming.pause_case(
        database,
        reader,
        case_id,
        claim.fence,
        PauseReason.SECOND_OPINION,
        until=None if asked is None else NOW + asked,
        now=NOW,
    )
    assert until == NOW + end


def test_an_overdue_case_cannot_be_put_aside_and_stays_held(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    case_id = add_case(database, blobs, Wanted(age=timedelta(hours=5)))
    claim = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    with pytest.raises(NotAllowed, match="overdue"):
        claiming.pause_case(database, reader, case_id, claim.fence, PauseReason.TECHNICAL, now=NOW)
    review.commit_read(database, reader, case_id, claim.fence, TUMOUR, now=NOW)


def test_a_stale_fence_neither_pauses_nor_hands_over(database: Database, blobs: BlobStore) -> None:
    reader = someone(database)
    someone(database, "dr.weiss")
    case_id = add_case(database, blobs, Wanted())
    old = claiming.claim_case(database, reader, case_id, lease=LEASE, now=NOW)
    after = NOW + LEASE
    for write in (
        lambda: claiming.pause_case(database, reader, case_id, old.fence, PauseReason.TECHNICAL, now=after),
        lambda: claiming.hand_over(database, reader, case_id, "dr.weiss", fence=old.fence, now=after),
    ):
        with pytest.raises(StaleClaim):
            write()
    row = rows_of(database, case_id)[0]
    assert (row.paused_until, row.offered_to) == (None, None)
