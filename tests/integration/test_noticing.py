"""Overdue cases, stops and emergencies are told by webhook and mail: each once, signed, and without a patient in them."""

import hashlib
import hmac
import json
import random
import threading
from dataclasses import replace
from datetime import timedelta
from email import message_from_bytes
from functools import partial

import pytest
from pydantic import HttpUrl, SecretStr

from pipeline import noticing
from pipeline.domain.notices import NoticeKind
from pipeline.errors import RetryLater
from pipeline.messages import Digest, mail, post
from pipeline.noticing import Listener
from pipeline.reading_room import Mail, Webhook
from pipeline.store import audit_rows, notice_rows
from pipeline.store.blobs import BlobStore
from tests.reading_room_cases import AUDIT, NOW, PRIORITY, ROUTINE, Clock, Wanted, add_case, mr_series
from tests.small_listeners import mail_listener, web_listener

CANARY = "Zzyzx^Quagmire"
SECRET = "a secret that two systems share"
HIDDEN = ("Zzyzx", "Quagmire", "MRN-4711", "ACC-1", "19700203", "MR head", "CONFIDENT", "UNCERTAIN", "ROUTINE", "round")
LATE = Wanted(age=timedelta(hours=6))
LATE_AUDIT = replace(AUDIT, age=timedelta(hours=6))


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


def late_case(database, blobs, wanted=LATE):
    return add_case(database, blobs, wanted, files=mr_series(slices=2, name=CANARY))


def listener(name, send, rule):
    return Listener(name=name, tell=lambda notices, now: send(rule, Digest(notices=notices), now))


def hook(heard, **more):
    return Webhook(name="pager", url=HttpUrl(f"http://127.0.0.1:{heard.port}/hook"), secret=SecretStr(SECRET), **more)


def notify(database, listeners, clock):
    return noticing.notify(database, listeners, now=clock, random=random.Random(1))


def states(database):
    with database.read() as connection:
        return notice_rows.counts(connection)


def test_an_overdue_item_is_escalated_once_and_nothing_else_is(database, blobs):
    late = late_case(database, blobs)
    for wanted in (Wanted(), ROUTINE, PRIORITY):
        late_case(database, blobs, wanted)

    assert noticing.escalate(database, now=NOW) == 1
    assert noticing.escalate(database, now=NOW + timedelta(minutes=1)) == 0
    with database.read() as connection:
        (notice,) = notice_rows.newest(connection, limit=9)
        assert notice.content == {
            "protocol": "brain-tumour-mr",
            "specialty": "neuroradiology",
            "priority": "medium",
            "minutes_overdue": 120,
            "case": late,
            "path": f"/cases/{late}",
        }
        assert audit_rows.verify_chain(connection) == []


def test_overlapping_runs_escalate_each_item_once(database, blobs):
    for _ in range(6):
        late_case(database, blobs)
    gate, found = threading.Barrier(3), []

    def run():
        gate.wait()
        found.append(noticing.escalate(database, now=NOW))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found) == 6
    with database.read() as connection:
        assert len(notice_rows.newest(connection, limit=99)) == 6


def test_a_webhook_is_told_every_case_in_one_signed_digest_without_a_patient(database, blobs):
    cases = {
        late_case(database, blobs),
        late_case(database, blobs, LATE_AUDIT),
    }
    with web_listener() as heard:
        done = notify(database, [listener("pager", post, hook(heard))], Clock())
        again = notify(database, [listener("pager", post, hook(heard))], Clock(NOW + timedelta(hours=1)))

    assert (done.escalated, done.sent, again.sent) == (2, 2, 0)
    ((headers, body),) = heard.came
    told = json.loads(body)
    assert {notice["case"] for notice in told["notices"]} == cases
    assert not [word for word in HIDDEN if word in body.decode() or word in str(headers)]
    parts = dict(part.split("=") for part in headers["X-Secondread-Signature"].split(","))
    expected = hmac.new(SECRET.encode(), f"{parts['t']}.".encode() + body, hashlib.sha256).hexdigest()
    assert parts["v1"] == expected
    assert int(parts["t"]) == int(NOW.timestamp())
    assert headers["Content-Type"] == "application/json"


def test_an_audit_read_and_a_review_are_told_in_the_same_words(database, blobs):
    late_case(database, blobs)
    late_case(database, blobs, LATE_AUDIT)
    noticing.escalate(database, now=NOW)

    with database.read() as connection:
        one, two = [dict(notice.content) for notice in notice_rows.newest(connection, limit=9)]
    for told in (one, two):
        del told["case"], told["path"]
    assert one == two


