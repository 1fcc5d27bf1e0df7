from __future__ import annotations

import base64
import hashlib
import hmac
import html
import io
import json
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import werkzeug
import werkzeug.serving
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import RSAKey
from sqlalchemy import select

from pipeline import membership
from pipeline.dicom.sandbox import Sandbox
from pipeline.reading_room import Provider, ReadingRoom
from pipeline.store import people_rows
from pipeline.store.account_rows import Role
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.people_rows import Person
from pipeline.store.tables import audit_event
from pipeline.web.provider import Flow
from tests.reading_room_cases import NOW, ORIGIN, PASSWORD, Clock, Desk, add_account, make_room, seat, visitor

with warnings.catch_warnings():
    import authlib.deprecate  # its own filter first, so that ours comes before it

    warnings.simplefilter("ignore", authlib.deprecate.AuthlibDeprecationWarning)
    import oidc_provider_mock

# The provider's own use of its library, not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore::authlib.deprecate.AuthlibDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning"),
]
ID, SECRET = "reading-room", "a secret of two programs"
PEOPLE = {
    "u-okafor": {"preferred_username": "dr.okafor", "groups": ["staff", "radiology"]},
    "u-weiss": {"preferred_username": "dr.weiss", "groups": ["radiology-leads", "radiology", "neuro"]},
    "u-guest": {"preferred_username": "guest", "groups": ["visitors"]},
    "u-none": {"preferred_username": "nobody"},
    "u-odd": {"preferred_username": "a\u202eb\n<i>", "groups": "radiology"},
    "u-system": {"preferred_username": "outside system", "groups": ["radiology"]},
}


@dataclass
class RealProvider:
    """A real provider on loopback, with a hand in its answers where a test wants one."""

    port: int = 0
    change_token: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    change_discovery: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    change_keys: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    verifiers: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wrap(self, app: Any) -> Any:
        def wrapped(environ: dict[str, Any], start_response: Any) -> Any:
            path = environ["PATH_INFO"]
            self.asked.append(path)
            if path == "/oauth2/token":
                return self._answer(app, environ, start_response, self._token)
            if path.endswith("openid-configuration"):
                return self._answer(app, environ, start_response, self.change_discovery)
            if path == "/jwks":
                return self._answer(app, environ, start_response, self.change_keys)
            return app(environ, start_response)

        return wrapped

    def _token(self, answer: dict[str, Any]) -> dict[str, Any]:
        return self.change_token(answer) if "id_token" in answer else answer

    def _answer(self, app: Any, environ: dict[str, Any], start_response: Any, change: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        self.verifiers.extend(parse_qs(body.decode()).get("code_verifier", []))
        answer = werkzeug.Response.from_app(app, environ, buffered=True)
        answer.set_data(json.dumps(change(json.loads(answer.get_data()))))
        return answer(environ, start_response)


@pytest.fixture
def provider() -> Iterator[RealProvider]:
    users = [oidc_provider_mock.User(sub=sub, claims=claims) for sub, claims in PEOPLE.items()]
    real = RealProvider()
    application = oidc_provider_mock.app(require_nonce=True, user_claims=users)
    server = werkzeug.serving.make_server("127.0.0.1", 0, real.wrap(application), threaded=True)
    real.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield real
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime.now(UTC))


def rules(issuer: str) -> ReadingRoom:
    return ReadingRoom(
        provider=Provider.model_validate(
            {
                "issuer": issuer,
                "client_id": ID,
                "client_secret": SECRET,
                "roles": {"radiology-leads": "lead", "radiology": "reader"},
                "specialties": {"neuro": "neuroradiology", "radiology": "general"},
            }
        )
    )


@pytest.fixture
def app(database: Database, tmp_path: Path, clock: Clock, provider: RealProvider) -> Iterator[FastAPI]:
    with Sandbox() as sandbox:
        yield make_room(database, BlobStore(tmp_path / "blobs"), sandbox, clock, rules=rules(provider.issuer))


