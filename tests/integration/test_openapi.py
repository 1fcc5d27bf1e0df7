from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.openapi.models import OpenAPI
from fastapi.routing import iter_route_contexts
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipeline.dicom.sandbox import Sandbox
from pipeline.store import token_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.web import openapi
from pipeline.web.api import CARE
from pipeline.web.idempotency import is_told_once
from pipeline.web.rate_limit import Rate, RateLimits
from pipeline.web.sound_input import SOUND
from tests.reading_room_cases import (
    AUDIT,
    NOW,
    ORIGIN,
    PRIORITY,
    ROUTINE,
    Clock,
    Wanted,
    add_account,
    add_case,
    make_room,
    seat,
    visitor,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
CALLERS = ("viewer", "reader", "adjudicator", "lead", "data_scientist", "admin", "service", "anonymous")
WITHOUT_MODEL = {"text/event-stream", "application/octet-stream", "image/png", "application/dicom"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def app(database: Database, blobs: BlobStore, sandbox: Sandbox) -> FastAPI:
    clock = Clock()
    made = make_room(database, blobs, sandbox, clock)
    boundless = Rate(burst=1e9, per_second=1e9)
    made.state.limits = RateLimits.by(clock, sign_in=boundless, unsafe=boundless)
    return made


@pytest.fixture
def described(app: FastAPI) -> dict[str, Any]:
    return openapi.describe(app)


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_description_is_openapi_3_1(described: dict[str, Any]) -> None:
    assert described["openapi"] == "3.1.0"
    OpenAPI.model_validate(described)
    text = json.dumps(described)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        place: Any = described
        for name in reference.split("/"):
            place = place[name]
    assert "HTTPValidationError" not in text


def test_every_endpoint_for_programs_is_described_and_no_page_is(app: FastAPI, described: dict[str, Any]) -> None:
    routes = {
        (method, route.path_format)
        for route in iter_route_contexts(app.routes)
        if (route.path or "").startswith("/api") and route.path != "/api/docs"
        for method in route.methods or ()
    }
    assert {(method, path) for method, path, _ in operations(described)} == routes
    assert len(routes) > 8


def test_every_operation_has_a_name_of_its_own_a_summary_models_and_problems(described: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(set(names)) == len(names)
    for method, path, operation in operations(described):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["tags"], where
        answers = operation["responses"]
        (told,) = (answers[status] for status in answers if status.startswith("2"))
        for kind, content in told.get("content", {}).items():
            assert kind in WITHOUT_MODEL or content["schema"], where
        assert {"400", "401", "403", "404", "422", "429", "503"} <= set(answers), where
        if method != "GET":
            assert {"409", "412", "413"} <= set(answers), where
        for status, answer in answers.items():
            if status >= "4":
                assert answer["$ref"].startswith("#/components/responses/"), where
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["schema"], where


def test_every_body_refuses_unknown_fields(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    for method, path, operation in operations(described):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            name = content["schema"].get("$ref", "").rpartition("/")[2]
            assert schemas[name]["additionalProperties"] is False, f"{method} {path}"


def test_every_text_and_whole_number_that_is_sent_has_a_bound(described: dict[str, Any]) -> None:
    found = []
    for method, path, operation in operations(described):
        sent = [one["schema"] for one in operation["parameters"]]
        sent += [content["schema"] for content in operation.get("requestBody", {}).get("content", {}).values()]
        found += [f"{method} {path}: {what}" for schema in sent for what in unbounded(schema, described, "")]
    assert found == []


def unbounded(schema: dict[str, Any], described: dict[str, Any], name: str) -> Iterator[str]:
    """Places in what is sent that take text, whole numbers or lists of any size."""
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for one in (*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("prefixItems", ())):
        yield from unbounded(one, described, name)
    for inner, one in schema.get("properties", {}).items():
        yield from unbounded(one, described, f"{name}/{inner}")
    match schema.get("type"):
        case "string" if not {"maxLength", "pattern", "enum", "format", "const"} & set(schema):
            yield f"{name} is text of any length"
        case "integer" if not {"maximum", "exclusiveMaximum", "enum", "const"} & set(schema):
            yield f"{name} is a number of any size"
        case "array":
            if "maxItems" not in schema:
                yield f"{name} is a list of any length"
            yield from unbounded(schema.get("items") or {}, described, f"{name}/*")
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            if "maxProperties" not in schema:
                yield f"{name} is a map of any size"
            yield from unbounded(schema["additionalProperties"], described, f"{name}/*")


def test_the_description_is_told_to_whoever_is_signed_in(app: FastAPI, database: Database) -> None:
    desk = seat(app, database, role="data_scientist")
    assert desk.get("/api/openapi.json").json() == openapi.describe(app)
    assert visitor(app).get("/api/openapi.json").status_code == 401
    assert visitor(app).get("/api/docs").status_code == 401


def test_the_page_names_every_operation_and_loads_nothing_from_elsewhere(
    app: FastAPI, database: Database, described: dict[str, Any]
) -> None:
    page = seat(app, database).get("/api/docs").text
    for _, path, operation in operations(described):
        assert f'id="{operation["operationId"]}"' in page
        assert path in page
    assert "http://" not in page
    assert "https://" not in page


@dataclass
class House:
    """A room with cases in every state, and what a caller of each role shows."""

    app: FastAPI
    database: Database
    cases: list[str]
    shown: dict[str, dict[str, str]] = field(default_factory=dict)
    seats: int = 0

    def headers(self, role: str) -> dict[str, str]:
        """What a caller of this role shows; anonymous shows nothing."""
        if role not in self.shown:
            self.seats += 1
            self.shown[role] = self._service() if role == "service" else self._person(role)
        return {"Origin": ORIGIN} if role == "anonymous" else self.shown[role]

    def _person(self, role: str) -> dict[str, str]:
        name = f"{role}.{self.seats}"
        desk = seat(self.app, self.database, name, role="viewer" if role == "anonymous" else role)
        cookie = "; ".join(f"{key}={value}" for key, value in desk.client.cookies.items())
        return {"Origin": ORIGIN, "X-CSRF-Token": desk.token, "Cookie": cookie}

    def _service(self) -> dict[str, str]:
        account = add_account(self.database, f"service.{self.seats}", role="service", specialties=())
        with self.database.transaction() as connection:
            _, token = token_rows.issue(
                connection,
                account_id=account,
                label="fuzz",
                scopes=list(token_rows.Scope),
                life=timedelta(days=1),
                made_by=None,
                now=NOW,
            )
        return {"Authorization": f"Bearer {token}"}


def furnished(app: FastAPI, database: Database, blobs: BlobStore) -> House:
    """Cases that are free, held, committed, revealed, audited and never asked for."""
    wanted = (Wanted(), Wanted(), Wanted(), Wanted(), AUDIT, ROUTINE, PRIORITY, replace(Wanted(), answered=False))
    cases = [add_case(database, blobs, one) for one in wanted]
    desk = seat(app, database, "dr.busy")
    for case in cases[1:4]:
        assert desk.send("/api/claim", case_id=case).status_code == 200
    for case in cases[2:4]:
        desk.send(f"/api/cases/{case}/commit", fence=1, finding="tumour", certainty=3)
    desk.send(f"/api/cases/{cases[3]}/reveal")
    return House(app=app, database=database, cases=cases)


def ask_everything(
    house: House, described: dict[str, Any], callers: Sequence[str], examples: int
) -> set[tuple[str, str, int]]:
    """Ask every operation what its description allows and what it forbids; operation, caller and status of each."""
    schema = schemathesis.openapi.from_dict(described)
    schema.app = house.app
    turns = cycle(callers)
    seen: set[tuple[str, str, int]] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            for caller, status in ask(house, operation, mode, turns, examples):
                seen.add((operation.label, caller, status))
    return seen


def ask(
    house: House, operation: Any, mode: GenerationMode, turns: Iterator[str], examples: int
) -> set[tuple[str, int]]:
    seen: set[tuple[str, int]] = set()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sent=operation.as_strategy(generation_mode=mode), data=st.data())
    def go(sent: Any, data: st.DataObject) -> None:
        caller = next(turns)
        if "case_id" in (sent.path_parameters or {}) and data.draw(st.integers(0, 3)):
            sent.path_parameters["case_id"] = data.draw(st.sampled_from(house.cases))
        answer = sent.call(base_url=ORIGIN, headers=house.headers(caller))
        seen.add((caller, answer.status_code))
        sent.validate_response(answer, checks=CHECKS)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            house.shown.pop(caller, None)  # it ended its own session; the next request is a fresh caller's

    go()
    return seen


def test_nothing_that_is_asked_breaks_the_interface(
    app: FastAPI, database: Database, blobs: BlobStore, described: dict[str, Any]
) -> None:
    seen = ask_everything(furnished(app, database, blobs), described, CALLERS, len(CALLERS))
    assert {caller for _, caller, _ in seen} == set(CALLERS)
    assert {status for _, _, status in seen if status >= 500} == set()
    assert {status for _, caller, status in seen if caller == "anonymous"} <= {400, 401, 422}


@pytest.mark.slow
@pytest.mark.parametrize("caller", CALLERS)
def test_nothing_that_is_asked_for_long_breaks_the_interface(
    app: FastAPI, database: Database, blobs: BlobStore, described: dict[str, Any], caller: str
) -> None:
    seen = ask_everything(furnished(app, database, blobs), described, [caller], 50)
    assert {status for _, _, status in seen if status >= 500} == set()


Sendable = tuple[str, str, str, str, dict[str, Any] | None]


def walk(case: str, other: str, *, account: str, service: str, token: str) -> Iterator[Sendable]:
    """One request for every operation that succeeds in this order: its name, who sends it, method, path, body."""
    at, people = f"/api/cases/{case}", f"/api/people/{account}"
    yield "api_show_session", "viewer", "GET", "/api/session", None
    yield "openapi_describe_interface", "service", "GET", "/api/openapi.json", None
    yield "worklist_show_worklist", "service", "GET", "/api/worklist", None
    yield "worklist_search_cases", "reader", "POST", "/api/worklist/search", {"text": "ACC-1"}
    yield "cases_show_case", "service", "GET", at, None
    yield "images_list_series", "service", "GET", f"{at}/series", None
    yield "images_describe_series", "service", "GET", f"{at}/series/0", None
    yield "images_series_pixels", "service", "GET", f"{at}/series/0/pixels", None
    yield "images_list_priors", "service", "GET", f"{at}/priors", None
    yield "lead_show_timeline", "reader", "GET", f"{at}/timeline", None
    yield (
        "break_glass_open_case_for_program",
        "admin",
        "POST",
        f"{at}/emergency",
        {"reason": "Nobody else is there now"},
    )
    yield "claims_claim_case", "reader", "POST", "/api/claim", {"case_id": case}
    yield "claims_extend_claim", "reader", "POST", f"{at}/extend", {"fence": 1}
    draft = {"finding": "tumour", "certainty": "3", "comment": "", "because": "", "answers": {}}
    yield "reading_save_draft", "reader", "PUT", f"{at}/draft", {"fence": 1, "draft": draft}
    yield "reading_show_draft", "reader", "GET", f"{at}/draft", None
    yield "worklist_pause_case", "reader", "POST", f"{at}/pause", {"fence": 1, "reason": "TECHNICAL"}
    yield "worklist_resume_case", "reader", "POST", f"{at}/resume", None
    yield "claims_claim_case", "reader", "POST", "/api/claim", {"case_id": other}
    yield "claims_release_case", "reader", "POST", f"/api/cases/{other}/release", {"fence": 1}
    yield "worklist_hand_over_case", "lead", "POST", f"/api/cases/{other}/hand-over", {"to": "reader.desk"}
    yield "claims_claim_case", "reader", "POST", "/api/claim", {"case_id": case}
    read = {"fence": 2, "finding": "tumour", "certainty": 3}
    yield "cases_commit_read", "reader", "POST", f"{at}/commit", read
    yield "cases_reveal_answer", "reader", "POST", f"{at}/reveal", None
    yield "cases_compare_answer", "reader", "POST", f"{at}/compare", {"agreement": "agree"}
    yield "reading_show_reads", "reader", "GET", f"{at}/reads", None
    yield "reading_show_agreement", "data_scientist", "GET", "/api/agreement", None
    yield "lead_show_figures", "service", "GET", "/api/figures", None
    yield "lead_stop", "lead", "POST", "/api/stop", {"reason": "The scanner was exchanged today"}
    yield "lead_rearm", "lead", "POST", "/api/rearm", {"reason": "The scanner was checked today"}
    yield "lead_show_notices", "lead", "GET", "/api/notices", None
    yield "people_list_people", "admin", "GET", "/api/people", None
    yield "people_add_person", "admin", "POST", "/api/people", {"name": "dr.new", "role": "viewer"}
    yield "people_show_person", "admin", "GET", people, None
    yield "people_change_role", "admin", "PUT", f"{people}/role", {"role": "viewer"}
    yield "people_disable", "admin", "POST", f"{people}/disable", None
    yield "people_enable", "admin", "POST", f"{people}/enable", None
    yield "people_reset_password", "admin", "POST", f"{people}/password", None
    yield "people_remove_second_factor", "admin", "DELETE", f"{people}/second-factor", None
    tokens = f"/api/people/{service}/tokens"
    yield "people_issue_token", "admin", "POST", tokens, {"label": "more", "scopes": ["figures"], "days": 1}
    yield "people_list_tokens", "admin", "GET", tokens, None
    yield "people_revoke_token", "admin", "DELETE", f"{tokens}/{token}", None


def test_every_operation_can_succeed_and_its_answer_is_as_described(
    app: FastAPI, database: Database, blobs: BlobStore, described: dict[str, Any]
) -> None:
    case, other = (add_case(database, blobs, Wanted()) for _ in range(2))
    house = House(app=app, database=database, cases=[case])
    seat(app, database, "reader.desk")
    account = add_account(database, "dr.other")
    house.headers("service")
    with database.read() as connection:
        service, token = connection.exec_driver_sql("SELECT account_id, id FROM api_token").one()
    schema = schemathesis.openapi.from_dict(described)
    places = {operation["operationId"]: (path, method) for method, path, operation in operations(described)}
    missing = set(places)
    for name, caller, method, path, body in walk(case, other, account=account, service=service, token=token):
        answer = visitor(app).client.request(method, path, json=body, headers=house.headers(caller))
        assert 200 <= answer.status_code < 300, (name, answer.text)
        template, described_method = places[name]
        assert described_method == method
        schema[template][method].validate_response(answer)
        missing.discard(name)
    assert missing == set()


def test_every_endpoint_for_programs_takes_the_same_care(app: FastAPI) -> None:
    for route in openapi.endpoints(app):
        cared = {dependency.call for dependency in route.dependant.dependencies}
        assert {one.dependency for one in CARE} <= cared, route.path


def test_no_secret_is_kept_under_a_key(app: FastAPI) -> None:
    secret = re.compile(r"secret|password|token|otp|recovery")
    for route in openapi.endpoints(app):
        fields = getattr(route.response_model, "model_fields", {})
        if "POST" in (route.methods or ()) and any(secret.fullmatch(name) for name in fields):
            assert is_told_once(route.endpoint), route.path


def test_every_page_looks_at_what_is_sent_before_it_is_used(app: FastAPI) -> None:
    for route in iter_route_contexts(app.routes):
        path = route.path or ""
        if path.startswith(("/dicom-web/", "/static", "/live", "/ready")):
            continue
        assert SOUND[0].dependency in {one.call for one in route.dependant.dependencies}, path
