from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import cast
from unittest import mock

import pytest
from fastapi import FastAPI

from pipeline.dicom.sandbox import Sandbox
from pipeline.errors import HaltPipeline
from pipeline.store import account_rows, session_rows
from pipeline.store.account_rows import StoredPassword, create_account, delay_after
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from tests.reading_room_cases import (
    NOW,
    ORIGIN,
    PASSWORD,
    Clock,
    Desk,
    TestClient,
    add_account,
    make_room,
    seat,
    visitor,
)

PAGE = "/account"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(database: Database, tmp_path: Path, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, BlobStore(tmp_path / "blobs"), sandbox, clock)


def token_of(desk: Desk) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', desk.get("/sign-in").text)
    assert found
    return found[1]


def try_to_sign_in(desk: Desk, name: str = "dr.okafor", password: str = PASSWORD) -> int:
    fields = {"name": name, "password": password, "csrf_token": token_of(desk)}
    return desk.client.post("/sign-in", data=fields, headers={"Origin": ORIGIN}).status_code


def test_the_right_password_opens_the_room_and_signing_out_closes_it(app: FastAPI, database: Database) -> None:
    add_account(database)
    desk = visitor(app)
    assert desk.get(PAGE).status_code == 303
    assert try_to_sign_in(desk) == 303
    page = desk.get(PAGE)
    assert page.status_code == 200
    cookie = desk.client.cookies["secondread"]
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert token
    assert desk.post("/sign-out", csrf_token=token[1]).status_code == 303
    desk.client.cookies.set("secondread", cookie)
    assert desk.get(PAGE).status_code == 303


def test_the_cookie_is_http_only_lax_and_stored_as_a_hash(app: FastAPI, database: Database) -> None:
    add_account(database)
    desk = visitor(app)
    fields = {"name": "dr.okafor", "password": PASSWORD, "csrf_token": token_of(desk)}
    answer = desk.client.post("/sign-in", data=fields, headers={"Origin": ORIGIN})
    line = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("secondread="))
    assert "httponly" in line.lower()
    assert "samesite=lax" in line.lower()
    assert "secure" not in line.lower()
    value = line.split("=", 1)[1].split(";")[0]
    assert session_rows.hash_token(value) == hashlib.sha256(value.encode()).hexdigest()
    with database.read() as connection:
        assert session_rows.find_session(
            connection, token=value, now=NOW, idle=timedelta(minutes=1), absolute=timedelta(hours=1)
        )


def test_over_https_the_cookie_is_secure_and_bound_to_the_host(database: Database, tmp_path: Path) -> None:
    add_account(database)
    app = make_room(database, BlobStore(tmp_path / "b"), cast("Sandbox", mock.Mock()), Clock(), https=True)
    desk = visitor(app)
    page = desk.get("/sign-in")
    assert page.headers["strict-transport-security"].startswith("max-age=")
    line = page.headers["set-cookie"]
    assert line.startswith("__Host-secondread-visit=")
    assert "secure" in line.lower()
    assert "path=/" in line.lower()
    assert "domain" not in line.lower()


def test_every_sign_in_gets_another_value_and_ends_the_one_before(app: FastAPI, database: Database) -> None:
    add_account(database)
    desk = visitor(app)
    assert try_to_sign_in(desk) == 303
    first = desk.client.cookies["secondread"]
    assert try_to_sign_in(desk) == 303
    assert desk.client.cookies["secondread"] != first
    stranger = visitor(app)
    stranger.client.cookies.set("secondread", first)
    assert stranger.get(PAGE).status_code == 303


def test_a_session_ends_when_idle_and_when_old(app: FastAPI, database: Database, clock: Clock) -> None:
    idle, absolute = app.state.room.idle, app.state.room.absolute
    lazy = seat(app, database, "lazy")
    clock.advance(seconds=idle.total_seconds() - 1)
    assert lazy.get(PAGE).status_code == 200
    clock.advance(seconds=idle.total_seconds())
    assert lazy.get(PAGE).status_code == 303
    busy = seat(app, database, "busy")
    step = idle.total_seconds() / 2
    for _ in range(int(absolute.total_seconds() / step) - 1):
        clock.advance(seconds=step)
        assert busy.get(PAGE).status_code == 200
    clock.advance(seconds=step)
    assert busy.get(PAGE).status_code == 303


