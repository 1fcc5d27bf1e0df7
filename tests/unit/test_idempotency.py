from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pipeline.store import idempotency_rows
from pipeline.store.database import Database
from pipeline.store.idempotency_rows import Ticket
from pipeline.web.etags import is_known, is_matched, tag_of_case
from pipeline.web.idempotency import is_told_once, told_once
from pipeline.web.sound_input import Unsound, _check, read_json
from tests.reading_room_cases import NOW, add_account

SAME, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def ticket(database: Database) -> Ticket:
    return Ticket(account_id=add_account(database), key="k", at=NOW)


def begin(database: Database, ticket: Ticket, digest: str = SAME) -> idempotency_rows.Earlier | None:
    with database.transaction() as connection:
        return idempotency_rows.begin(connection, ticket, request_digest=digest)


def finish(database: Database, ticket: Ticket, body: str | None = "{}") -> None:
    with database.transaction() as connection:
        idempotency_rows.finish(connection, ticket, status=201, headers={"etag": '"x"'}, body=body)


def test_the_first_request_takes_the_key_and_the_second_learns_that_it_is_being_answered(
    database: Database, ticket: Ticket
) -> None:
    assert begin(database, ticket) is None
    second = begin(database, ticket)
    assert second is not None
    assert (second.status, second.request_digest) == (None, SAME)


def test_what_was_answered_is_kept_for_a_day_and_then_forgotten(database: Database, ticket: Ticket) -> None:
    begin(database, ticket)
    finish(database, ticket, '{"read": "1"}')
    later = replace(ticket, at=NOW + timedelta(hours=23, minutes=59))
    found = begin(database, later, OTHER)
    assert found == idempotency_rows.Earlier(
        request_digest=SAME, status=201, headers={"etag": '"x"'}, body='{"read": "1"}'
    )
    assert begin(database, replace(ticket, at=NOW + timedelta(hours=24)), OTHER) is None


def test_a_key_whose_process_died_passes_on_after_a_minute_to_the_same_request_only(
    database: Database, ticket: Ticket
) -> None:
    begin(database, ticket)
    almost, then = replace(ticket, at=NOW + timedelta(seconds=59)), replace(ticket, at=NOW + timedelta(seconds=60))
    assert begin(database, almost) is not None
    assert begin(database, then, OTHER) is not None
    assert begin(database, then) is None
    assert begin(database, replace(then, at=then.at + timedelta(seconds=1))) is not None


def test_the_late_end_of_a_request_that_lost_its_key_changes_nothing(database: Database, ticket: Ticket) -> None:
    begin(database, ticket)
    taker = replace(ticket, at=NOW + timedelta(minutes=2))
    begin(database, taker)
    finish(database, ticket, "late")
    with database.transaction() as connection:
        idempotency_rows.forget(connection, ticket)
    finish(database, taker, "right")
    found = begin(database, taker)
    assert found is not None
    assert found.body == "right"


def test_a_freed_key_can_be_used_for_another_request(database: Database, ticket: Ticket) -> None:
    begin(database, ticket)
    with database.transaction() as connection:
        idempotency_rows.forget(connection, ticket)
    assert begin(database, ticket, OTHER) is None


def test_a_finished_answer_is_never_forgotten_by_its_request(database: Database, ticket: Ticket) -> None:
    begin(database, ticket)
    finish(database, ticket)
    with database.transaction() as connection:
        idempotency_rows.forget(connection, ticket)
    assert begin(database, ticket) is not None


def test_two_accounts_may_use_one_key(database: Database, ticket: Ticket) -> None:
    begin(database, ticket)
    assert begin(database, replace(ticket, account_id=add_account(database, "dr.weiss")), OTHER) is None


def test_an_endpoint_says_that_its_answer_is_told_once() -> None:
    def silent() -> None: ...

    @told_once
    def secret() -> None: ...

    assert is_told_once(secret)
    assert not is_told_once(silent)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"a": "x\\u0000"}', "/a"),
        (b'{"a\\u0000": 1}', ""),
        (b'{"a": ["\\ud800"]}', "/a/0"),
        (b'{"a/b": {"c~d": 9007199254740992}}', "/a~1b/c~0d"),
        (b'{"a": -9007199254740992}', "/a"),
        (b'{"a": 1e400}', "/a"),
        (b'{"a": NaN}', None),
        (b'{"a": -Infinity}', None),
        (b'{"a": 1, "a": 1}', None),
        (b'{"b": {"a": 1, "a": 2}}', None),
        (b"[" * 30_000, None),
        (b"\xff", None),
        (b'{"a": 1} trailing', None),
        (b"9" * 5000, None),
    ],
)
def test_a_body_that_two_programs_may_read_differently_is_refused(body: bytes, pointer: str | None) -> None:
    with pytest.raises(Unsound) as refused:
        _check(read_json(body), "")
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    "body", [b"{}", b"null", b'{"a": 9007199254740991, "b": 1.5, "c": "\\ud83d\\ude00"}', b"[" * 32 + b"]" * 32]
)
def test_a_sound_body_passes(body: bytes) -> None:
    _check(read_json(body), "")


def test_a_body_one_level_too_deep_is_refused() -> None:
    with pytest.raises(Unsound, match="nested"):
        _check(read_json(b"[" * 33 + b"1" + b"]" * 33), "")


@pytest.mark.parametrize(
    ("header", "known", "matched"),
    [
        ('"a"', True, True),
        ('W/"a"', True, False),
        ("*", True, True),
        ('"b", "a"', True, True),
        ('"b",W/"a"', True, False),
        ('"A"', False, False),
        ("a", False, False),
        ("", False, False),
        ('"a', False, False),
    ],
)
def test_tags_are_compared_as_rfc_9110_says(header: str, known: bool, matched: bool) -> None:
    assert is_known(header, '"a"') is known
    assert is_matched(header, '"a"') is matched


def test_the_tag_of_a_case_moves_with_everything_but_the_end_of_the_hold() -> None:
    told = {"fence": 1, "item": {"state": "IN_PROGRESS", "lease_until": "03:15"}, "read": None}
    tag = tag_of_case(told)
    assert tag_of_case(told | {"item": {"state": "IN_PROGRESS", "lease_until": "03:20"}}) == tag
    for change in ({"fence": 2}, {"item": {"state": "COMPLETED", "lease_until": "03:15"}}, {"read": {"id": "1"}}):
        assert tag_of_case(told | change) != tag
