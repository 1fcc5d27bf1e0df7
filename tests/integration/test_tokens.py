from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from httpx import Response

from pipeline.dicom.sandbox import Sandbox
from pipeline.errors import UnfitAccount
from pipeline.store import account_rows, people_rows, token_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.token_rows import Scope
from pipeline.web.rate_limit import Buckets, Rate, RateLimits, TooMany, address_of
from tests.reading_room_cases import (
    NOW,
    ORIGIN,
    PLANTED,
    Clock,
    Desk,
    Wanted,
    add_account,
    add_case,
    make_room,
    seat,
    visitor,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, clock: Clock) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, blobs, sandbox, clock)


@pytest.fixture
def admin(app: FastAPI, database: Database) -> Desk:
    return seat(app, database, "ada", role="admin")


def service(database: Database, name: str = "board") -> str:
    return add_account(database, name, role="service", specialties=())


def token(admin: Desk, account_id: str, *scopes: str, days: int = 30, label: str = "wall") -> tuple[str, str]:
    """Id and value of a new token, made as an administrator makes it."""
    made = admin.send(f"/api/people/{account_id}/tokens", label=label, scopes=scopes or ("worklist",), days=days)
    assert made.status_code == 201, made.text
    return made.json()["id"], made.json()["secret"]


def ask(app: FastAPI, value: str, path: str = "/api/worklist", **headers: str) -> Response:
    return visitor(app).client.get(path, headers={"Authorization": f"Bearer {value}", **headers})


