from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx import Response

from pipeline import membership
from pipeline.dicom.sandbox import Sandbox
from pipeline.store import account_rows, audit_rows, people_rows, second_factor_rows, session_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.people_rows import Person
from tests.reading_room_cases import ORIGIN, PASSWORD, Clock, Desk, make_room, seat, visitor


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(database: Database, tmp_path: Path, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, BlobStore(tmp_path / "blobs"), sandbox, clock)


@pytest.fixture
def admin(app: FastAPI, database: Database) -> Desk:
    return seat(app, database, "ada", role="admin", specialties=())


def person(database: Database, name: str) -> Person:
    with database.read() as connection:
        return people_rows.person_named(connection, name)


def sign_in(app: FastAPI, name: str, password: str) -> Desk:
    desk = visitor(app)
    token = re.search(r'name="csrf_token" value="([^"]+)"', desk.get("/sign-in").text)
    assert token
    desk.post("/sign-in", name=name, password=password, csrf_token=token[1])
    inside = re.search(r'name="csrf_token" value="([^"]+)"', desk.get("/account").text)
    return replace(desk, token=inside[1] if inside else "")


def secret_on(page: Response) -> str:
    found = re.search(r"<code>([^<]+)</code>", page.text)
    assert found
    return found[1]


def events(database: Database) -> list[tuple[str, str, str]]:
    from sqlalchemy import select

    from pipeline.store.tables import audit_event

    with database.read() as connection:
        rows = connection.execute(select(audit_event).order_by(audit_event.c.sequence)).all()
        assert audit_rows.verify_chain(connection) == []
    return [(row.actor, row.event, row.payload) for row in rows]


def test_somebody_is_added_with_a_password_that_is_shown_once_and_works(
    app: FastAPI, database: Database, admin: Desk
) -> None:
    page = admin.post("/people", name="dr.new", role="reader", specialties=["neuroradiology"])
    password = secret_on(page)
    assert len(password) == 20
    assert password not in admin.get("/people").text
    desk = sign_in(app, "dr.new", password)
    assert desk.get("/account").status_code == 200
    assert password not in str(events(database))
    assert person(database, "dr.new").signed_in_at is not None
    assert person(database, "dr.new").specialties == ("neuroradiology",)


def test_a_name_that_is_taken_or_no_name_is_refused_in_words(admin: Desk) -> None:
    assert "exists already" in admin.post("/people", name="ada", role="reader").text
    assert admin.post("/people", name=" ", role="reader").status_code == 422
    assert admin.post("/people", name="x", role="outside").status_code == 422
    assert admin.post("/people", name="x", role="god").status_code == 422


def test_another_role_ends_every_session_and_gives_the_new_rights(
    app: FastAPI, database: Database, admin: Desk
) -> None:
    desk = seat(app, database, "dr.look", role="viewer")
    account = person(database, "dr.look").id
    assert desk.post("/worklist/next").status_code == 403
    assert admin.post(f"/people/{account}/role", role="reader", specialties=["neuroradiology"]).status_code == 303
    assert desk.get("/account").status_code == 303
    again = sign_in(app, "dr.look", PASSWORD)
    assert "Reader" in again.get("/account").text


@pytest.mark.parametrize("what", ["disable", "password", "role"])
def test_what_is_taken_from_an_account_is_taken_from_its_open_sessions(
    app: FastAPI, database: Database, admin: Desk, what: str
) -> None:
    desk = seat(app, database, "dr.out")
    fields = {"role": "viewer"} if what == "role" else {}
    admin.post(f"/people/{person(database, 'dr.out').id}/{what}", **fields)
    assert desk.get("/account").headers["location"] == "/sign-in"
    with database.read() as connection:
        assert session_rows.close_account_sessions(connection, account_id=person(database, "dr.out").id) == 0


def test_an_account_that_was_shut_out_comes_in_again_when_let_in(app: FastAPI, database: Database, admin: Desk) -> None:
    seat(app, database, "dr.back")
    account = person(database, "dr.back").id
    admin.post(f"/people/{account}/disable")
    assert sign_in(app, "dr.back", PASSWORD).get("/account").status_code == 303
    admin.post(f"/people/{account}/enable")
    assert sign_in(app, "dr.back", PASSWORD).get("/account").status_code == 200


