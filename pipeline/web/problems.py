"""Errors as people and programs read them: one page, or problem+json (RFC 9457) for programs, never an inside.

The path decides the form of an answer here and nothing else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import (
    HaltPipeline,
    NoSuchCase,
    NoSuchPerson,
    NotAllowed,
    RetryLater,
    StaleClaim,
    UnfinishedRead,
    UnfitAccount,
)
from pipeline.outside_reading import ItemConflict, NoSuchItem
from pipeline.store.refusals import ConstraintRefused
from pipeline.web.access import CaseClosed, Forged, NoDoor, NotKnown, NotSignedIn, Refused
from pipeline.web.rate_limit import TooMany
from pipeline.web.room import room_of
from pipeline.web.sound_input import Unsound

_log = logging.getLogger(__name__)
_FORGED = "this form was not sent from its own page, or the page is too old; open it again"
_MALFORMED = "the request lacks a field or holds one that cannot be understood; open the page again"
_BROKEN = "something failed on our side; nothing was decided, and the case stays where it is"
_NO_DOOR = "no other system may come in: no token was agreed"
_AWAY = "the room is busy or its database away; wait a moment and try again"
_CROSSED = "somebody else changed this at the same moment; nothing was written, look again and repeat"
_TOO_LARGE = "the request is too large; shorten it"
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def wants_json(request: Request) -> bool:
    """Whether a program rather than a person is asking."""
    return str(request.scope["path"]).startswith(("/api/", "/dicom-web/"))


def problem(
    request: Request, status: int, detail: str, *, pointer: str | None = None, more: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that can not be met, with `more` headers; `pointer` names the field at fault."""
    title = HTTPStatus(status).phrase
    headers = {**({"Retry-After": "5"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}), **(more or {})}
    if wants_json(request):
        content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        if pointer is not None:
            content["pointer"] = pointer
        return JSONResponse(content, status_code=status, headers=headers, media_type="application/problem+json")
    page = room_of(request).page("problem.html", status=status, code=status, title=title, detail=detail)
    page.headers.update(headers)
    return page


def _case_closed(request: Request, error: Exception) -> Response:
    answer = problem(request, HTTPStatus.FORBIDDEN, str(error))
    if wants_json(request):
        return answer
    said = {"code": 403, "title": HTTPStatus.FORBIDDEN.phrase, "detail": str(error)}
    case_id = request.path_params.get("case_id")
    return room_of(request).page("problem.html", status=HTTPStatus.FORBIDDEN, emergency=case_id, **said)


def _not_signed_in(request: Request, _: Exception) -> Response:
    if wants_json(request):
        return problem(request, HTTPStatus.UNAUTHORIZED, "sign in first")
    return RedirectResponse("/sign-in", status_code=303)


def _no_door(request: Request, _: Exception) -> Response:
    return problem(request, HTTPStatus.NOT_FOUND, _NO_DOOR)


def _not_known(request: Request, _: Exception) -> Response:
    answer = problem(request, HTTPStatus.UNAUTHORIZED, "send the agreed token as 'Authorization: Bearer'")
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _refused(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else HTTPStatus.BAD_REQUEST
    return problem(request, status, str(error))


def _by_framework(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    said = {
        404: "there is no such page; go back to the worklist",
        405: "this page does not take such a request",
        413: _TOO_LARGE,
    }
    more = error.headers if isinstance(error, HTTPException) else None
    return problem(request, status, said.get(status, _MALFORMED), more=more)


def _invalid(request: Request, error: Exception) -> Response:
    """Names the first field at fault and what it should be, never what it was."""
    found = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else None
    if found is None or found["type"] == "json_invalid" or not wants_json(request):
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, _MALFORMED)
    place, *path = (str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        path = path[:-1]  # the name of an unknown field is the sender's own
    known = [part for part in path if _PLAIN.fullmatch(part)]
    said = f"{place}{''.join(f' {part}' for part in known)}: {found['msg'][:1].lower()}{found['msg'][1:]}"
    pointer = "".join(f"/{part}" for part in known) if place == "body" else None
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, said, pointer=pointer)


def _unsound(request: Request, error: Exception) -> Response:
    pointer = error.pointer if isinstance(error, Unsound) else None
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, str(error), pointer=pointer)


def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected %s while answering a request", type(error).__name__)
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, _BROKEN)


class Unexpected:
    """Answers what nobody expected to fail, and lets nobody else write it down: its text may hold a patient's data."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; an error before the answer began becomes one."""
        began = False

        async def noting(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if began or scope["type"] != "http":
                raise
            answer = await run_in_threadpool(_unexpected, Request(scope), error)
            await answer(scope, receive, send)


def _too_many(request: Request, error: Exception) -> Response:
    answer = problem(request, HTTPStatus.TOO_MANY_REQUESTS, str(error))
    if isinstance(error, TooMany):
        answer.headers["Retry-After"] = str(int(error.retry_after.total_seconds()))
    return answer


def install(app: FastAPI) -> None:
    """Give every error that is raised on purpose its answer."""
    spoken: dict[type[Exception], int] = {
        StaleClaim: 409,
        NotAllowed: 403,
        NoSuchCase: 404,
        UnfinishedRead: 422,
        ItemConflict: 409,
        NoSuchItem: 404,
        UnfitAccount: 422,
        NoSuchPerson: 404,
    }
    silent: dict[type[Exception], tuple[int, str]] = {
        Forged: (403, _FORGED),
        ConstraintRefused: (409, _CROSSED),
        RetryLater: (503, _AWAY),
        HaltPipeline: (503, _AWAY),
    }
    for kind, status in spoken.items():
        app.add_exception_handler(kind, lambda request, error, status=status: problem(request, status, str(error)))
    for kind, (status, detail) in silent.items():
        app.add_exception_handler(
            kind, lambda request, _, status=status, detail=detail: problem(request, status, detail)
        )
    app.add_exception_handler(NotSignedIn, _not_signed_in)
    app.add_exception_handler(NoDoor, _no_door)
    app.add_exception_handler(NotKnown, _not_known)
    app.add_exception_handler(CaseClosed, _case_closed)
    app.add_exception_handler(TooMany, _too_many)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Unsound, _unsound)
    app.add_exception_handler(HTTPException, _by_framework)
