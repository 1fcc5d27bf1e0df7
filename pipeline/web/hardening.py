"""What every answer of the reading room carries, and how much a request may carry: nothing is decided by path here."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 64 * 1024  #: bytes; forms are small
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer browsers send 'Origin: null' on forms, and the check of the origin could not work.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HSTS = "max-age=31536000"


class SecurityHeaders:
    """Sets the security headers on every answer, errors and static files included."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._headers = _HEADERS | ({"Strict-Transport-Security": _HSTS} if https else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to what comes back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                headers.setdefault("Cache-Control", "no-store")  # only what holds no patient says otherwise
            await send(message)

        await self._app(scope, receive, with_headers)


class _TooLarge(HTTPException):
    """FastAPI passes its own exceptions on from the reading of a body, and turns every other one into 400."""

    def __init__(self) -> None:
        super().__init__(status_code=413)


@dataclass
class _Allowance:
    largest: int


_ALLOWANCE = "secondread.allowance"


def allow_body(request: Request, largest: int) -> None:
    """Let this one request carry more; only an endpoint that knows who is asking calls this."""
    request.scope[_ALLOWANCE].largest = largest


class BodyLimit:
    """Answers 413 to a body above the limit, whether it announces its size or not."""

    def __init__(self, app: ASGIApp, *, largest: int = LARGEST_BODY) -> None:
        self._app = app
        self._largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of the body while they are read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        allowance = scope[_ALLOWANCE] = _Allowance(self._largest)
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > allowance.largest:
                raise _TooLarge
            return message

        await self._app(scope, counted, send)
