"""The timeline tells everything to who may know it, and before the reveal nothing of the answer, the rounds or others."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert, text, update

from pipeline import chronicle, noticing
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.event_words import EVENTS
from pipeline.errors import NoSuchCase, NotAllowed
from pipeline.store import audit_rows, exposure_rows, worklist_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.exposure_rows import Exposure
from pipeline.store.sequences import new_id
from pipeline.store.tables import read, worklist_item
from tests.reading_room_cases import (
    AUDIT,
    NOW,
    PRIORITY,
    Clock,
    Wanted,
    add_account,
    add_case,
    make_room,
    mr_series,
    seat,
)

SECRETS = (
    "priority",
    "routine",
    "confident",
    "uncertain",
    "tumour",
    "finding",
    "second",
    "round",
    "dr.first",
    "lead.x",
)


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


def person(database, name, role="reader"):
    specialties = ("neuroradiology",)
    account_id = add_account(database, name, role=role, specialties=specialties)
    return Account(id=account_id, name=name, role=Role(role), specialties=specialties)


def note(database, event, *, case_id, actor="dr.first", at=NOW, **payload):
    with database.transaction() as connection:
        audit_rows.append(connection, at=at, actor=actor, event=event, case_id=case_id, payload=payload)


def newest_item(database, case_id):
    with database.read() as connection:
        rows = connection.execute(worklist_item.select().where(worklist_item.c.case_id == case_id)).all()
    return max(rows, key=lambda row: row.round)


def read_of(database, case_id, reader, *, revealed=True, finding="tumour", at=NOW):
    """A committed first read, written the way the review step writes it."""
    item = newest_item(database, case_id)
    with database.transaction() as connection:
        connection.execute(
            update(worklist_item).where(worklist_item.c.id == item.id).values(state="COMPLETED", ended_at=at)
        )
        row = {"id": new_id(), "item_id": item.id, "case_id": case_id, "reader_id": reader.id, "finding": finding}
        connection.execute(
            insert(read).values(
                **row, certainty=4, fence=1, opened_at=at, committed_at=at, revealed_at=at if revealed else None
            )
        )
    what = {"item": item.id, "finding": finding, "certainty": 4, "fence": 1}
    note(database, "read.opened", case_id=case_id, actor=reader.name, at=at, item=item.id, fence=1)
    note(database, "read.committed", case_id=case_id, actor=reader.name, at=at, **what)
    if revealed:
        note(database, "read.revealed", case_id=case_id, actor=reader.name, at=at, read=row["id"])
        note(database, "read.compared", case_id=case_id, actor=reader.name, at=at, agreement="disagree")


def second_round(database, case_id, *, at=NOW):
    with database.transaction() as connection:
        item = worklist_rows.schedule_item(
            connection,
            case_id=case_id,
            specialty="neuroradiology",
            priority=1,
            reasons=["UNCERTAIN"],
            due_at=at + timedelta(hours=4),
            now=at,
        )
        connection.execute(update(worklist_item).where(worklist_item.c.id == item).values(round=2))
    note(database, "round.opened", case_id=case_id, actor="review", at=at, item=item, round=2, after=1)
    return item


def words(story):
    return " | ".join(f"{one.at:%H:%M} {one.actor} {one.title} {one.detail}" for one in story.entries).lower()


def test_who_has_revealed_their_read_is_told_everything(database, blobs):
    case_id = add_case(database, blobs, Wanted(age=timedelta(hours=2)), files=mr_series())
    first = person(database, "dr.first")
    note(database, "case_decided", case_id=case_id, actor="triage", route="REVIEW", reasons=["UNCERTAIN"])
    read_of(database, case_id, first)

    story = chronicle.timeline(database, first, case_id)

    assert story.is_whole
    told = words(story)
    for part in ("images received 3 images", "study sealed revision 1", "triage decided review: uncertain"):
        assert part in told
    for part in ("put on the worklist for neuroradiology, first read", "read committed tumour, certainty 4 of 5"):
        assert part in told
    assert [one.at for one in story.entries] == sorted(one.at for one in story.entries)


def test_a_second_reader_is_told_nothing_that_tells_the_round_the_reads_or_the_answer(database, blobs):
    """A case that was read and one that was only opened give the same blind story, letter for letter."""
    stories = []
    for number, has_second in enumerate((False, True)):
        case_id = add_case(database, blobs, Wanted(age=timedelta(hours=2)), files=mr_series())
        first, blind = person(database, f"dr.first{number}"), person(database, f"dr.blind{number}")
        note(database, "case_decided", case_id=case_id, actor="triage", route="REVIEW", reasons=["UNCERTAIN"])
        first_item = newest_item(database, case_id).id
        note(database, "item.escalated", case_id=case_id, actor="noticing", item=first_item, minutes_overdue=9)
        if not has_second:
            note(database, "read.opened", case_id=case_id, actor=first.name, item=first_item, fence=1)
            note(database, "read.released", case_id=case_id, actor=first.name, fence=1)
        else:
            read_of(database, case_id, first)
            second_round(database, case_id)
            note(database, "result.unknown_to_us", case_id=case_id, finding="tumour")
        story = chronicle.timeline(database, blind, case_id)
        assert not story.is_whole
        assert story.trail is None
        stories.append([replace(one, number=None) for one in story.entries])

    assert stories[0] == stories[1]
    assert not [secret for secret in SECRETS if secret in str(stories).lower()]


@pytest.mark.parametrize("wanted", [Wanted(), AUDIT, PRIORITY], ids=["review", "audit", "priority"])
def test_every_kind_of_case_tells_the_same_blind_story(database, blobs, wanted):
    case_id = add_case(database, blobs, wanted, files=mr_series())
    route, reasons = wanted.route.value, [reason.value for reason in wanted.reasons]
    note(database, "case_decided", case_id=case_id, actor="triage", route=route, reasons=reasons)

    story = chronicle.timeline(database, person(database, "dr.blind"), case_id)

    assert words(story) == "00:00 test images received 3 images | 00:00 intake study sealed revision 1"
    assert all(one.day_only for one in story.entries)


def test_one_s_own_doings_are_told_and_a_colleague_s_hold_of_the_item_only_without_a_name(database, blobs):
    case_id = add_case(database, blobs, Wanted(), files=mr_series())
    item = newest_item(database, case_id).id
    blind = person(database, "dr.blind")
    note(database, "read.opened", case_id=case_id, item=item, fence=1)
    note(database, "read.opened", case_id=case_id, actor="dr.blind", item=item, fence=2)
    note(database, "read.opened", case_id=case_id, item="another item", fence=2)

    story = chronicle.timeline(database, blind, case_id)

    opened = [(one.actor, one.day_only) for one in story.entries if one.title == "Opened for reading"]
    assert sorted(opened) == [("a colleague", True), ("dr.blind", False)]


@pytest.mark.parametrize("event", [name for name, one in EVENTS.items() if one.blind == "hidden"])
def test_no_field_of_a_hidden_event_reaches_a_blind_reader(database, blobs, event):
    case_id = add_case(database, blobs, Wanted(), files=mr_series())
    item = newest_item(database, case_id).id
    fields = ("route", "reasons", "finding", "agreement", "kind", "destination", "form", "certainty")
    note(database, event, case_id=case_id, item=item, round=2, **dict.fromkeys(fields, "CANARY"))

    story = chronicle.timeline(database, person(database, "dr.blind"), case_id)

    assert "canary" not in words(story)
    assert EVENTS[event].title not in [one.title for one in story.entries if one.title != "Study sealed"]


def test_an_event_that_nobody_knows_is_only_recorded_and_its_fields_are_not_told(database, blobs):
    case_id = add_case(database, blobs, Wanted(), files=mr_series())
    first = person(database, "dr.first")
    note(database, "score.leaked", case_id=case_id, score=0.38263)
    read_of(database, case_id, first)

    story = chronicle.timeline(database, first, case_id)
    (entry,) = [one for one in story.entries if one.event == "score.leaked"]
    assert (entry.title, entry.detail) == ("Recorded", "")
    blind = chronicle.timeline(database, person(database, "dr.blind"), case_id)
    assert "recorded" not in words(blind)


def test_the_record_is_whole_is_written_down_once_and_costs_the_read(database, blobs):
    case_id = add_case(database, blobs, Wanted(), files=mr_series())
    lead = person(database, "lead.x", "lead")
    note(database, "case_decided", case_id=case_id, actor="triage", route="REVIEW", reasons=["UNCERTAIN"])
    assert not chronicle.timeline(database, lead, case_id).is_whole

    story = chronicle.record(database, lead, case_id, now=NOW)
    chronicle.record(database, lead, case_id, now=NOW)

    assert story.is_whole
    assert "triage decided review" in words(story)
    with database.read() as connection:
        assert exposure_rows.is_noted(connection, case_id=case_id, account_id=lead.id, kind=Exposure.RECORD)
        seen = [row.event for row in connection.execute(text("SELECT event FROM audit_event"))]
    assert seen.count("record.seen") == 1
    assert chronicle.timeline(database, lead, case_id).is_whole


def test_the_record_is_refused_to_who_holds_the_case_or_has_not_revealed_their_read(database, blobs):
    held = add_case(database, blobs, Wanted(), files=mr_series())
    lead = person(database, "lead.x", "lead")
    with database.transaction() as connection:
        worklist_rows.claim_item(connection, case_id=held, account_id=lead.id, lease=timedelta(minutes=15), now=NOW)
    with pytest.raises(NotAllowed, match="you hold this case"):
        chronicle.record(database, lead, held, now=NOW)
    chronicle.record(database, lead, held, now=NOW + timedelta(minutes=16))

    committed = add_case(database, blobs, Wanted(), files=mr_series())
    read_of(database, committed, lead, revealed=False)
    with pytest.raises(NotAllowed, match="reveal"):
        chronicle.record(database, lead, committed, now=NOW)
    assert not chronicle.timeline(database, lead, committed).is_whole


@pytest.mark.parametrize("role", ["viewer", "reader", "adjudicator", "admin", "data_scientist"])
def test_the_record_is_for_leads(database, blobs, role):
    case_id = add_case(database, blobs, Wanted(), files=mr_series())
    with pytest.raises(NotAllowed):
        chronicle.record(database, person(database, "eve", role), case_id, now=NOW)


def test_a_changed_event_shows(database, blobs):
    case_id = add_case(database, blobs, Wanted(), files=mr_series())
    first = person(database, "dr.first")
    read_of(database, case_id, first)
    whole = chronicle.timeline(database, first, case_id)
    assert whole.trail is not None
    assert (whole.trail.broken, whole.trail.checked, whole.trail.newest) == ((), 4, 4)

    with database.transaction() as connection:
        if database.url_kind == "sqlite":
            connection.execute(text("DROP TRIGGER IF EXISTS audit_event_no_update"))
            for (name,) in connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_event'")
            ).all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("ALTER TABLE audit_event DISABLE TRIGGER USER"))
        connection.execute(text("UPDATE audit_event SET actor = 'somebody' WHERE sequence = 2"))
    assert chronicle.timeline(database, first, case_id).trail.broken == (2,)


def test_an_unknown_case_is_named(database):
    with pytest.raises(NoSuchCase):
        chronicle.timeline(database, person(database, "dr.a"), "0f0f")


@pytest.fixture
def room(database, blobs):
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, Clock())


def test_page_and_interface_tell_the_same_and_neither_tells_a_patient(room, database, blobs):
    case_id = add_case(database, blobs, replace(AUDIT, age=timedelta(hours=9)), files=mr_series(name="Zzyzx^Quagmire"))
    noticing.escalate(database, now=NOW)
    desk = seat(room, database, "dr.blind")

    page = desk.get(f"/cases/{case_id}/timeline")
    told = desk.get(f"/api/cases/{case_id}/timeline")

    assert (page.status_code, told.status_code) == (200, 200)
    titles = [entry["title"] for entry in told.json()["entries"]]
    assert re.findall(r"<strong>([^<]*)</strong>", page.text) == titles
    assert titles == ["Images received", "Study sealed", "Escalated: waited beyond its limit"]
    for text_ in (page.text, told.text):
        assert not [word for word in ("Zzyzx", "MRN-4711", "ROUTINE", "CONFIDENT") if word in text_]
    assert desk.get("/api/cases/0f0f/timeline").status_code == 404


def test_the_record_is_posted_by_leads_alone(room, database, blobs):
    case_id = add_case(database, blobs, Wanted(), files=mr_series())
    lead, reader = seat(room, database, "lead.x", role="lead"), seat(room, database, "dr.blind")
    scientist = seat(room, database, "data", role="data_scientist")

    assert reader.post(f"/cases/{case_id}/record").status_code == 403
    assert lead.client.post(f"/cases/{case_id}/record").status_code == 403, "not from our own page"
    assert lead.get(f"/cases/{case_id}/record").status_code == 405
    assert scientist.get(f"/cases/{case_id}/timeline").status_code == 403
    assert "Open the whole record" in lead.get(f"/cases/{case_id}/timeline").text
    opened = lead.post(f"/cases/{case_id}/record")
    assert opened.status_code == 200
    assert "as they were written" in opened.text
    assert lead.send("/api/claim", case_id=case_id).status_code in {403, 409}, "who knows the answer may not read"