def test_a_webhook_that_fails_is_told_the_same_digest_again_later_and_new_ones_apart(database, blobs):
    first = late_case(database, blobs)
    clock = Clock()
    with web_listener() as heard:
        heard.answers = [503]
        told = [listener("pager", post, hook(heard))]
        assert notify(database, told, clock).put_off == 1
        assert notify(database, told, clock).sent == 0, "not before its next moment"
        with database.read() as connection:
            (trouble,) = notice_rows.troubled(connection, limit=9)
        assert (trouble.attempts, trouble.problem) == (
            1,
            "the webhook 'pager' answered 503; check its address and what it accepts",
        )
        second = late_case(database, blobs)
        clock.advance(minutes=2)
        assert notify(database, told, clock).sent == 2

    failed, repeated, fresh = sorted(heard.came, key=lambda one: first not in one[1].decode())
    assert failed[0]["X-Secondread-Id"] == repeated[0]["X-Secondread-Id"]
    assert json.loads(failed[1]) == json.loads(repeated[1])
    assert second in fresh[1].decode()
    assert states(database) == {"waiting": 0, "sent": 2, "parked": 0}


def test_a_redirect_is_not_followed_and_counts_as_a_failure(database, blobs):
    late_case(database, blobs)
    with web_listener() as heard:
        heard.answers = [307]
        assert notify(database, [listener("pager", post, hook(heard))], Clock()).put_off == 1
    assert [headers["path"] for headers, _ in heard.came] == ["/hook"]


def test_what_is_not_taken_for_three_days_is_parked_and_goes_when_a_person_asks(database, blobs):
    late_case(database, blobs)
    clock = Clock()
    with web_listener() as heard:
        told = [listener("pager", post, hook(heard))]
        heard.answers = [500] * 500
        while states(database)["parked"] == 0:
            notify(database, told, clock)
            clock.advance(hours=1)
            assert clock.now < NOW + timedelta(hours=80)
        assert clock.now >= NOW + timedelta(hours=72)
        heard.answers = []
        assert notify(database, told, clock).sent == 0
        with database.transaction() as connection:
            assert notice_rows.send_parked_again(connection, ["pager"], clock.now) == 1
        assert notify(database, told, clock).sent == 1


def test_each_destination_is_told_whatever_happens_at_the_other(database, blobs):
    late_case(database, blobs)
    taken = []

    def away(_notices, _now):
        raise RetryLater("nobody answers")

    def broken(_notices, _now):
        raise KeyError("MRN-4711")

    listeners = [
        Listener(name="away", tell=away),
        Listener(name="broken", tell=broken),
        Listener(name="here", tell=lambda notices, _now: taken.extend(notices)),
    ]
    done = notify(database, listeners, Clock())

    assert (done.planned, done.sent, done.put_off) == (3, 1, 2)
    assert len(taken) == 1
    with database.read() as connection:
        problems = [one.problem for one in notice_rows.troubled(connection, limit=9)]
    assert sorted(problems) == ["nobody answers", "sending failed (KeyError)"]


def test_overlapping_runs_send_each_notice_once(database, blobs):
    for _ in range(5):
        late_case(database, blobs)
    taken, lock, gate = [], threading.Lock(), threading.Barrier(3)

    def tell(notices, _now):
        with lock:
            taken.extend(notice.id for notice in notices)

    def run():
        gate.wait()
        notify(database, [Listener(name="pager", tell=tell)], Clock())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notify(database, [Listener(name="pager", tell=tell)], Clock())
    assert len(taken) == len(set(taken)) == 5
    assert states(database) == {"waiting": 0, "sent": 5, "parked": 0}


def test_a_hold_that_another_run_is_taking_at_this_moment_is_not_taken_too(database, blobs):
    for _ in range(3):
        late_case(database, blobs)
    noticing.escalate(database, now=NOW)
    found = []

    def claim():
        with database.transaction() as other:
            found.append(notice_rows.claim_due(other, ["pager"], now=NOW, lease=timedelta(minutes=5), most=50))

    second = threading.Thread(target=claim)
    with database.transaction() as connection:
        notice_rows.plan(connection, ["pager"], since=NOW - timedelta(days=1), now=NOW)
    with database.transaction() as connection:
        first = notice_rows.claim_due(connection, ["pager"], now=NOW, lease=timedelta(minutes=5), most=50)
        second.start()
        second.join(timeout=1)  # it waits for this transaction, or has looked past it
    second.join()

    assert first is not None
    assert len(first) == 3
    assert not found[0]


def test_a_run_that_died_after_its_hold_leaves_the_notice_to_a_later_one(database, blobs):
    late_case(database, blobs)
    clock, taken = Clock(), []

    class Killed(BaseException):
        pass

    def die(_notices, _now):
        raise Killed

    with pytest.raises(Killed):
        notify(database, [Listener(name="pager", tell=die)], clock)
    there = [Listener(name="pager", tell=lambda notices, _now: taken.extend(notices))]
    assert notify(database, there, clock).sent == 0, "still held"
    clock.advance(minutes=6)
    assert notify(database, there, clock).sent == 1


