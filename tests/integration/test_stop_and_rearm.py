"""Stopping takes one person and arming two, whatever they do, however fast, on both databases."""

import threading
from datetime import timedelta

import pytest

from pipeline import membership, oversight
from pipeline.dicom.sandbox import Sandbox
from pipeline.errors import NotAllowed, UnfinishedRead
from pipeline.store import account_rows, audit_rows, notice_rows, safe_state_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from tests.reading_room_cases import NOW, Clock, add_account, make_room, seat

WHY = "two findings were missed this week"
BANNER = 'class="stopped"'
WELL = "the threshold was mended and checked"


def person(database, name, role="lead"):
    account_id = add_account(database, name, role=role, specialties=())
    return Account(id=account_id, name=name, role=Role(role), specialties=())


def is_safe(database):
    with database.read() as connection:
        return safe_state_rows.is_safe(connection)


def test_one_person_stops_and_who_and_why_stay_on_record(database):
    number = oversight.stop(database, person(database, "ann"), WHY, now=NOW)

    assert is_safe(database)
    with database.read() as connection:
        (switch,) = safe_state_rows.history(connection, limit=9)
        assert (switch.sequence, switch.actor, switch.reason) == (number, "ann", WHY)
        (notice,) = notice_rows.newest(connection, limit=9)
        assert notice.content == {"on": True, "actor": "ann", "path": "/lead"}
        assert audit_rows.verify_chain(connection) == []


@pytest.mark.parametrize("reason", ["", "because", " " * 40])
def test_a_stop_without_a_reason_is_refused(database, reason):
    with pytest.raises(UnfinishedRead, match="10 characters"):
        oversight.stop(database, person(database, "ann"), reason, now=NOW)
    assert not is_safe(database)


def test_two_different_people_arm_again_and_the_second_does_it(database):
    ann, bob = person(database, "ann"), person(database, "bob", "admin")
    oversight.stop(database, ann, WHY, now=NOW)

    first = oversight.ask_to_rearm(database, ann, WELL, now=NOW + timedelta(minutes=1))
    assert (first.armed, is_safe(database)) == (False, True)
    second = oversight.ask_to_rearm(database, bob, WELL, now=NOW + timedelta(minutes=2))

    assert (second.armed, second.people, is_safe(database)) == (True, ("ann", "bob"), False)
    with database.read() as connection:
        assert safe_state_rows.history(connection, limit=1)[0].actor == "ann and bob"
        assert len(notice_rows.newest(connection, limit=9)) == 2


def test_one_person_twice_is_one_person(database):
    ann = person(database, "ann")
    oversight.stop(database, ann, WHY, now=NOW)
    oversight.ask_to_rearm(database, ann, WELL, now=NOW)

    with pytest.raises(NotAllowed, match="second person"):
        oversight.ask_to_rearm(database, ann, WELL, now=NOW)
    assert is_safe(database)


def test_a_request_for_an_older_stop_does_not_count(database):
    ann, bob = person(database, "ann"), person(database, "bob")
    oversight.stop(database, ann, WHY, now=NOW)
    oversight.ask_to_rearm(database, ann, WELL, now=NOW)
    oversight.stop(database, bob, "another finding was missed", now=NOW)

    assert not oversight.ask_to_rearm(database, bob, WELL, now=NOW).armed
    assert is_safe(database)
    assert oversight.ask_to_rearm(database, ann, WELL, now=NOW).armed


@pytest.mark.parametrize("lost", ["disabled", "demoted"])
def test_a_request_of_somebody_who_may_not_ask_any_more_does_not_count(database, lost):
    from sqlalchemy import update

    from pipeline.store.tables import account

    ann, bob = person(database, "ann"), person(database, "bob")
    oversight.stop(database, ann, WHY, now=NOW)
    oversight.ask_to_rearm(database, ann, WELL, now=NOW)
    with database.transaction() as connection:
        change = {"disabled": True} if lost == "disabled" else {"role": "viewer"}
        connection.execute(update(account).where(account.c.id == ann.id).values(**change))

    assert not oversight.ask_to_rearm(database, bob, WELL, now=NOW).armed
    assert is_safe(database)


