"""The interface's own description (OpenAPI 3.1), made from the endpoints: for programs as JSON, for people as a page.

What every endpoint has in common is added here once: an id, a summary, a tag, the ways to prove who asks, and the
problems that may come instead of an answer. Pages and DICOMweb are not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext, iter_route_contexts

from pipeline.web.access import CLOSED, Session
from pipeline.web.api_models import Problem
from pipeline.web.room import Here

PREFIX: Final = "/api/"
_ALWAYS: Final = (400, 401, 403, 404, 422, 429, 503)
_UNSAFE: Final = (409, 412, 413)
_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_TEXT: Final = {"type": "string"}
_SOON: Final = {"Retry-After": {"description": "seconds until it is worth asking again", "schema": _TEXT}}
_TAG: Final = {"ETag": {"description": "the strong tag of this answer", "schema": _TEXT}}
_AGAIN: Final = {"Idempotency-Replayed": {"description": "true where this was answered before", "schema": _TEXT}}
_KNOWN: Final = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "an ETag that is known; 304 where it still holds",
    "schema": {"type": "string", "maxLength": 1024},
}
_ONLY_UNSAFE: Final = frozenset({"idempotency-key", "if-match"})
_DESCRIPTION: Final = (
    "The reading room for programs. A session proves itself by its cookie and, where something changes, by the token in "
    "X-CSRF-Token (GET /api/session tells it) with an Origin of this host; a service by its bearer token. Errors are "
    "application/problem+json. No endpoint tells what the model said of a case before the caller's own read of it is "
    "committed and revealed. Patients are not named anywhere here."
)

router = APIRouter(prefix="/api", dependencies=CLOSED)


def endpoints(app: FastAPI) -> Iterator[RouteContext]:
    """Every endpoint of the interface."""
    for route in iter_route_contexts(app.routes):
        if (route.path or "").startswith(PREFIX) and getattr(route, "include_in_schema", False):
            yield route


def tag_of(route: RouteContext) -> str:
    """The part of the interface that an endpoint belongs to: the name of its module."""
    return str(route.endpoint.__module__).rpartition(".")[2].removesuffix("_api") if route.endpoint else ""


def describe(app: FastAPI) -> dict[str, Any]:
    """The description, made once for an application."""
    if app.openapi_schema is None:
        app.openapi_schema = _described(app)
    return app.openapi_schema


def _described(app: FastAPI) -> dict[str, Any]:
    routes = list(endpoints(app))
    found = get_openapi(title=app.title, version=version("secondread"), description=_DESCRIPTION, routes=routes)
    for route in routes:
        for method in route.methods or ():
            _complete(found["paths"][route.path_format][method.lower()], route, method)
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
    parts["responses"] = {_name(status): _problem(status) for status in (*_ALWAYS, *_UNSAFE)}
    parts["responses"][_name(304)] = {"description": "What If-None-Match names still holds", "headers": _TAG}
    parts["securitySchemes"] = _schemes(app)
    found["tags"] = [{"name": name} for name in sorted({tag_of(route) for route in routes})]
    return found


def _complete(operation: dict[str, Any], route: RouteContext, method: str) -> None:
    is_safe = method == "GET"
    name = str(route.name)
    operation["operationId"] = f"{tag_of(route)}_{name}"
    operation["tags"] = [tag_of(route)]
    operation["summary"] = str(operation.get("description") or name).partition("\n")[0].rstrip(".")
    session: dict[str, list[str]] = {"session": []} if is_safe else {"session": [], "csrf": []}
    operation["security"] = [session, {"token": []}]
    _complete_parameters(operation, is_safe=is_safe)
    answers = operation["responses"]
    for status in _ALWAYS if is_safe else (*_ALWAYS, *_UNSAFE):
        answers[str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}
    told = {status: answer for status, answer in answers.items() if status.startswith("2")}
    for answer in told.values():
        answer.setdefault("headers", {}).update(_TAG if is_safe else _AGAIN)
    if is_safe:
        answers["304"] = {"$ref": f"#/components/responses/{_name(304)}"}


def _complete_parameters(operation: dict[str, Any], *, is_safe: bool) -> None:
    found = operation.get("parameters", [])
    if is_safe:
        found = [one for one in found if one["name"].lower() not in _ONLY_UNSAFE]
        found.append(_KNOWN)
    operation["parameters"] = found


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")


def _problem(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
    if status in {409, 429, 503}:
        answer["headers"] = _SOON
    if status == HTTPStatus.PRECONDITION_FAILED:
        answer["headers"] = {"ETag": {"description": "the present tag of the case", "schema": _TEXT}}
    return answer


def _schemes(app: FastAPI) -> dict[str, Any]:
    cookie = app.state.room.cookie_name
    return {
        "session": {"type": "apiKey", "in": "cookie", "name": cookie, "description": "a signed-in person"},
        "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token", "description": "the token of the session"},
        "token": {"type": "http", "scheme": "bearer", "description": "a service of the site, with the token's scopes"},
    }


@router.get("/openapi.json", response_model=dict[str, Any])
def describe_interface(request: Request) -> dict[str, Any]:
    """Tell this description."""
    return describe(request.app)


@router.get("/docs", include_in_schema=False)
def show_description(request: Request, room: Here, session: Session) -> Response:
    """The description as a page to read."""
    described = describe(request.app)
    about = described["info"]["description"]
    return room.page("api.html", session=session, about=about, operations=_to_read(described))


def _to_read(described: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Operations by their tag, each with what a reader of the page asks first."""
    found: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in described["tags"]}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            found[operation["tags"][0]].append(
                {
                    "path": path,
                    "method": method.upper(),
                    "id": operation["operationId"],
                    "summary": operation["summary"],
                    "description": operation.get("description", ""),
                    "parameters": [
                        (one["name"], _kind(one["schema"])) for one in operation["parameters"] if one["in"] != "header"
                    ],
                    "sends": _fields(described, body),
                    "tells": _fields(described, _told(operation)),
                }
            )
    return found


def _told(operation: dict[str, Any]) -> dict[str, Any] | None:
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            told: dict[str, Any] | None = answer.get("content", {}).get("application/json", {}).get("schema")
            return told
    return None


def _fields(described: dict[str, Any], schema: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Name and kind of each field of a body; nothing for what is no object."""
    if schema is None:
        return []
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return [(name, _kind(inner)) for name, inner in schema.get("properties", {}).items()]


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(str(one) for one in schema["enum"])
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("format") or schema.get("type") or "any value")