def test_a_disabled_account_is_out_at_once(app: FastAPI, database: Database) -> None:
    desk = seat(app, database)
    assert desk.get(PAGE).status_code == 200
    with database.transaction() as connection:
        assert account_rows.disable_account(connection, name="dr.okafor")
    assert desk.get(PAGE).status_code == 303
    assert try_to_sign_in(visitor(app)) == 401


def test_wrong_passwords_delay_and_never_lock_for_good(app: FastAPI, database: Database, clock: Clock) -> None:
    add_account(database)
    desk = visitor(app)
    for _ in range(6):
        assert try_to_sign_in(desk, password="not the password") == 401
    assert try_to_sign_in(desk) == 401
    clock.advance(seconds=2)
    assert try_to_sign_in(desk) == 303


def test_the_delay_doubles_up_to_its_cap() -> None:
    assert [delay_after(n).total_seconds() for n in (0, 5, 6, 7, 8, 14, 15, 1000)] == [0, 0, 2, 4, 8, 512, 900, 900]


def test_an_unknown_name_costs_a_password_check_and_looks_like_a_wrong_password(
    app: FastAPI, database: Database
) -> None:
    add_account(database)
    desk = visitor(app)
    with mock.patch.object(account_rows, "_hasher", wraps=account_rows._hasher) as hasher:
        assert try_to_sign_in(desk, name="nobody") == 401
        assert hasher.verify.call_count == 1
        assert try_to_sign_in(desk, password="not the password") == 401
        assert hasher.verify.call_count == 2
    fields = {"password": "not the password", "csrf_token": ""}
    pages = []
    for name in ("dr.okafor", "dr.nobody"):
        fields |= {"name": name, "csrf_token": token_of(desk)}
        text = desk.client.post("/sign-in", data=fields, headers={"Origin": ORIGIN}).text
        pages.append(re.sub(r'value="[^"]*"', "", text))
    assert pages[0] == pages[1]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example", None])
def test_signing_in_from_another_page_is_refused(app: FastAPI, database: Database, origin: str | None) -> None:
    add_account(database)
    desk = visitor(app)
    fields = {"name": "dr.okafor", "password": PASSWORD, "csrf_token": token_of(desk)}
    headers = {} if origin is None else {"Origin": origin}
    assert desk.client.post("/sign-in", data=fields, headers=headers).status_code == 403


def test_signing_in_needs_the_token_of_this_visit(app: FastAPI, database: Database) -> None:
    add_account(database)
    token = token_of(visitor(app))
    desk = visitor(app)
    desk.get("/sign-in")
    fields = {"name": "dr.okafor", "password": PASSWORD, "csrf_token": token}
    assert desk.client.post("/sign-in", data=fields, headers={"Origin": ORIGIN}).status_code == 403


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "short"}, "12 to 1024"),
        ({"password": "x" * 1025}, "12 to 1024"),
        ({"role": "god"}, "viewer, reader, adjudicator, lead"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "printable"),
    ],
)
def test_accounts_that_cannot_be_are_refused_with_the_cure(
    database: Database, change: dict[str, str], words: str
) -> None:
    wanted = {"name": "dr.x", "password": PASSWORD, "role": "reader"} | change
    with pytest.raises(HaltPipeline, match=words), database.transaction() as connection:
        create_account(
            connection,
            name=wanted["name"],
            password=wanted["password"],
            role=wanted["role"],
            specialties=[],
            now=NOW,
        )


def test_a_name_is_taken_once_and_passwords_are_argon2id(database: Database) -> None:
    def make() -> None:
        with database.transaction() as connection:
            create_account(connection, name="dr.x", password=PASSWORD, role="reader", specialties=[], now=NOW)

    make()
    with pytest.raises(HaltPipeline, match="exists already"):
        make()
    with database.read() as connection:
        stored = account_rows.find_for_sign_in(connection, "dr.x")
    assert stored is not None
    assert stored.password_hash.startswith("$argon2id$")
    assert account_rows.password_matches(stored, PASSWORD)
    assert not account_rows.password_matches(stored, PASSWORD + " ")


