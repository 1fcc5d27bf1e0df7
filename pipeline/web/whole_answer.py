"""An answer held back until it is whole, for what must see all of it before it leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Answer:
    """One whole answer."""

    status: int
    headers: MutableHeaders
    body: bytes = b""


@dataclass
class _Holding:
    """The start of an answer that is held back, and the parts of its body until now."""

    start: Message
    parts: list[bytes] = field(default_factory=list)


async def answer_whole(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    when: Callable[[Message], bool],
    change: Callable[[Answer], Awaitable[Answer]],
) -> None:
    """Run `app`; where `when` says so of an answer's start, hold it back and send what `change` makes of it."""
    held: _Holding | None = None

    async def holding(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start" and when(message):
            held = _Holding(start=message)
        elif held is not None and message["type"] == "http.response.body":
            held.parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await _send(await change(_whole(held)), send)
        else:
            await send(message)

    await app(scope, receive, holding)


def _whole(held: _Holding) -> Answer:
    headers = MutableHeaders(raw=list(held.start["headers"]))
    return Answer(status=held.start["status"], headers=headers, body=b"".join(held.parts))


async def _send(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers.raw})
    await send({"type": "http.response.body", "body": answer.body})
