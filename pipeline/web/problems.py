"""Errors as people and programs read them: one page, or problem+json (RFC 9457) for programs, never an inside.

The path decides the form of an answer here and nothing else.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException

from pipeline.errors import HaltPipeline, NoSuchCase, NotAllowed, RetryLater, StaleClaim, UnfinishedRead
from pipeline.outside_reading import ItemConflict, NoSuchItem
from pipeline.web.access import Forged, NoDoor, NotKnown, NotSignedIn, Refused
from pipeline.web.room import room_of

_log = logging.getLogger(__name__)
_FORGED = "this form was not sent from its own page, or the page is too old; open it again"
_MALFORMED = "the request lacks a field or holds one that cannot be understood; open the page again"
_BROKEN = "something failed on our side; nothing was decided, and the case stays where it is"
_NO_DOOR = "no other system may come in: no token was agreed"
_AWAY = "the database is busy or away; wait a moment and try again"


def wants_json(request: Request) -> bool:
    """Whether a program rather than a person is asking."""
    return str(request.scope["path"]).startswith(("/api/", "/dicom-web/"))


def problem(request: Request, status: int, detail: str) -> Response:
    """The answer to a request that can not be met."""
    title = HTTPStatus(status).phrase
    headers = {"Retry-After": "5"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    if wants_json(request):
        content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        return JSONResponse(content, status_code=status, headers=headers, media_type="application/problem+json")
    page = room_of(request).page("problem.html", status=status, code=status, title=title, detail=detail)
    page.headers.update(headers)
    return page


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
    said = {404: "there is no such page; go back to the worklist", 405: "this page does not take such a request"}
    return problem(request, status, said.get(status, _MALFORMED))


def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected %s while answering a request", type(error).__name__)
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, _BROKEN)


def install(app: FastAPI) -> None:
    """Give every error that is raised on purpose its answer."""
    spoken: dict[type[Exception], int] = {
        StaleClaim: 409,
        NotAllowed: 403,
        NoSuchCase: 404,
        UnfinishedRead: 422,
        ItemConflict: 409,
        NoSuchItem: 404,
    }
    silent: dict[type[Exception], tuple[int, str]] = {
        Forged: (403, _FORGED),
        RequestValidationError: (422, _MALFORMED),
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
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _by_framework)
    app.add_exception_handler(Exception, _unexpected)
