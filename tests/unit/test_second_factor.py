from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree as ET

import pyotp
import pytest
from fastapi import FastAPI
from httpx import Response
from sqlalchemy import select

from pipeline import membership
from pipeline.dicom.sandbox import Sandbox
from pipeline.errors import RetryLater
from pipeline.store import account_rows, second_factor_rows, session_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.tables import audit_event
from pipeline.web import proving
from pipeline.web.room import Room, RoomKeys
from tests.reading_room_cases import PASSWORD, Clock, Desk, add_account, make_room, seat, visitor

SEALING = bytes(range(32))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(database: Database, tmp_path: Path, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, BlobStore(tmp_path / "blobs"), sandbox, clock, keys=RoomKeys(sealing=SEALING))


@pytest.fixture
def room(app: FastAPI) -> Room:
    room: Room = app.state.room
    return room


def secret_on(desk: Desk) -> str:
    found = re.search(r"<code>([A-Z2-7 ]+)</code>", desk.get("/account/second-factor").text)
    assert found
    return found[1].replace(" ", "")


def enrolled(app: FastAPI, database: Database, clock: Clock, name: str = "dr.okafor") -> str:
    """The secret of a new account with a second factor, whose enrolment lies a minute back."""
    desk = seat(app, database, name)
    secret = secret_on(desk)
    answer = desk.post("/account/second-factor", code=pyotp.TOTP(secret).at(clock()), password=PASSWORD)
    assert answer.status_code == 303
    clock.advance(seconds=60)
    return secret


def token_of(desk: Desk, path: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', desk.get(path).text)
    assert found, path
    return found[1]


def first_page(desk: Desk, name: str = "dr.okafor", password: str = PASSWORD) -> Response:
    return desk.post("/sign-in", name=name, password=password, csrf_token=token_of(desk, "/sign-in"))


def second_page(desk: Desk, code: str) -> Response:
    return desk.post("/sign-in/code", code=code, csrf_token=token_of(desk, "/sign-in/code"))


def events(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(audit_event.c.event).order_by(audit_event.c.sequence)).scalars())


def account_of(database: Database, name: str = "dr.okafor") -> Account:
    with database.read() as connection:
        stored = account_rows.find_for_sign_in(connection, name)
    assert stored is not None
    return stored.account