def test_a_new_password_shuts_the_old_one_out(app: FastAPI, database: Database, admin: Desk) -> None:
    seat(app, database, "dr.lost")
    fresh = secret_on(admin.post(f"/people/{person(database, 'dr.lost').id}/password"))
    assert sign_in(app, "dr.lost", PASSWORD).get("/account").status_code == 303
    assert sign_in(app, "dr.lost", fresh).get("/account").status_code == 200


def test_nobody_disables_or_demotes_themselves(database: Database, admin: Desk) -> None:
    account = person(database, "ada").id
    for what, fields in (("disable", {}), ("role", {"role": "reader"})):
        refused = admin.post(f"/people/{account}/{what}", **fields)
        assert refused.status_code == 422
        assert "your own account" in refused.text
    assert not person(database, "ada").disabled


def test_the_last_administrator_stays(app: FastAPI, database: Database, clock: Clock) -> None:
    from pipeline.errors import NotAllowed

    seat(app, database, "ada", role="admin")
    seat(app, database, "bob", role="admin")
    ada, bob = person(database, "ada").id, person(database, "bob").id
    membership.set_disabled(database, "command line", bob, disabled=True, now=clock())
    with pytest.raises(NotAllowed, match="last administrator"):
        membership.set_disabled(database, "command line", ada, disabled=True, now=clock())
    with pytest.raises(NotAllowed, match="last administrator"):
        membership.change_role(database, "command line", ada, role="reader", specialties=(), now=clock())


def test_a_person_becomes_no_service_and_a_service_no_person(database: Database, app: FastAPI, admin: Desk) -> None:
    seat(app, database, "dr.human")
    admin.post("/people", name="pacs-board", role="service")
    for name, role in (("dr.human", "service"), ("pacs-board", "reader")):
        assert admin.post(f"/people/{person(database, name).id}/role", role=role).status_code == 422


def test_a_service_never_signs_in_whatever_password_is_tried(app: FastAPI, database: Database, admin: Desk) -> None:
    assert admin.post("/people", name="pacs-board", role="service").is_redirect
    for password in ("!", "", PASSWORD):
        assert sign_in(app, "pacs-board", password).get("/account").status_code == 303
    assert admin.post(f"/people/{person(database, 'pacs-board').id}/password").status_code == 422


def test_everything_that_was_done_is_written_down_without_a_secret(
    app: FastAPI, database: Database, admin: Desk
) -> None:
    password = secret_on(admin.post("/people", name="dr.new", role="reader"))
    account = person(database, "dr.new").id
    admin.post(f"/people/{account}/role", role="viewer")
    fresh = secret_on(admin.post(f"/people/{account}/password"))
    admin.post(f"/people/{account}/disable")
    admin.post(f"/people/{account}/disable")
    admin.post(f"/people/{account}/enable")
    done = events(database)
    assert [event for actor, event, _ in done if actor == "ada"] == [
        "account_created", "account_changed", "password_reset", "account_disabled", "account_enabled",
    ]  # fmt: skip
    assert password not in str(done)
    assert fresh not in str(done)


@pytest.mark.parametrize("path", ["/people/none", "/people/0", "/people/0/disable", "/people/0/tokens/0/revoke"])
def test_an_account_that_does_not_exist_is_said_not_to(admin: Desk, path: str) -> None:
    answer = admin.get(path) if path.count("/") == 2 else admin.post(path)
    assert answer.status_code in {404, 422}


def test_the_account_of_other_systems_is_out_of_reach(app: FastAPI, database: Database, admin: Desk) -> None:
    from pipeline.store.account_rows import outside_account

    with database.transaction() as connection:
        other = outside_account(connection, now=app.state.room.now())
    assert other.name not in admin.get("/people").text
    for what in ("enable", "password", "role"):
        assert admin.post(f"/people/{other.id}/{what}", role="admin").status_code == 404


def test_programs_do_the_same(app: FastAPI, database: Database, admin: Desk) -> None:
    made = admin.send("/api/people", name="dr.api", role="reader", specialties=["neuroradiology"])
    assert made.status_code == 201
    assert sign_in(app, "dr.api", made.json()["secret"]).get("/account").status_code == 200
    account = made.json()["id"]
    own = {"Origin": ORIGIN, "X-CSRF-Token": admin.token}
    changed = admin.client.put(f"/api/people/{account}/role", json={"role": "lead"}, headers=own)
    assert changed.json()["role"] == "lead"
    assert admin.send(f"/api/people/{account}/disable").json()["disabled"] is True
    assert admin.send(f"/api/people/{account}/enable").json()["disabled"] is False
    fresh = admin.send(f"/api/people/{account}/password").json()["secret"]
    assert sign_in(app, "dr.api", fresh).get("/account").status_code == 200
    assert {one["name"] for one in admin.get("/api/people").json()["people"]} == {"ada", "dr.api"}
    assert "password" not in admin.get(f"/api/people/{account}").text
    refused = admin.send("/api/people", name="dr.api", role="reader")
    assert refused.status_code == 422
    assert "exists already" in refused.json()["detail"]
    assert admin.get("/api/people/0").status_code == 404