def at_the_provider(url: str, sub: str) -> str:
    """What the provider sends the browser back with: the path and query of our own address."""
    answer = httpx.post(url, data={"sub": sub}, follow_redirects=False, timeout=10)
    back = urlsplit(answer.headers["location"])
    assert f"{back.scheme}://{back.netloc}" == ORIGIN
    return f"{back.path}?{back.query}"


def round_of(desk: Desk, sub: str) -> httpx.Response:
    return desk.get(at_the_provider(desk.get("/sign-in/provider").headers["location"], sub))


def person(database: Database, name: str) -> Person:
    with database.read() as connection:
        return people_rows.person_named(connection, name)


def said(page: httpx.Response) -> str:
    found = re.search(r'role="alert">([^<]+)<', page.text)
    assert found, page.status_code
    return html.unescape(found[1])


def test_somebody_of_the_site_comes_in_with_role_and_specialties_of_their_groups(
    app: FastAPI, database: Database
) -> None:
    desk = visitor(app)
    assert "Sign in with the hospital" in desk.get("/sign-in").text
    assert round_of(desk, "u-okafor").headers["location"] == "/"
    assert desk.get("/api/session").json()["name"] == "dr.okafor"
    who = person(database, "dr.okafor")
    assert (who.role, who.specialties, who.by_provider) == ("reader", ("general",), True)
    assert "secondread-provider" not in desk.client.cookies


def test_of_several_groups_the_first_in_the_rules_decides(app: FastAPI, database: Database) -> None:
    assert round_of(visitor(app), "u-weiss").status_code == 303
    who = person(database, "dr.weiss")
    assert (who.role, who.specialties) == ("lead", ("general", "neuroradiology"))