def test_enrolling_needs_a_first_code_and_the_password_and_begins_the_session_anew(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    desk = seat(app, database)
    secret = secret_on(desk)
    assert len(secret) == 32
    assert secret_on(desk) == secret
    code = pyotp.TOTP(secret).at(clock())
    wrong = f"{(int(code) + 1) % 1_000_000:06}"
    assert desk.post("/account/second-factor", code=wrong, password=PASSWORD).status_code == 422
    assert desk.post("/account/second-factor", code=code, password="not the password").status_code == 422
    assert desk.post("/account/second-factor", code=code, password=code).status_code == 422
    added = desk.post("/account/second-factor", code=code, password=PASSWORD)
    assert added.status_code == 303
    assert desk.client.cookies.get("secondread", domain="") != added.cookies["secondread"]
    anew = visitor(app)
    anew.client.cookies.set("secondread", added.cookies["secondread"])
    assert "<dd>on</dd>" in anew.get("/account").text
    assert secret_on(anew) != secret
    stranger = visitor(app)
    stranger.client.cookies.set("secondread", desk.client.cookies.get("secondread", domain="") or "")
    assert stranger.get("/account").status_code == 303


def test_the_picture_is_an_svg_without_style_of_its_own_and_holds_what_the_key_says(
    app: FastAPI, database: Database
) -> None:
    import io

    import segno

    desk = seat(app, database)
    secret = secret_on(desk)
    picture = desk.get("/account/second-factor.svg")
    assert picture.headers["content-type"] == "image/svg+xml"
    root = ET.fromstring(picture.content)
    assert not any("style" in element.attrib for element in root.iter())
    uri = f"otpauth://totp/secondread:dr.okafor?secret={secret}&issuer=secondread"
    expected = io.BytesIO()
    segno.make(uri, error="m", micro=False).save(expected, kind="svg", scale=5, border=3, dark="#000", light="#fff")
    assert picture.content == expected.getvalue()


def test_the_secret_lies_sealed_in_the_database_and_opens_for_its_account_only(
    app: FastAPI, database: Database, clock: Clock, room: Room
) -> None:
    secret = enrolled(app, database, clock)
    who = account_of(database)
    with database.read() as connection:
        sealed = second_factor_rows.sealed_secret(connection, who.id)
    assert sealed is not None
    assert secret not in sealed
    assert proving.unseal(room, sealed, purpose=proving.secret_purpose(who.id)) == secret.encode()
    assert proving.unseal(room, sealed, purpose=proving.secret_purpose("another")) is None
    assert proving.unseal(replace(room, keys=RoomKeys(sealing=b"o" * 32)), sealed, purpose="x") is None
    other = seat(app, database, "dr.mole")
    with database.transaction() as connection:
        second_factor_rows.put_secret(connection, account_id=account_of(database, "dr.mole").id, sealed=sealed, step=0)
    assert not proving.proves(room, account_of(database, "dr.mole"), pyotp.TOTP(secret).at(clock()))
    assert other.get("/account").status_code == 200


def test_password_and_code_open_the_room_and_the_password_alone_does_not(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    secret = enrolled(app, database, clock)
    desk = visitor(app)
    assert first_page(desk).headers["location"] == "/sign-in/code"
    assert "secondread" not in desk.client.cookies
    assert desk.get("/account").headers["location"] == "/sign-in"
    assert second_page(desk, pyotp.TOTP(secret).at(clock())).headers["location"] == "/"
    assert desk.get("/account").status_code == 200


def test_the_second_page_comes_and_refuses_alike_whether_or_not_the_password_was_right(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    secret = enrolled(app, database, clock)
    code = pyotp.TOTP(secret).at(clock())
    seen = []
    for password, tried in ((PASSWORD, "000000"), ("not the password", code), ("not the password", "000000")):
        desk = visitor(app)
        first = first_page(desk, password=password)
        cookie = desk.client.cookies["secondread-first-page"]
        asked = re.sub(r'value="[^"]*"', "", desk.get("/sign-in/code").text)
        last = second_page(desk, tried)
        refused = re.sub(r'value="[^"]*"', "", last.text)
        seen.append((first.status_code, first.headers["location"], len(cookie), asked, last.status_code, refused))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][4] == 401


def test_names_that_nobody_has_come_to_the_second_page_too_always_the_same_ones(app: FastAPI) -> None:
    came = {}
    for name in [f"nobody {number}" for number in range(12)]:
        answers = {first_page(visitor(app), name=name).status_code for _ in range(2)}
        assert len(answers) == 1
        came[name] = answers.pop()
    assert set(came.values()) == {303, 401}
    name = next(name for name, status in came.items() if status == 303)
    desk = visitor(app)
    first_page(desk, name=name)
    assert second_page(desk, "123456").status_code == 401


def test_no_code_works_twice_nor_an_older_one_after_a_newer(app: FastAPI, database: Database, clock: Clock) -> None:
    secret = enrolled(app, database, clock)
    older, newer = pyotp.TOTP(secret).at(clock()), pyotp.TOTP(secret).at(int(clock().timestamp()) + 30)
    desk = visitor(app)
    first_page(desk)
    assert second_page(desk, newer).status_code == 303
    for code in (newer, older):
        again = visitor(app)
        first_page(again)
        assert second_page(again, code).status_code == 401


def test_the_code_of_the_enrolment_does_not_open_the_room(app: FastAPI, database: Database, clock: Clock) -> None:
    desk = seat(app, database)
    code = pyotp.TOTP(secret_on(desk)).at(clock())
    assert desk.post("/account/second-factor", code=code, password=PASSWORD).status_code == 303
    again = visitor(app)
    first_page(again)
    assert second_page(again, code).status_code == 401


@pytest.mark.parametrize(("seconds", "opens"), [(-31, False), (-30, True), (0, True), (59, True), (60, False)])
def test_a_code_counts_one_step_around_its_own(
    app: FastAPI, database: Database, clock: Clock, seconds: int, opens: bool
) -> None:
    secret = enrolled(app, database, clock)
    clock.advance(seconds=300 - clock().timestamp() % 30)
    code = pyotp.TOTP(secret).at(int(clock().timestamp()) + seconds)
    desk = visitor(app)
    first_page(desk)
    assert (second_page(desk, code).status_code == 303) is opens


def test_wrong_codes_delay_like_wrong_passwords_and_a_right_password_forgives_none_of_them(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    secret = enrolled(app, database, clock)
    for _ in range(6):
        desk = visitor(app)
        first_page(desk)
        assert second_page(desk, "000000").status_code == 401
    desk = visitor(app)
    first_page(desk)
    assert second_page(desk, pyotp.TOTP(secret).at(clock())).status_code == 401
    clock.advance(seconds=31)
    desk = visitor(app)
    first_page(desk)
    assert second_page(desk, pyotp.TOTP(secret).at(clock())).status_code == 303


def test_the_second_page_opens_only_from_the_first_and_for_five_minutes(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    secret = enrolled(app, database, clock)
    desk = visitor(app)
    assert desk.get("/sign-in/code").headers["location"] == "/sign-in"
    first_page(desk)
    token = token_of(desk, "/sign-in/code")
    clock.advance(minutes=5)
    assert desk.post("/sign-in/code", code=pyotp.TOTP(secret).at(clock()), csrf_token=token).status_code == 401
    invented = visitor(app)
    invented.client.cookies.set("secondread-first-page", "A" * 200)
    assert invented.get("/sign-in/code").headers["location"] == "/sign-in"


def test_a_password_that_was_changed_after_the_first_page_opens_nothing(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    secret = enrolled(app, database, clock)
    desk = visitor(app)
    first_page(desk)
    who = account_of(database)
    membership.reset_password(database, actor="ada", account_id=who.id, now=clock())
    assert second_page(desk, pyotp.TOTP(secret).at(clock())).status_code == 401


def test_the_second_page_needs_its_own_token_and_origin(app: FastAPI, database: Database, clock: Clock) -> None:
    secret = enrolled(app, database, clock)
    desk = visitor(app)
    first_page(desk)
    code = pyotp.TOTP(secret).at(clock())
    assert desk.post("/sign-in/code", code=code, csrf_token="x").status_code == 403
    fields = {"code": code, "csrf_token": token_of(desk, "/sign-in/code")}
    evil = desk.client.post("/sign-in/code", data=fields, headers={"Origin": "http://evil.example"})
    assert evil.status_code == 403


def test_an_administrator_takes_a_lost_second_factor_away(app: FastAPI, database: Database, clock: Clock) -> None:
    enrolled(app, database, clock)
    admin = seat(app, database, "ada", role="admin")
    assert admin.post(f"/people/{account_of(database).id}/second-factor").status_code == 303
    assert first_page(visitor(app)).headers["location"] == "/"


def test_one_does_without_after_proving_who_one_is(app: FastAPI, database: Database, clock: Clock) -> None:
    secret = enrolled(app, database, clock)
    desk = visitor(app)
    first_page(desk)
    second_page(desk, pyotp.TOTP(secret).at(clock()))
    page = desk.get("/account/second-factor").text
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert token
    assert desk.post("/account/second-factor/remove", secret="wrong", csrf_token=token[1]).status_code == 422
    assert desk.post("/account/second-factor/remove", secret=PASSWORD, csrf_token=token[1]).status_code == 303
    assert first_page(visitor(app)).headers["location"] == "/"


def test_a_house_without_the_key_offers_none_and_lets_nobody_with_one_in(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    secret = enrolled(app, database, clock)
    desk = seat(app, database, "dr.other")
    who = account_of(database)
    keyless = replace(app.state.room, keys=RoomKeys())
    assert not proving.proves(keyless, who, pyotp.TOTP(secret).at(clock()))
    app.state.room = keyless
    assert desk.get("/account/second-factor").status_code == 403
    assert "second-factor" not in desk.get("/account").text
    assert first_page(visitor(app)).status_code != 303


def test_proving_takes_the_password_or_an_unused_code_and_counts_what_is_neither(
    app: FastAPI, database: Database, clock: Clock, room: Room
) -> None:
    secret = enrolled(app, database, clock)
    who, code = account_of(database), pyotp.TOTP(secret).at(clock())
    assert proving.proves(room, who, PASSWORD)
    assert proving.proves(room, who, f" {code[:3]} {code[3:]} ")
    assert not proving.proves(room, who, code)
    for _ in range(4):
        assert not proving.proves(room, who, "neither")
    assert not proving.proves(room, who, PASSWORD)  # five were wrong, the used code among them
    clock.advance(seconds=29)
    assert not proving.proves(room, who, PASSWORD)
    clock.advance(seconds=1)
    for _ in range(7):  # what is right costs nothing
        assert proving.proves(room, who, PASSWORD)
    assert [event for event in events(database) if event == "proof.refused"] == ["proof.refused"] * 5


def test_guesses_at_the_door_keep_nobody_from_proving_who_they_are(
    app: FastAPI, database: Database, room: Room
) -> None:
    add_account(database)
    for _ in range(8):
        assert first_page(visitor(app), password="not the password").status_code == 401
    assert first_page(visitor(app)).status_code == 401
    assert proving.proves(room, account_of(database), PASSWORD)
    assert first_page(visitor(app)).status_code == 401  # and proving forgives nothing at the door


def test_guesses_at_one_moment_are_no_more_than_guesses_one_after_the_other(
    database: Database, app: FastAPI, room: Room
) -> None:
    add_account(database)
    who, gate, tried = account_of(database), threading.Barrier(12), []

    def slow(_: object, __: str) -> bool:
        tried.append(1)
        return False

    def guess() -> None:
        gate.wait()
        assert not proving.proves(room, who, "wrong")

    with mock.patch.object(account_rows, "password_matches", slow):
        guesses = [threading.Thread(target=guess) for _ in range(12)]
        for one in guesses:
            one.start()
        for one in guesses:
            one.join()
    assert len(tried) == 5


def test_what_nobody_came_to_judge_is_no_wrong_attempt(database: Database, app: FastAPI, room: Room) -> None:
    add_account(database)
    who = account_of(database)
    with mock.patch.object(account_rows, "password_matches", side_effect=RetryLater("busy")):
        for _ in range(9):
            with pytest.raises(RetryLater):
                proving.proves(room, who, PASSWORD)
    assert proving.proves(room, who, PASSWORD)


def vouched_for(app: FastAPI, database: Database, who: Account | None = None) -> tuple[Desk, Account]:
    """A session of somebody who has no password here, as it is just after their sign-in at the provider."""
    room: Room = app.state.room
    who = who or membership.admit(
        database, subject="s" * 64, names=["dr.sso"], role=Role.READER, specialties=(), now=room.now()
    )
    with database.transaction() as connection:
        cookie = session_rows.open_session(connection, account_id=who.id, now=room.now())
    desk = visitor(app)
    desk.client.cookies.set("secondread", cookie)
    return replace(desk, token=token_of(desk, "/account")), who


def test_whom_the_provider_vouches_for_replaces_the_second_factor_with_a_code_of_the_old_one_only(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    desk, who = vouched_for(app, database)
    old = secret_on(desk)
    assert desk.post("/account/second-factor", code=pyotp.TOTP(old).at(clock())).status_code == 303
    clock.advance(minutes=1)
    desk, _ = vouched_for(app, database, who)
    new = secret_on(desk)
    assert "A code of your present authenticator" in desk.get("/account/second-factor").text
    with database.read() as connection:
        before = second_factor_rows.sealed_secret(connection, who.id)
    code = pyotp.TOTP(new).at(clock())
    for proof in ("", "000000", code):
        assert desk.post("/account/second-factor", code=code, password=proof).status_code == 422
    with database.read() as connection:
        assert second_factor_rows.sealed_secret(connection, who.id) == before
    right = pyotp.TOTP(old).at(clock())
    assert desk.post("/account/second-factor", code=code, password=right).status_code == 303


@pytest.mark.parametrize(("minutes", "status"), [(9, 303), (10, 403)])
def test_whom_the_provider_vouches_for_adds_a_second_factor_soon_after_signing_in_only(
    app: FastAPI, database: Database, clock: Clock, minutes: int, status: int
) -> None:
    desk, _ = vouched_for(app, database)
    clock.advance(minutes=minutes)
    answer = desk.post("/account/second-factor", code=pyotp.TOTP(secret_on(desk)).at(clock()))
    assert answer.status_code == status
    assert ("ign in again and come back" in answer.text) is (status == 403)


def test_an_account_with_a_second_factor_stays_shut_while_the_house_has_no_key_for_it(
    app: FastAPI, database: Database, clock: Clock
) -> None:
    enrolled(app, database, clock)
    app.state.room = replace(app.state.room, keys=RoomKeys())
    desk = visitor(app)
    assert first_page(desk).status_code == 401
    assert "secondread" not in desk.client.cookies


def test_proving_is_not_for_an_account_that_was_shut_out(app: FastAPI, database: Database, room: Room) -> None:
    add_account(database)
    who = account_of(database)
    with database.transaction() as connection:
        account_rows.disable_account(connection, name=who.name)
    assert not proving.proves(room, who, PASSWORD)