def test_ones_own_password_is_changed_with_the_current_one_and_ends_other_sessions(
    app: FastAPI, database: Database
) -> None:
    other = seat(app, database, "dr.own")
    desk = sign_in(app, "dr.own", PASSWORD)
    assert other.get("/account").status_code == 200
    wanted = "three quiet llamas"
    for current, new, again in (
        ("wrong current one", wanted, wanted),
        (PASSWORD, wanted, wanted + "x"),
        (PASSWORD, "short", "short"),
        (PASSWORD, "Password12345", "Password12345"),
        (PASSWORD, "abababababab", "abababababab"),
    ):
        assert desk.post("/account/password", current=current, new=new, again=again).status_code == 422
    old = desk.client.cookies["secondread"]
    assert desk.post("/account/password", current=PASSWORD, new=wanted, again=wanted).status_code == 303
    assert desk.client.cookies["secondread"] != old
    assert desk.get("/account").status_code == 200
    assert other.get("/account").status_code == 303
    assert sign_in(app, "dr.own", PASSWORD).get("/account").status_code == 303
    assert sign_in(app, "dr.own", wanted).get("/account").status_code == 200


def test_a_password_is_not_the_name(app: FastAPI, database: Database) -> None:
    desk = seat(app, database, "dr.longishname")
    for new in ("dr.longishname", " DR.LongishName "):
        refused = desk.post("/account/password", current=PASSWORD, new=new, again=new)
        assert refused.status_code == 422
        assert "strangers try" in refused.text


def test_signing_out_everywhere_ends_them_all(app: FastAPI, database: Database) -> None:
    desk, other = seat(app, database, "dr.own"), sign_in(app, "dr.own", PASSWORD)
    stranger = seat(app, database, "dr.else")
    assert desk.get("/account").text.count("another browser") == 1
    assert desk.post("/account/sign-out-everywhere").headers["location"] == "/sign-in"
    assert other.get("/account").status_code == 303
    assert stranger.get("/account").status_code == 200


def test_the_front_door_leads_where_one_may_go(app: FastAPI, database: Database) -> None:
    homes = {"viewer": "/worklist", "lead": "/worklist", "admin": "/people", "data_scientist": "/lead"}
    for role, home in homes.items():
        assert seat(app, database, f"the {role}", role=role).get("/").headers["location"] == home


def test_a_session_of_an_administrator_takes_its_own_account_over_by_no_reset(
    app: FastAPI, database: Database, admin: Desk
) -> None:
    account = person(database, "ada").id
    with database.transaction() as connection:
        second_factor_rows.put_secret(connection, account_id=account, sealed="sealed", step=0)
    own = {"Origin": ORIGIN, "X-CSRF-Token": admin.token}
    for answer in (
        admin.post(f"/people/{account}/password"),
        admin.post(f"/people/{account}/second-factor"),
        admin.send(f"/api/people/{account}/password"),
        admin.client.delete(f"/api/people/{account}/second-factor", headers=own),
    ):
        assert answer.status_code in {403, 422}
        assert "on your account" in answer.text
    page = admin.get(f"/people/{account}").text
    assert "Make a new password" not in page
    assert "Remove the second factor" not in page
    assert person(database, "ada").second_factor
    with database.read() as connection:
        stored = account_rows.find_by_id(connection, account)
    assert account_rows.password_matches(stored, PASSWORD)


@pytest.mark.parametrize(
    "name", ["outside system", "Command  Line", "provider", "\uff53\uff59\uff53\uff54\uff45\uff4d"]
)
def test_nobody_gets_a_name_of_the_house_itself(admin: Desk, name: str) -> None:
    refused = admin.send("/api/people", name=name, role="reader")
    assert refused.status_code == 422
    assert "choose another" in refused.json()["detail"]
