"""Idempotency keys: an unsafe request that is sent again under its key is answered again and not carried out again.

The key belongs to the account. `once` takes it after the caller is known and before the endpoint runs; `Remembering`
keeps the answer before it leaves. Only what succeeded is kept: a refused request changed nothing and frees its key.

A process that dies in between leaves the key taken and nobody knows whether the effect was written. After a minute the
same request is carried out again, and the effects bear that: what names a claim's fence, and the read of a case, is
refused the second time (409 or 403; look at the case), reveal and a claim by the same holder change nothing, and what
`claim the next` took and nobody learnt of falls free when its lease ends.

What is told only once (a new token, a second factor's secret) is never kept: the endpoint says so with `told_once`, and
its repetition is refused with 409 instead of being carried out.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, FastAPI, Header, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.errors import SecondreadError
from pipeline.store import idempotency_rows
from pipeline.store.idempotency_rows import GIVEN_UP_AFTER, Earlier, Ticket
from pipeline.web.access import Session, own_page_only
from pipeline.web.problems import problem
from pipeline.web.room import Here, Room
from pipeline.web.whole_answer import Answer, answer_whole

REPLAYED: Final = "Idempotency-Replayed"
MOST_KEPT: Final = 256 * 1024  #: bytes of one answer
KEY: Final = "^[!-~]{1,255}$"  #: visible ASCII
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_KEPT_HEADERS: Final = ("content-type", "etag", "location")
_SLOT: Final = "secondread.idempotency"
_log = logging.getLogger(__name__)
_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


class KeyRefused(Exception):
    """The Idempotency-Key cannot be used for this request."""

    def __init__(self, status: HTTPStatus, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s


class Replayed(Exception):
    """This request was answered before: `earlier` is what it was told."""

    def __init__(self, earlier: Earlier) -> None:
        super().__init__("answered before")
        self.earlier = earlier


@dataclass
class _Slot:
    """Where `once` leaves the ticket for `Remembering`."""

    ticket: Ticket | None = None
    keeps_body: bool = True


def told_once(endpoint: _Endpoint) -> _Endpoint:
    """Mark an endpoint whose answer holds something that is told once and kept nowhere."""
    endpoint.__dict__["told_once"] = True
    return endpoint


def is_told_once(endpoint: Callable[..., Any]) -> bool:
    """Whether the endpoint is marked so."""
    return bool(getattr(endpoint, "told_once", False))


async def request_digest(request: Request, room: Here, session: Session) -> str:
    """What makes a request the same: rights, method, path, query and body; keyed, because a body may hold a password."""
    rights = " ".join([session.account.role, *sorted(session.account.granted)])
    parts = (rights, request.method, request.url.path, request.url.query)
    head = "\n".join(str(part) for part in parts).encode()
    return hmac.digest(room.session_key, head + b"\n\n" + await request.body(), hashlib.sha256).hex()


def once(
    request: Request,
    room: Here,
    session: Session,
    digest: Annotated[str, Depends(request_digest)],
    _own: Annotated[None, Depends(own_page_only)],
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            pattern=KEY,
            description="A value of your own; the same request under the same key is carried out once",
        ),
    ] = None,
) -> None:
    """Take the key of an unsafe request. Raises Replayed, or KeyRefused where it cannot be used."""
    if key is None or request.method in _SAFE:
        return
    ticket = Ticket(account_id=session.account.id, key=key, at=room.now())
    with room.database.transaction() as connection:
        earlier = idempotency_rows.begin(connection, ticket, request_digest=digest)
    if earlier is not None:
        _answer_again(earlier, digest)
    slot: _Slot = request.scope[_SLOT]
    slot.ticket, slot.keeps_body = ticket, not is_told_once(request.scope["route"].endpoint)


def _answer_again(earlier: Earlier, digest: str) -> None:
    if not hmac.compare_digest(earlier.request_digest, digest):
        said = "this Idempotency-Key was used for another request; choose a new one"
        raise KeyRefused(HTTPStatus.UNPROCESSABLE_ENTITY, said)
    if earlier.status is None:
        said = "the same request is being answered at this moment; ask again in a second"
        raise KeyRefused(HTTPStatus.CONFLICT, said, retry_after_s=1)
    if earlier.body is None:
        raise KeyRefused(HTTPStatus.CONFLICT, "this was done before, and what it told is told only once")
    raise Replayed(earlier)


class Remembering:
    """Keeps the answer of a request that `once` gave a ticket, before it leaves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; hold its answer back only where it is to be kept."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        slot = scope[_SLOT] = _Slot()

        async def keep(answer: Answer) -> Answer:
            await run_in_threadpool(_settle, scope["app"].state.room, slot, answer)
            return answer

        try:
            await answer_whole(self._app, scope, receive, send, when=lambda _: slot.ticket is not None, change=keep)
        except Exception:
            await run_in_threadpool(_settle, scope["app"].state.room, slot, None)
            raise


def _settle(room: Room, slot: _Slot, answer: Answer | None) -> None:
    if slot.ticket is None:
        return
    try:
        with room.database.transaction() as connection:
            if answer is None or answer.status >= HTTPStatus.BAD_REQUEST:
                idempotency_rows.forget(connection, slot.ticket)
                return
            headers = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
            body = _kept_body(answer) if slot.keeps_body else None
            idempotency_rows.finish(connection, slot.ticket, status=answer.status, headers=headers, body=body)
    except SecondreadError as error:
        free = int(GIVEN_UP_AFTER.total_seconds())
        _log.warning("an answer was not kept (%s); its key is free again in %d s", type(error).__name__, free)


def _kept_body(answer: Answer) -> str | None:
    if len(answer.body) > MOST_KEPT or "set-cookie" in answer.headers:
        return None
    try:
        return answer.body.decode()
    except UnicodeDecodeError:
        return None


def _replay(_: Request, error: Exception) -> Response:
    earlier = error.earlier if isinstance(error, Replayed) else None
    if earlier is None or earlier.status is None:
        raise error
    headers = {**earlier.headers, REPLAYED: "true"}
    return Response(earlier.body or None, status_code=earlier.status, headers=headers)


def _refuse(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, KeyRefused) else HTTPStatus.CONFLICT
    answer = problem(request, status, str(error))
    if isinstance(error, KeyRefused) and error.retry_after_s is not None:
        answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer


def install(app: FastAPI) -> None:
    """Let requests be remembered."""
    app.add_exception_handler(Replayed, _replay)
    app.add_exception_handler(KeyRefused, _refuse)
    app.add_middleware(Remembering)