@pytest.mark.parametrize("role", ["viewer", "reader", "adjudicator", "data_scientist"])
def test_nobody_else_stops_or_arms(database, role):
    somebody = person(database, "eve", role)

    with pytest.raises(NotAllowed):
        oversight.stop(database, somebody, WHY, now=NOW)
    with pytest.raises(NotAllowed):
        oversight.ask_to_rearm(database, somebody, WELL, now=NOW)


def test_nothing_is_armed_that_was_not_stopped(database):
    with pytest.raises(NotAllowed, match="nothing to arm"):
        oversight.ask_to_rearm(database, person(database, "ann"), WELL, now=NOW)


def test_two_requests_at_the_same_moment_arm_once(database):
    people = [person(database, "ann"), person(database, "bob")]
    for number in range(8):
        oversight.stop(database, people[0], WHY, now=NOW)
        gate, done = threading.Barrier(2), []

        def ask(who, gate=gate, done=done):
            gate.wait()
            done.append(oversight.ask_to_rearm(database, who, WELL, now=NOW).armed)

        threads = [threading.Thread(target=ask, args=(who,)) for who in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == [False, True], number
        assert not is_safe(database)
    with database.read() as connection:
        assert audit_rows.verify_chain(connection) == []


def test_one_person_at_the_same_moment_in_two_windows_is_one_person(database):
    ann = person(database, "ann")
    oversight.stop(database, ann, WHY, now=NOW)
    gate, done = threading.Barrier(2), []

    def ask():
        gate.wait()
        try:
            done.append(oversight.ask_to_rearm(database, ann, WELL, now=NOW).armed)
        except NotAllowed:
            done.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, done)) == ["False", "refused"]
    assert is_safe(database)


def test_two_long_names_are_both_told_and_fit(database):
    ann, bob = person(database, "a" * 64), person(database, "b" * 64)
    oversight.stop(database, ann, WHY, now=NOW)
    oversight.ask_to_rearm(database, ann, WELL, now=NOW)
    oversight.ask_to_rearm(database, bob, WELL, now=NOW + timedelta(minutes=1))

    with database.read() as connection:
        actor = safe_state_rows.history(connection, limit=1)[0].actor
    assert "aaa and bbb" in actor
    assert len(actor) <= 64


def later(**step):
    return NOW + timedelta(**step)


def test_an_account_made_after_the_stop_is_no_second_person_even_after_another_stop(database):
    ada = person(database, "ada", "admin")
    oversight.stop(database, ada, WHY, now=NOW)
    made = membership.add_person(
        database, actor="ada", name="puppet", role="lead", specialties=(), now=later(minutes=1)
    )
    puppet = Account(id=made.id, name="puppet", role=Role.LEAD, specialties=())
    oversight.stop(database, ada, WHY, now=later(minutes=2))
    oversight.ask_to_rearm(database, ada, WELL, now=later(minutes=3))

    with pytest.raises(NotAllowed, match="since automation stopped"):
        oversight.ask_to_rearm(database, puppet, WELL, now=later(minutes=4))
    assert is_safe(database)
    assert oversight.ask_to_rearm(database, puppet, WELL, now=later(days=8)).armed


@pytest.mark.parametrize("change", ["password", "role", "let in"])
def test_an_account_that_an_administrator_took_over_after_the_stop_is_no_second_person(database, change):
    ada, bob = person(database, "ada", "admin"), person(database, "bob")
    if change == "let in":
        membership.set_disabled(database, ada, bob.id, disabled=True, now=NOW - timedelta(hours=1))
    oversight.stop(database, ada, WHY, now=NOW)
    oversight.ask_to_rearm(database, ada, WELL, now=later(minutes=1))
    {
        "password": lambda: membership.reset_password(database, actor=ada, account_id=bob.id, now=later(minutes=2)),
        "role": lambda: membership.change_role(
            database, ada, bob.id, role="lead", specialties=("neuroradiology",), now=later(minutes=2)
        ),
        "let in": lambda: membership.set_disabled(database, ada, bob.id, disabled=False, now=later(minutes=2)),
    }[change]()

    with pytest.raises(NotAllowed, match="since automation stopped"):
        oversight.ask_to_rearm(database, bob, WELL, now=later(minutes=3))
    assert is_safe(database)
    assert oversight.ask_to_rearm(database, person(database, "eve"), WELL, now=later(minutes=4)).armed