def test_the_provider_is_asked_with_state_nonce_and_a_challenge_whose_verifier_only_it_learns(
    app: FastAPI, provider: RealProvider
) -> None:
    desk = visitor(app)
    url = desk.get("/sign-in/provider").headers["location"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == f"{ORIGIN}/sign-in/provider/back"
    assert "openid" in asked["scope"].split()
    assert min(len(asked["state"]), len(asked["nonce"])) >= 32
    other = parse_qs(urlsplit(visitor(app).get("/sign-in/provider").headers["location"]).query)
    assert {asked["state"], asked["nonce"]}.isdisjoint({other["state"][0], other["nonce"][0]})
    assert desk.get(at_the_provider(url, "u-okafor")).status_code == 303
    (verifier,) = provider.verifiers
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    assert asked["code_challenge"] == challenge
    assert verifier not in url


@pytest.mark.parametrize("sub", ["u-guest", "u-none"])
def test_who_is_in_no_group_of_the_rules_stays_out_and_is_told_why(app: FastAPI, database: Database, sub: str) -> None:
    page = round_of(visitor(app), sub)
    assert page.status_code == 403
    assert "none of the groups" in said(page)
    with database.read() as connection:
        assert people_rows.list_people(connection) == []


def test_state_of_another_browser_or_none_is_refused_before_the_provider_is_asked(
    app: FastAPI, provider: RealProvider
) -> None:
    desk, other = visitor(app), visitor(app)
    other.get("/sign-in/provider")
    back = at_the_provider(desk.get("/sign-in/provider").headers["location"], "u-okafor")
    before = len(provider.asked)
    code = parse_qs(urlsplit(back).query)["code"][0]
    for victim, path in (
        (other, back),
        (visitor(app), back),
        (desk, f"/sign-in/provider/back?{urlencode({'code': code, 'state': 'x'})}"),
        (desk, f"/sign-in/provider/back?{urlencode({'code': code})}"),
    ):
        page = victim.get(path)
        assert page.status_code == 400
        assert "did not begin in this browser" in said(page)
    assert len(provider.asked) == before


def test_a_sign_in_that_took_more_than_ten_minutes_begins_again(app: FastAPI, clock: Clock) -> None:
    desk = visitor(app)
    back = at_the_provider(desk.get("/sign-in/provider").headers["location"], "u-okafor")
    clock.advance(minutes=10)
    assert desk.get(back).status_code == 400


def test_the_way_back_is_gone_only_once(app: FastAPI) -> None:
    desk = visitor(app)
    desk.get("/sign-in/provider")
    begun = desk.client.cookies["secondread-provider"]
    back = at_the_provider(desk.get("/sign-in/provider").headers["location"], "u-okafor")
    begun = desk.client.cookies["secondread-provider"]
    assert desk.get(back).status_code == 303
    assert desk.get(back).status_code == 400
    thief = visitor(app)
    thief.client.cookies.set("secondread-provider", begun)
    page = thief.get(back)
    assert page.status_code == 403
    assert "used before" in said(page)


FORGER = RSAKey.generate_key(2048)
OWN = RSAKey.generate_key(2048, {"kid": "published"})


def claims_of(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(answer["id_token"].split(".")[1] + "=="))
    return found


def resigned(answer: dict[str, Any], **claims: Any) -> dict[str, Any]:
    """The token with other claims, signed with a key that the provider publishes."""
    content = {name: value for name, value in (claims_of(answer) | claims).items() if value is not None}
    return answer | {"id_token": jwt.encode({"alg": "RS256", "kid": OWN.kid}, content, OWN)}


@pytest.fixture
def own_key(provider: RealProvider) -> None:
    """The provider publishes a key of the test beside its own."""
    provider.change_keys = lambda answer: {"keys": [*answer["keys"], OWN.as_dict(private=False)]}


def test_what_is_signed_with_a_published_key_is_believed(app: FastAPI, provider: RealProvider, own_key: None) -> None:
    provider.change_token = resigned
    assert round_of(visitor(app), "u-okafor").status_code == 303


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "0" * 64},
        {"nonce": None},
        {"aud": "another-program"},
        {"aud": ["another-program"]},
        {"aud": None},
        {"azp": "another-program"},
        {"aud": [ID, "another-program"]},
        {"aud": [ID, "another-program"], "azp": "another-program"},
        {"iss": "http://127.0.0.1:1"},
        {"iss": None},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"iat": int(time.time()) + 3600},
        {"nbf": int(time.time()) + 3600},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
    ],
    ids="-".join,
)
def test_a_token_that_says_something_else_is_not_believed(
    app: FastAPI, database: Database, provider: RealProvider, own_key: None, claims: dict[str, Any]
) -> None:
    provider.change_token = lambda answer: resigned(answer, **claims)
    desk = visitor(app)
    page = round_of(desk, "u-okafor")
    assert page.status_code == 403
    assert desk.get("/account").headers["location"] == "/sign-in"
    with database.read() as connection:
        assert people_rows.list_people(connection) == []


def _segments(answer: dict[str, Any]) -> list[str]:
    parts: list[str] = answer["id_token"].split(".")
    return parts