def test_a_token_opens_what_its_scopes_name_and_nothing_else(
    app: FastAPI, database: Database, blobs: BlobStore, admin: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    account = service(database)
    _, worklist = token(admin, account, "worklist")
    _, figures = token(admin, account, "figures")
    _, both = token(admin, account, "figures", "worklist")
    for path, opens in (
        ("/api/worklist", {worklist, both}),
        (f"/api/cases/{case_id}", {worklist, both}),
        ("/api/figures", {figures, both}),
        ("/api/people", set()),
        (f"/api/cases/{case_id}/draft", set()),
    ):
        for value in (worklist, figures, both):
            assert ask(app, value, path).status_code == (200 if value in opens else 403), path


def test_a_token_is_shown_once_and_kept_as_a_hash(
    app: FastAPI, database: Database, admin: Desk, tmp_path: Path
) -> None:
    account = service(database)
    page = admin.post(f"/people/{account}/tokens", label="wall", scopes=["worklist"], days=30)
    found = re.search(r"<code>(sr_[\w-]{43})</code>", page.text)
    assert found
    assert ask(app, found[1]).status_code == 200
    again = admin.get(f"/people/{account}").text
    assert "wall" in again
    assert found[1] not in again
    assert found[1] not in admin.get(f"/api/people/{account}/tokens").text
    with database.read() as connection:
        (kept,) = token_rows.tokens_of(connection, account)
        bearer = token_rows.find_bearer(connection, token=found[1], now=NOW)
    assert found[1] not in repr(kept)
    assert bearer is not None
    assert bearer.token_hash == token_rows.hash_token(found[1])


def test_making_a_token_again_under_its_key_does_not_show_it_again(
    app: FastAPI, database: Database, admin: Desk
) -> None:
    account = service(database)
    headers = {"Origin": ORIGIN, "X-CSRF-Token": admin.token, "Idempotency-Key": "once"}
    body = {"label": "wall", "scopes": ["worklist"], "days": 1}
    answers = [admin.client.post(f"/api/people/{account}/tokens", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 409]
    assert answers[0].json()["secret"] not in answers[1].text


def test_a_token_ends_when_it_is_over_revoked_or_its_service_shut_out(
    app: FastAPI, database: Database, admin: Desk, clock: Clock
) -> None:
    account = service(database)
    _, short = token(admin, account, days=1)
    revoked_id, revoked = token(admin, account, days=9)
    _, long = token(admin, account, days=9)
    assert ask(app, short).status_code == 200
    assert admin.post(f"/people/{account}/tokens/{revoked_id}/revoke").status_code == 303
    clock.advance(hours=24)
    for value in (short, revoked, "sr_" + "A" * 43, ""):
        refused = ask(app, value)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.headers["content-type"] == "application/problem+json"
    assert ask(app, long).status_code == 200
    with database.transaction() as connection:
        account_rows.disable_account(connection, name="board")
    assert ask(app, long).status_code == 401


def test_a_token_of_somebody_elses_service_cannot_be_revoked_through_another(
    app: FastAPI, database: Database, admin: Desk
) -> None:
    one, other = service(database, "one"), service(database, "other")
    token_id, value = token(admin, one)
    assert admin.post(f"/people/{other}/tokens/{token_id}/revoke").status_code == 404
    assert ask(app, value).status_code == 200


def test_with_a_token_the_cookie_counts_for_nothing(app: FastAPI, database: Database, admin: Desk) -> None:
    account = service(database)
    _, value = token(admin, account, "figures")
    lead = seat(app, database, "dr.lead", role="lead")
    assert lead.get("/api/worklist").status_code == 200
    assert lead.client.get("/api/worklist", headers={"Authorization": f"Bearer {value}"}).status_code == 403
    assert lead.client.get("/api/worklist", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    told = lead.client.get("/api/session", headers={"Authorization": f"bearer {value}"}).json()
    assert (told["name"], told["may"], told["csrf_token"]) == ("board", ["see_figures"], "")


def test_a_token_opens_no_page(app: FastAPI, database: Database, admin: Desk) -> None:
    _, value = token(admin, service(database))
    for path in ("/worklist", "/account", "/", "/lead", "//api/worklist", "/api/../worklist"):
        answer = ask(app, value, path)
        assert answer.status_code in {303, 404}, path
        assert "Worklist</h1>" not in answer.text


def test_a_token_needs_no_proof_against_forgery_and_changes_nothing_still(
    app: FastAPI, database: Database, blobs: BlobStore, admin: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    _, value = token(admin, service(database), "worklist", "figures")
    headers = {"Authorization": f"Bearer {value}"}
    for path in ("/api/claim", f"/api/cases/{case_id}/reveal", f"/api/cases/{case_id}/emergency", "/api/stop"):
        answer = visitor(app).client.post(path, json={}, headers=headers)
        assert answer.status_code == 403
        assert "not sent from its own page" not in answer.text
    assert visitor(app).client.post("/api/worklist/search", json={}, headers=headers).status_code == 422


def test_a_service_learns_nothing_of_the_models_answer(
    app: FastAPI, database: Database, blobs: BlobStore, admin: Desk
) -> None:
    case_id = add_case(database, blobs, Wanted())
    _, value = token(admin, service(database))
    for path in ("/api/worklist", f"/api/cases/{case_id}", f"/api/cases/{case_id}/timeline"):
        text = ask(app, value, path).text
        assert not [number for number in PLANTED if f"{number:.3f}"[:5] in text], path
    assert ask(app, value, f"/api/cases/{case_id}").json()["answer"] is None


def test_the_last_use_is_noted_at_most_once_a_minute(
    app: FastAPI, database: Database, admin: Desk, clock: Clock
) -> None:
    account = service(database)
    _, value = token(admin, account)

    def last_used() -> timedelta:
        with database.read() as connection:
            (kept,) = token_rows.tokens_of(connection, account)
        assert kept.last_used_at is not None
        return kept.last_used_at - NOW

    ask(app, value)
    assert last_used() == timedelta(0)
    clock.advance(seconds=59)
    ask(app, value)
    assert last_used() == timedelta(0)
    clock.advance(seconds=1)
    ask(app, value)
    assert last_used() == timedelta(seconds=60)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"life": timedelta(days=366)}, "365 days"),
        ({"life": timedelta(0)}, "365 days"),
        ({"scopes": []}, "open nothing"),
        ({"label": " "}, "label"),
        ({"label": "a\nb"}, "printable"),
    ],
)
def test_tokens_that_cannot_be_are_refused_with_the_cure(
    database: Database, change: dict[str, object], words: str
) -> None:
    wanted = {"label": "x", "scopes": [Scope.FIGURES], "life": timedelta(days=1), "made_by": None, "now": NOW}
    account = service(database)
    with pytest.raises(UnfitAccount, match=words), database.transaction() as connection:
        token_rows.issue(connection, account_id=account, **(wanted | change))  # type: ignore[arg-type]


def test_people_have_no_tokens(database: Database, admin: Desk) -> None:
    with database.read() as connection:
        account = people_rows.person_named(connection, "ada").id
    refused = admin.send(f"/api/people/{account}/tokens", label="x", scopes=["worklist"], days=1)
    assert refused.status_code == 422
    assert "role service" in refused.json()["detail"]