def test_many_guesses_at_one_moment_wait_like_guesses_one_after_the_other(app: FastAPI, database: Database) -> None:
    """The right password comes last of sixteen that were all being hashed before the first of them was judged."""
    add_account(database)
    wrong, gate, judged = 15, threading.Barrier(16), threading.Semaphore(0)

    def slow(_: object, password: str) -> bool:
        gate.wait(20)
        if password == PASSWORD:
            for _ in range(wrong):
                judged.acquire(timeout=20)
        return password == PASSWORD

    def guess(password: str) -> int:
        status = (
            desks.pop()
            .client.post(
                "/sign-in",
                data={"name": "dr.okafor", "password": password, "csrf_token": ""} | tokens.pop(),
                headers=own,
            )
            .status_code
        )
        judged.release()
        return status

    own = {"Origin": ORIGIN}
    desks = [visitor(app) for _ in range(wrong + 1)]
    tokens = [{"csrf_token": token_of(desk)} for desk in desks]
    with mock.patch.object(account_rows, "password_matches", slow), ThreadPoolExecutor(wrong + 1) as many:
        last = many.submit(guess, PASSWORD)
        list(many.map(guess, ["wrong"] * wrong))
        assert last.result() == 401


@pytest.mark.parametrize("change", ["password", "disabled"])
def test_what_changes_while_a_password_is_checked_counts(app: FastAPI, database: Database, change: str) -> None:
    account_id = add_account(database)
    matches = account_rows.password_matches

    def meanwhile(stored: StoredPassword | None, password: str) -> bool:
        right = matches(stored, password)
        with database.transaction() as connection:
            if change == "password":
                account_rows.set_password(connection, account_id=account_id, name="x", password="another long one")
            else:
                account_rows.disable_account(connection, name="dr.okafor")
        return right

    with mock.patch.object(account_rows, "password_matches", meanwhile):
        assert try_to_sign_in(visitor(app)) == 401


def test_an_account_without_a_password_costs_a_password_check_and_takes_none(database: Database) -> None:
    with database.transaction() as connection:
        create_account(connection, name="dr.sso", password=None, role="reader", specialties=[], now=NOW)
        stored = account_rows.find_for_sign_in(connection, "dr.sso")
    with mock.patch.object(account_rows, "_hasher") as hasher:
        hasher.hash.return_value = "the hash of nobody"
        assert not account_rows.password_matches(stored, PASSWORD)
        assert hasher.verify.call_count == 1
        assert hasher.verify.call_args.args[0] != "!"


def test_whoever_waits_too_long_for_a_password_check_is_asked_to_come_again(app: FastAPI, database: Database) -> None:
    add_account(database)
    taken = threading.BoundedSemaphore(2)
    taken.acquire()
    taken.acquire()
    with mock.patch.object(account_rows, "_hashing", taken), mock.patch.object(account_rows, "_LONGEST_WAIT", 0.01):
        assert try_to_sign_in(visitor(app)) == 503
    assert try_to_sign_in(visitor(app)) == 303


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//", "http://localhost]"])
def test_an_origin_that_is_no_address_is_refused(app: FastAPI, origin: str) -> None:
    desk = visitor(app)
    fields = {"name": "dr.okafor", "password": PASSWORD, "csrf_token": token_of(desk)}
    assert desk.client.post("/sign-in", data=fields, headers={"Origin": origin}).status_code == 403


def test_a_house_with_https_takes_no_form_of_the_same_name_without_it(database: Database, tmp_path: Path) -> None:
    app = make_room(database, BlobStore(tmp_path / "b"), cast("Sandbox", mock.Mock()), Clock(), https=True)
    client = TestClient(app, base_url="https://localhost", follow_redirects=False)
    page = client.get("/sign-in").text
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    fields = {"name": "nobody", "password": PASSWORD, "csrf_token": found[1]}
    statuses = [
        client.post("/sign-in", data=fields, headers={"Origin": f"{scheme}://localhost"}).status_code
        for scheme in ("http", "https")
    ]
    assert statuses == [403, 401]
