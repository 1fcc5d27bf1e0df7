"""The figures: worked out by hand, no patient in them, and nothing in them that tells one case's answer."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from pipeline import oversight
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.case import Reason, Route
from pipeline.oversight import Period
from pipeline.store import emergency_rows, worklist_rows
from pipeline.store.account_rows import Account, Role
from pipeline.store.blobs import BlobStore
from pipeline.store.sequences import new_id
from pipeline.store.tables import read, worklist_item
from tests.reading_room_cases import (
    AUDIT,
    NOW,
    PRIORITY,
    RELEASE,
    ROUTINE,
    Clock,
    Wanted,
    add_account,
    add_case,
    make_room,
    mr_series,
    seat,
)

LEAD = Account(id="0" * 32, name="lead", role=Role.LEAD, specialties=())
OUTSIDE = replace(ROUTINE, route=Route.OUT_OF_SCOPE, reasons=(Reason.WRONG_MODALITY,))
PATIENT = ("Zzyzx", "Quagmire", "MRN-4711", "ACC-1", "19700203")


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


def case_of(database, blobs, wanted):
    return add_case(database, blobs, wanted, files=mr_series(slices=2, name="Zzyzx^Quagmire"))


def read_after(database, case_id, reader_id, *, minutes, reading=4.0, age=timedelta(minutes=30)):
    at = NOW - age + timedelta(minutes=minutes)
    with database.transaction() as connection:
        item = connection.execute(worklist_item.select().where(worklist_item.c.case_id == case_id)).one()
        connection.execute(
            update(worklist_item).where(worklist_item.c.id == item.id).values(state="COMPLETED", ended_at=at)
        )
        row = {"id": new_id(), "item_id": item.id, "case_id": case_id, "reader_id": reader_id, "finding": "tumour"}
        moments = {"opened_at": at - timedelta(minutes=reading), "committed_at": at, "revealed_at": at}
        connection.execute(insert(read).values(**row, certainty=4, fence=1, **moments))


def test_arrivals_waits_and_loads_are_those_worked_out_by_hand(database, blobs):
    ann, bob = add_account(database, "ann"), add_account(database, "bob")
    for minutes, reading in ((10, 2.0), (20, 4.0), (30, 9.0)):
        read_after(database, case_of(database, blobs, Wanted()), ann, minutes=minutes, reading=reading)
    read_after(database, case_of(database, blobs, PRIORITY), bob, minutes=5)
    stuck = case_of(database, blobs, Wanted(age=timedelta(days=3)))
    for wanted in (ROUTINE, ROUTINE, OUTSIDE):
        case_of(database, blobs, wanted)

    found = oversight.figures(database, Period.DAY, asking=LEAD, now=NOW)

    assert found.arrived == 7, "the stuck one came before the period"
    whole = {route: sum(bucket.places[route] for bucket in found.buckets) for route in Route}
    assert whole == {Route.PRIORITY: 1, Route.REVIEW: 3, Route.ROUTINE: 2, Route.OUT_OF_SCOPE: 1}
    assert (found.deferral.part, found.deferral.n) == (3, 7)
    every, high, medium, low = (line.summary for line in found.waits)
    assert (every.n, every.open, every.longest) == (5, 1, 3 * 24 * 60), "a stuck case cannot hide"
    assert (high.n, high.mean) == (1, 5)
    assert (medium.n, medium.mean, medium.over_limit) == (4, (10 + 20 + 30 + 4320) / 4, 1)
    assert low.n == 0
    assert [(load.name, load.reads, load.median_minutes) for load in found.loads] == [("ann", 3, 4.0), ("bob", 1, 4.0)]
    assert (found.standing.open, found.standing.overdue) == (1, 1)
    assert found.standing.oldest_overdue_at == NOW - timedelta(days=3) + timedelta(hours=4)
    assert found.kept.is_whole
    assert stuck not in str(found)


def test_a_week_s_columns_are_days_and_hold_everything_once(database, blobs):
    for hours in (0, 5, 30, 100, 167, 169):
        case_of(database, blobs, replace(ROUTINE, age=timedelta(hours=hours)))

    found = oversight.figures(database, Period.WEEK, asking=LEAD, now=NOW)

    assert [sum(bucket.places.values()) for bucket in found.buckets] == [1, 0, 1, 0, 0, 1, 1, 1]
    assert found.buckets[0].start == (NOW - timedelta(days=7)).replace(hour=0)


def test_an_audit_read_moves_no_figure_otherwise_than_a_review_does(database, blobs, tmp_path):
    """Whoever looks before and after an arrival learns what the worklist line shows, and not what the model said."""

    def moved(wanted):
        before = counted(oversight.figures(database, Period.DAY, asking=LEAD, now=NOW))
        case_of(database, blobs, wanted)
        after = counted(oversight.figures(database, Period.DAY, asking=LEAD, now=NOW))
        return {name: after[name] - before[name] for name in after}

    assert moved(AUDIT) == moved(Wanted())
    speaks = replace(AUDIT, route=Route.PRIORITY, reasons=(Reason.CONFIDENT_FINDING,), audit=False)
    assert moved(speaks) == moved(Wanted()), "by the priority on its line, and not by its route"


def counted(found):
    numbers = {f"{bucket.start} {route}": count for bucket in found.buckets for route, count in bucket.places.items()}
    numbers |= {f"deferral {bucket.start}": bucket.deferral.part for bucket in found.buckets}
    numbers |= {f"waits {line.priority}": line.summary.n for line in found.waits}
    kept = found.kept
    return numbers | {
        "open": found.standing.open,
        "sealed": kept.sealed,
        "unrouted": kept.unrouted,
        "all": found.arrived,
    }


@pytest.fixture
def room(database, blobs):
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, Clock())


@pytest.mark.parametrize("role", ["lead", "admin", "data_scientist"])
def test_the_page_and_the_interface_tell_figures_without_a_patient_or_an_answer(room, database, blobs, role):
    reader = add_account(database, "dr.a")
    for wanted in (Wanted(), AUDIT, PRIORITY, ROUTINE):
        case_of(database, blobs, wanted)
    read_after(database, case_of(database, blobs, Wanted()), reader, minutes=9)
    desk = seat(room, database, "boss", role=role, specialties=())

    for period in Period:
        page = desk.get(f"/lead?period={period.value}")
        told = desk.get(f"/api/figures?period={period.value}")
        assert (page.status_code, told.status_code) == (200, 200)
        for text in (page.text, told.text):
            assert not [word for word in (*PATIENT, RELEASE, "CONFIDENT", "0.61737") if word in text]
            assert "/cases/" not in text
        assert 'style="' not in page.text
    assert told.json()["arrived"] == 5
    assert told.json()["kept"]["is_whole"] is True


@pytest.mark.parametrize("role", ["viewer", "reader", "adjudicator"])
def test_nobody_else_sees_the_figures(room, database, role):
    desk = seat(room, database, "eve", role=role)
    for path in ("/lead", "/api/figures", "/api/notices"):
        assert desk.get(path).status_code == 403


def test_who_is_not_signed_in_sees_nothing(room):
    from tests.reading_room_cases import visitor

    assert visitor(room).get("/lead").status_code == 303
    assert visitor(room).get("/api/figures").status_code == 401


def test_an_empty_house_has_a_page_too(room, database):
    page = seat(room, database, "boss", role="lead").get("/lead")

    assert page.status_code == 200
    assert "Nothing arrived in this period" in page.text
    assert "Automation was never stopped" in page.text


def test_rates_below_five_reads_are_not_told(room, database, blobs):
    reader = add_account(database, "dr.a")
    desk = seat(room, database, "boss", role="lead")
    for number in range(4):
        read_after(database, case_of(database, blobs, Wanted()), reader, minutes=number)
    assert desk.get("/api/figures").json()["overrides"] == []
    assert "Shown from 5 reads on" in desk.get("/lead").text
    read_after(database, case_of(database, blobs, Wanted()), reader, minutes=9)
    told = desk.get("/api/figures").json()["overrides"]
    assert [row["n"] for row in told] == [5]
    assert "Shown from 5 reads on" not in desk.get("/lead").text


def test_emergencies_are_told_to_who_looks_after_them_and_their_reason_to_who_sees_cases(room, database, blobs):
    case_id = case_of(database, blobs, Wanted())
    somebody = add_account(database, "admin.a", role="admin")
    with database.transaction() as connection:
        emergency_rows.add_emergency(
            connection, account_id=somebody, case_id=case_id, reason="Quagmire is bleeding", now=NOW, until=NOW
        )
    lead, admin, scientist = (
        seat(room, database, role, role=role).get("/lead").text for role in ("lead", "admin", "data_scientist")
    )
    assert "Quagmire is bleeding" in lead
    assert f"/cases/{case_id}/timeline" in lead
    assert "admin.a" in admin
    assert "Quagmire" not in admin
    assert "admin.a" not in scientist
    assert case_id[:8] not in scientist


def test_holds_pauses_and_offers_are_counted_while_they_last(database, blobs):
    reader = add_account(database, "dr.a")
    first, second, third = (case_of(database, blobs, Wanted()) for _ in range(3))
    with database.transaction() as connection:
        worklist_rows.claim_item(connection, case_id=first, account_id=reader, lease=timedelta(minutes=15), now=NOW)
        later = NOW + timedelta(minutes=5)
        for case_id, values in (
            (second, {"paused_until": later, "pause_reason": "priors"}),
            (third, {"offered_to": reader, "offered_until": later}),
        ):
            connection.execute(update(worklist_item).where(worklist_item.c.case_id == case_id).values(**values))

    now = oversight.figures(database, Period.DAY, asking=LEAD, now=NOW)
    then = oversight.figures(database, Period.DAY, asking=LEAD, now=NOW + timedelta(minutes=16))

    assert (now.standing.held, now.standing.paused, now.standing.offered) == (1, 1, 1)
    assert (then.standing.held, then.standing.paused, then.standing.offered) == (0, 0, 0)
    assert [(load.name, load.held, load.reads) for load in now.loads] == [("dr.a", 1, 0)]
    assert then.loads == ()