def test_what_was_done_to_an_account_before_the_stop_does_not_count(database):
    ada, bob = person(database, "ada", "admin"), person(database, "bob")
    membership.reset_password(database, actor=ada, account_id=bob.id, now=NOW - timedelta(minutes=1))
    oversight.stop(database, ada, WHY, now=NOW)
    oversight.ask_to_rearm(database, ada, WELL, now=later(minutes=1))
    assert oversight.ask_to_rearm(database, bob, WELL, now=later(minutes=1)).armed


@pytest.fixture
def room(database, tmp_path):
    with Sandbox() as sandbox:
        yield make_room(database, BlobStore(tmp_path / "blobs"), sandbox, Clock())


def test_the_pages_stop_and_arm_and_every_page_tells(room, database):
    ann, bob = (seat(room, database, name, role="lead") for name in ("ann", "bob"))
    eve = seat(room, database, "eve", role="viewer")
    assert BANNER not in eve.get("/worklist").text

    assert ann.post("/lead/stop", reason="short").status_code == 422
    assert eve.post("/lead/stop", reason=WHY).status_code == 403
    assert ann.post("/lead/stop", reason=WHY).status_code == 303

    assert BANNER in eve.get("/worklist").text
    assert WHY not in eve.get("/worklist").text
    assert WHY in bob.get("/lead").text
    assert ann.post("/lead/rearm", reason=WELL).status_code == 303
    assert "A second person has to ask too" in ann.get("/lead").text
    assert ann.post("/lead/rearm", reason=WELL).status_code == 403
    assert "Arm again, as the second person" in bob.get("/lead").text
    assert bob.post("/lead/rearm", reason=WELL).status_code == 303
    assert BANNER not in eve.get("/worklist").text


def test_the_interface_stops_and_arms_and_a_form_from_elsewhere_does_not(room, database):
    ann, bob = (seat(room, database, name, role="lead") for name in ("ann", "bob"))

    assert ann.client.post("/lead/stop", data={"reason": WHY}).status_code == 403
    assert not is_safe(database)
    assert ann.send("/api/stop", reason=WHY).status_code == 201
    assert ann.send("/api/rearm", reason=WELL).json() == {"armed": False, "people": ["ann"]}
    assert ann.send("/api/rearm", reason=WELL).status_code == 403
    done = bob.send("/api/rearm", reason=WELL).json()
    assert (done["armed"], sorted(done["people"])) == (True, ["ann", "bob"])
    assert bob.send("/api/stop", reason="short").status_code == 422


def command(monkeypatch, capsys, house, *arguments):
    import io
    import sys

    from flows import cli
    from tests.reading_room_cases import PASSWORD

    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{house.get('password', PASSWORD)}\n"))
    code = cli.run(list(arguments))
    return code, capsys.readouterr()


def test_the_command_line_asks_for_the_password_and_needs_two_people_too(tmp_path, monkeypatch, capsys):
    from flows.bootstrap import open_house
    from pipeline.settings import Settings

    monkeypatch.setenv("SECONDREAD_HOME", str(tmp_path / "home"))
    with open_house(Settings(home=tmp_path / "home"), create=True) as house:
        for name in ("ann", "bob"):
            add_account(house.database, name, role="lead")

        def done(*arguments, password=None):
            given = {} if password is None else {"password": password}
            return command(monkeypatch, capsys, given, *arguments, "--password-stdin")

        code, said = done("stop", WHY, "--as", "ann", password="another password than hers")
        assert (code, is_safe(house.database)) == (2, False)
        assert "name or the password is wrong" in said.err
        assert done("stop", WHY, "--as", "ann")[0] == 0
        assert is_safe(house.database)
        assert done("rearm", WELL, "--as", "ann")[0] == 1
        assert done("rearm", WELL, "--as", "ann")[0] == 2
        assert is_safe(house.database)
        assert done("rearm", WELL, "--as", "bob")[0] == 0
        assert not is_safe(house.database)
        with house.database.read() as connection:
            assert account_rows.find_for_sign_in(connection, "ann") is not None
