"""ETags: an answer that did not change is not sent again, and a request about an older view of a case is refused.

The tag of an answer is a keyless digest of what this caller is told and of nothing else, so that it can tell nothing
more. The tag of a case leaves out when the hold ends, which every extension moves and no decision depends on.

If-Match is looked at before the effect and not within its transaction; what must not happen twice is held by the
claim's fence, which stays in the body.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.store.database import canonical_json
from pipeline.web.problems import problem
from pipeline.web.whole_answer import Answer, answer_whole

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_MOVES: Final = "lease_until"
_SLOT: Final = "secondread.etag"


class OlderView(Exception):
    """If-Match names another state of the case than the present one, whose tag is `current`."""

    def __init__(self, current: str | None) -> None:
        super().__init__("the case has changed since you looked; nothing was written, look again and repeat")
        self.current = current


def tag_of(content: bytes) -> str:
    """The strong ETag of these bytes."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def tag_of_case(told: Mapping[str, Any]) -> str:
    """The strong ETag of a case as it is told to one caller."""
    return tag_of(canonical_json(_settled(told)).encode())


def _settled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _settled(inner) for name, inner in value.items() if name != _MOVES}
    if isinstance(value, list | tuple):
        return [_settled(inner) for inner in value]
    return value


def _named(header: str) -> set[str]:
    return {header.strip()} if header.strip() == "*" else set(_TAG.findall(header))


def is_known(header: str, tag: str) -> bool:
    """Whether If-None-Match names this tag; a weak one counts too (RFC 9110, 13.1.2)."""
    named = _named(header)
    return "*" in named or tag in {name.removeprefix("W/") for name in named}


def is_matched(header: str, tag: str) -> bool:
    """Whether If-Match names this tag; a weak one never does."""
    named = _named(header)
    return "*" in named or tag in named


def tagged(request: Request) -> None:
    """Let the answer of this safe request carry an ETag."""
    if request.method in _SAFE:
        request.scope[_SLOT] = True


class Tagging:
    """Gives the JSON answers that `tagged` names their ETag, and 304 where the caller knows them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; only whole JSON answers are held back, streams never."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known = Request(scope).headers.get("if-none-match", "")

        async def tag(answer: Answer) -> Answer:
            return _tagged(answer, known)

        await answer_whole(
            self._app, scope, receive, send, when=lambda start: _SLOT in scope and _is_json(start), change=tag
        )


def _is_json(start: Message) -> bool:
    content_type = dict(start["headers"]).get(b"content-type", b"")
    return bool(start["status"] == HTTPStatus.OK and content_type.startswith(b"application/json"))


def _tagged(answer: Answer, known: str) -> Answer:
    tag = answer.headers.setdefault("ETag", tag_of(answer.body))
    if not is_known(known, tag):
        return answer
    for name in ("content-length", "content-type"):
        del answer.headers[name]
    return Answer(status=HTTPStatus.NOT_MODIFIED, headers=answer.headers)


def _refuse(request: Request, error: Exception) -> Response:
    answer = problem(request, HTTPStatus.PRECONDITION_FAILED, str(error))
    if isinstance(error, OlderView) and error.current is not None:
        answer.headers["ETag"] = error.current
    return answer


def install(app: FastAPI) -> None:
    """Let answers carry tags and requests name them."""
    app.add_exception_handler(OlderView, _refuse)
    app.add_middleware(Tagging)