def _encoded(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def other_claims(answer: dict[str, Any]) -> dict[str, Any]:
    head, _, signature = _segments(answer)
    claims = claims_of(answer) | {"groups": ["radiology-leads"]}
    return answer | {"id_token": ".".join([head, _encoded(claims), signature])}


def unsigned(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"id_token": f"{_encoded({'alg': 'none'})}.{_segments(answer)[1]}."}


def forged(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"id_token": jwt.encode({"alg": "RS256"}, claims_of(answer), FORGER)}


def signed_with_the_client_secret(answer: dict[str, Any]) -> dict[str, Any]:
    head, body = _encoded({"alg": "HS256"}), _segments(answer)[1]
    digest = hmac.new(SECRET.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return answer | {"id_token": f"{head}.{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"}


@pytest.mark.parametrize(
    "change",
    [
        other_claims,
        unsigned,
        forged,
        signed_with_the_client_secret,
        lambda answer: answer | {"id_token": "x.y.z"},
        lambda answer: answer | {"id_token": 7},
        lambda answer: {name: value for name, value in answer.items() if name != "id_token"},
    ],
)
def test_a_token_that_the_provider_did_not_sign_is_not_believed(
    app: FastAPI, provider: RealProvider, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    provider.change_token = change
    desk = visitor(app)
    assert round_of(desk, "u-okafor").status_code == 403
    assert desk.get("/account").headers["location"] == "/sign-in"


def test_with_the_provider_away_the_page_says_so_and_local_accounts_come_in(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    add_account(database, "dr.local")
    with Sandbox() as sandbox:
        app = make_room(database, BlobStore(tmp_path / "b"), sandbox, clock, rules=rules("http://127.0.0.1:9"))
        desk = visitor(app)
        page = desk.get("/sign-in/provider")
        assert page.status_code == 503
        assert "cannot be reached" in said(page)
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert token
        opened = desk.post("/sign-in", name="dr.local", password=PASSWORD, csrf_token=token[1])
        assert opened.headers["location"] == "/"


def test_a_provider_that_dies_between_going_and_coming_back_is_away_too(app: FastAPI, provider: RealProvider) -> None:
    desk = visitor(app)
    back = at_the_provider(desk.get("/sign-in/provider").headers["location"], "u-okafor")
    provider.change_discovery = lambda _: {}
    assert desk.get(back).status_code == 503


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://evil.example/token"},
        {"authorization_endpoint": "http://169.254.169.254/latest"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
        {"token_endpoint": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_addresses_that_are_neither_https_nor_this_machine_are_never_spoken_to(
    app: FastAPI, provider: RealProvider, change: dict[str, Any]
) -> None:
    provider.change_discovery = lambda answer: answer | change
    assert visitor(app).get("/sign-in/provider").status_code == 503


def test_who_says_no_at_the_provider_is_back_at_the_sign_in_page(app: FastAPI) -> None:
    desk = visitor(app)
    url = desk.get("/sign-in/provider").headers["location"]
    state = parse_qs(urlsplit(url).query)["state"][0]
    page = desk.get(f"/sign-in/provider/back?{urlencode({'error': 'access_denied', 'state': state})}")
    assert page.status_code == 403
    assert "access_denied" not in page.text


def test_a_role_that_changed_at_the_provider_changes_here_and_ends_older_sessions(
    app: FastAPI, database: Database, provider: RealProvider, own_key: None
) -> None:
    desk = visitor(app)
    round_of(desk, "u-okafor")
    provider.change_token = lambda answer: resigned(answer, groups=["radiology-leads"])
    later = visitor(app)
    assert round_of(later, "u-okafor").status_code == 303
    assert person(database, "dr.okafor").role == "lead"
    assert desk.get("/account").status_code == 303
    assert later.get("/account").status_code == 200
    provider.change_token = lambda answer: resigned(answer, groups=[])
    assert round_of(visitor(app), "u-okafor").status_code == 403


def test_who_was_shut_out_here_stays_out(app: FastAPI, database: Database) -> None:
    round_of(visitor(app), "u-okafor")
    admin = seat(app, database, "ada", role="admin")
    assert admin.post(f"/people/{person(database, 'dr.okafor').id}/disable").status_code == 303
    page = round_of(visitor(app), "u-okafor")
    assert page.status_code == 403
    assert "shut out" in said(page)


def test_a_name_that_somebody_has_here_is_not_taken_over(app: FastAPI, database: Database) -> None:
    local = add_account(database, "dr.okafor", role="admin")
    desk = visitor(app)
    round_of(desk, "u-okafor")
    assert desk.get("/api/session").json()["name"] == "u-okafor"
    assert person(database, "dr.okafor").id == local
    assert not person(database, "dr.okafor").by_provider


def test_names_are_made_printable_and_that_of_other_systems_is_not_given(app: FastAPI) -> None:
    for sub, name in (("u-odd", "ab<i>"), ("u-system", "u-system")):
        desk = visitor(app)
        assert round_of(desk, sub).status_code == 303
        assert desk.get("/api/session").json()["name"] == name
    assert "<i>" not in desk.get("/account").text


def test_whom_the_provider_vouches_for_has_no_password_here(app: FastAPI, database: Database) -> None:
    desk = visitor(app)
    round_of(desk, "u-okafor")
    assert "changed there" in desk.get("/account").text
    token = re.search(r'name="csrf_token" value="([^"]+)"', desk.get("/sign-in").text)
    assert token
    for password in ("", "!", PASSWORD):
        assert visitor(app).post("/sign-in", name="dr.okafor", password=password).status_code == 403
        assert desk.post("/sign-in", name="dr.okafor", password=password, csrf_token=token[1]).status_code == 401
        token = re.search(r'name="csrf_token" value="([^"]+)"', desk.get("/sign-in").text)
        assert token


def test_without_a_provider_in_the_rules_there_is_no_such_way_in(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    with Sandbox() as sandbox:
        app = make_room(database, BlobStore(tmp_path / "b"), sandbox, clock)
        desk = visitor(app)
        assert "provider" not in desk.get("/sign-in").text
        assert desk.get("/sign-in/provider").status_code == 404
        assert desk.get("/sign-in/provider/back?code=x&state=y").status_code == 404


def test_the_values_of_a_sign_in_follow_from_key_and_visit_and_from_nothing_less() -> None:
    one = Flow.of(b"k" * 32, "visit")
    assert one == Flow.of(b"k" * 32, "visit")
    assert len({one.state, one.nonce, one.verifier}) == 3
    assert Flow.of(b"k" * 32, "other").state != one.state
    assert Flow.of(b"l" * 32, "visit").state != one.state


def test_no_address_that_a_browser_sends_leads_anywhere(app: FastAPI) -> None:
    desk = visitor(app)
    for query in ("next=https://evil.example", "redirect_uri=https://evil.example", "issuer=https://evil.example"):
        url = desk.get(f"/sign-in/provider?{query}").headers["location"]
        assert "evil" not in url
    back = at_the_provider(desk.get("/sign-in/provider").headers["location"], "u-okafor")
    assert desk.get(f"{back}&next=https://evil.example").headers["location"] == "/"


def test_a_token_for_several_is_believed_where_it_names_us_as_the_one_who_asked(
    app: FastAPI, provider: RealProvider, own_key: None
) -> None:
    provider.change_token = lambda answer: resigned(answer, aud=[ID, "another-program"], azp=ID)
    assert round_of(visitor(app), "u-okafor").status_code == 303


@pytest.mark.parametrize("visit", ["999999999999.x", "99999999999.x", "9999999999.x", "0.x", ".x", "\u0661.x", "1."])
def test_a_cookie_that_was_not_made_here_is_no_sign_in(app: FastAPI, visit: str) -> None:
    desk = visitor(app)
    headers = [(b"cookie", b"secondread-provider=" + visit.encode())]
    answer = desk.client.get("/sign-in/provider/back?code=a&state=b", headers=headers)
    assert answer.status_code == 400
    assert "did not begin in this browser" in said(answer)


def test_the_last_administrator_is_not_demoted_by_the_provider_and_another_one_is(database: Database) -> None:
    def come(number: int, role: Role) -> Role:
        subject = str(number) * 64
        return membership.admit(
            database, subject=subject, names=[f"boss {number}"], role=role, specialties=(), now=NOW
        ).role

    come(1, Role.ADMIN)
    assert come(1, Role.VIEWER) is Role.ADMIN
    assert person(database, "boss 1").role is Role.ADMIN
    with database.read() as connection:
        assert "last_admin_kept" in connection.execute(select(audit_event.c.event)).scalars().all()
    come(2, Role.ADMIN)
    assert come(1, Role.VIEWER) is Role.VIEWER
    assert come(2, Role.VIEWER) is Role.ADMIN


@pytest.mark.parametrize("name", ["command line", "Provider", "  REVIEW ", "sys\u200btem", "\uff49nit"])
def test_nobody_is_named_like_the_house_itself(database: Database, name: str) -> None:
    who = membership.admit(
        database, subject="s" * 64, names=[name, "u-plain"], role=Role.READER, specialties=(), now=NOW
    )
    assert who.name == "u-plain"