def test_every_scope_gives_something_and_none_gives_reading_or_people() -> None:
    from pipeline.store.account_rows import May

    harmless = {May.SEE_CASES, May.SEE_FIGURES}
    for scope in Scope:
        assert token_rows.GIVEN[scope]
        assert token_rows.GIVEN[scope] <= harmless


def test_a_bucket_empties_fills_again_and_forgets_whom_it_has_not_seen_for_longest() -> None:
    clock = Clock()
    buckets = Buckets(Rate(burst=2, per_second=0.5), clock, most=2)
    buckets.take("a")
    buckets.take("a")
    with pytest.raises(TooMany) as refused:
        buckets.take("a")
    assert refused.value.retry_after == timedelta(seconds=2)
    buckets.take("b")
    clock.advance(seconds=2)
    buckets.take("a")
    clock.advance(seconds=-60)
    with pytest.raises(TooMany):
        buckets.take("a")
    for number in range(50):
        buckets.take(f"c{number}")
    assert len(buckets) == 2


def sign_in_form(desk: Desk) -> dict[str, str]:
    found = re.search(r'name="csrf_token" value="([^"]+)"', desk.get("/sign-in").text)
    assert found
    return {"name": "nobody", "password": "x", "csrf_token": found[1]}


def test_too_many_sign_ins_from_one_address_wait_whatever_name_or_header_they_bring(app: FastAPI, clock: Clock) -> None:
    app.state.limits = RateLimits.by(clock, sign_in=Rate(burst=3, per_second=0.1))
    desk = visitor(app)
    for number in range(3):
        assert desk.post("/sign-in", **(sign_in_form(desk) | {"name": f"n{number}"})).status_code == 401
    form = sign_in_form(desk)
    for forwarded in ({}, {"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}, {"X-Real-IP": "10.0.0.1"}):
        refused = desk.client.post("/sign-in", data=form, headers={"Origin": ORIGIN} | forwarded)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "10"
    clock.advance(seconds=10)
    assert desk.post("/sign-in", **sign_in_form(desk)).status_code == 401


def test_a_flood_of_changes_or_of_tokens_is_answered_429_and_looking_is_not(
    app: FastAPI, database: Database, admin: Desk, clock: Clock
) -> None:
    _, value = token(admin, service(database))
    app.state.limits = RateLimits.by(clock, unsafe=Rate(burst=2, per_second=1))
    desk = seat(app, database)
    for _ in range(2):
        assert desk.post("/worklist/next").status_code == 303
    assert desk.post("/worklist/next").status_code == 429
    assert [ask(app, value).status_code for _ in range(2)] == [200, 200]
    refused = ask(app, value)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["status"] == 429
    assert desk.get("/account").status_code == 200


def test_a_stranger_uses_up_nobodys_rate_but_their_own(app: FastAPI, database: Database, clock: Clock) -> None:
    two = Rate(burst=2, per_second=0.1)
    app.state.limits = RateLimits.by(clock, sign_in=two, provider=two, unsafe=two)
    desk, stranger = seat(app, database), visitor(app)
    assert [stranger.send("/api/claim").status_code for _ in range(3)] == [401, 401, 429]
    assert [ask(app, f"sr_{number}").status_code for number in range(2)] == [429, 429]
    assert desk.post("/worklist/next").status_code == 303
    assert [stranger.get("/sign-in/provider").status_code for _ in range(3)] == [404, 404, 429]
    assert stranger.post("/sign-in", **sign_in_form(stranger)).status_code == 401


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("testclient", "testclient"),
    ],
)
def test_the_addresses_of_one_ipv6_network_share_a_bucket(host: str, key: str) -> None:
    assert address_of(Request({"type": "http", "client": (host, 1)})) == key


def test_an_answer_kept_for_a_token_is_not_told_to_a_token_that_may_less(
    app: FastAPI, database: Database, admin: Desk
) -> None:
    account = service(database)
    _, whole = token(admin, account, "worklist")
    _, less = token(admin, account, "figures")

    def search(value: str) -> Response:
        headers = {"Authorization": f"Bearer {value}", "Idempotency-Key": "k1"}
        return visitor(app).client.post("/api/worklist/search", json={"text": "MRN-4711"}, headers=headers)

    assert search(whole).status_code == 200
    refused = search(less)
    assert refused.status_code >= 400
    assert "idempotency-replayed" not in refused.headers
    assert search(whole).headers["idempotency-replayed"] == "true"