def test_notices_wait_for_a_destination_and_those_for_one_that_is_gone_are_parked(database, blobs):
    late_case(database, blobs)
    assert notify(database, [], Clock()).escalated == 1
    with database.read() as connection:
        assert notice_rows.untold(connection, before=NOW + timedelta(minutes=1)) == 1

    def away(_notices, _now):
        raise RetryLater("away")

    notify(database, [Listener(name="old", tell=away)], Clock())
    done = notify(database, [Listener(name="new", tell=lambda _n, _t: None)], Clock(NOW + timedelta(minutes=1)))
    assert done.sent == 1
    assert states(database) == {"waiting": 0, "sent": 1, "parked": 1}


def test_sixty_notices_leave_in_two_digests(database):
    sizes = []
    with database.transaction() as connection:
        for number in range(60):
            content = {"on": True, "actor": "ann", "path": "/lead"}
            notice_rows.add(connection, kind=NoticeKind.SAFE_STATE, subject=str(number), content=content, now=NOW)
    notify(database, [Listener(name="pager", tell=lambda notices, _now: sizes.append(len(notices)))], Clock())
    assert sizes == [50, 10]


def test_a_notice_that_would_say_more_than_its_kind_may_is_refused(database):
    content = {"case": "0f", "actor": "ann", "path": "/lead", "reason": "Jane Doe is bleeding"}
    with database.transaction() as connection, pytest.raises(ValueError, match="may not say 'reason'"):
        notice_rows.add(connection, kind=NoticeKind.EMERGENCY, subject="1", content=content, now=NOW)


def test_the_same_thing_is_told_once(database):
    content = {"case": "0f", "actor": "ann", "path": "/lead"}
    with database.transaction() as connection:
        add = partial(notice_rows.add, connection, kind=NoticeKind.EMERGENCY, subject="1", content=content, now=NOW)
        assert add() is not None
        assert add() is None


def mail_rule(heard, **more):
    return Mail(
        **{"server": "127.0.0.1", "port": heard.port, "tls": "none", "sender": "room@site.example"}
        | {"to": ("a@site.example", "b@site.example")}
        | more
    )


def test_mail_goes_to_everybody_named_and_a_repetition_keeps_its_message_id(database, blobs):
    case = late_case(database, blobs)
    clock = Clock()
    with mail_listener() as heard:
        told = [listener("mail", mail, mail_rule(heard))]
        heard.refusals = {".": "451 greylisted"}
        assert notify(database, told, clock).put_off == 1
        heard.refusals = {}
        clock.advance(minutes=2)
        assert notify(database, told, clock).sent == 1

    (_, refused), (envelope, taken) = heard.came
    first, second = message_from_bytes(refused), message_from_bytes(taken)
    assert first["Message-ID"] == second["Message-ID"]
    assert envelope["to"].split() == ["<a@site.example>", "<b@site.example>"]
    assert second["Subject"] == "secondread: A case waits beyond its limit"
    text = second.get_payload(decode=True).decode()
    assert f"/cases/{case}" in text
    assert not [word for word in HIDDEN if word in taken.decode()]


def test_mail_that_one_recipient_cannot_get_is_tried_again(database, blobs):
    late_case(database, blobs)
    with mail_listener() as heard:
        heard.refusals = {"RCPT": "550 unknown"}
        assert notify(database, [listener("mail", mail, mail_rule(heard))], Clock()).put_off == 1


def test_mail_is_not_sent_in_the_open_where_tls_was_asked_for(database, blobs):
    late_case(database, blobs)
    with mail_listener() as heard:
        rule = mail_rule(heard, tls="starttls")
        assert notify(database, [listener("mail", mail, rule)], Clock()).put_off == 1
    assert heard.came == []
    with database.read() as connection:
        (trouble,) = notice_rows.troubled(connection, limit=9)
    assert trouble.problem.startswith("the mail server did not take the message")


def test_a_listener_that_is_not_there_is_a_failure_in_words(database, blobs):
    late_case(database, blobs)
    with web_listener() as heard:
        pass
    assert notify(database, [listener("pager", post, hook(heard))], Clock()).put_off == 1


def test_the_command_sends_to_the_site_s_listeners_and_says_when_something_waits(tmp_path, monkeypatch, capsys):
    import yaml

    from flows import cli
    from flows.bootstrap import open_house
    from pipeline.settings import Settings

    monkeypatch.setenv("SECONDREAD_HOME", str(tmp_path / "home"))
    settings = Settings(home=tmp_path / "home")
    with open_house(settings, create=True) as house, web_listener() as heard:
        rules = {"notices": {"webhooks": [{"name": "pager", "url": f"http://127.0.0.1:{heard.port}/hook"}]}}
        house.settings.reading_room_file.write_text(yaml.safe_dump(rules))
        late_case(house.database, BlobStore(tmp_path / "blobs"))
        heard.answers = [503]
        assert cli.run(["notify", "--json"]) == 1
        said = json.loads(capsys.readouterr().out)
        assert (said["escalated"], said["put_off"], said["states"]["waiting"]) == (1, 1, 1)
        assert cli.run(["notify", "--json", "--parked"]) == 1, "it waits for its next moment"
    assert "X-Secondread-Signature" not in heard.came[0][0]
