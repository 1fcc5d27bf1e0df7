"""Bringing a bundle to where the hospital takes it: a folder, or a FHIR server; proof is what was found there again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from pipeline.errors import RetryLater

_ID: Final = re.compile(r"[A-Za-z0-9-][A-Za-z0-9.-]{0,63}")  #: of FHIR, and a file name that is not hidden
_JSON: Final = "application/fhir+json"
_LONGEST_ANSWER: Final = 16 << 20  #: bytes
_VERIFIED: Final = frozenset({"final", "amended", "corrected", "appended"})
_ACCESS_CURE: Final = "check our token and what it permits"
_ADDRESS_CURE: Final = "check its address"
_RULE_CURE: Final = "ask its keeper to allow transactions and ids given by the sender"
_CURES: Final = {
    **dict.fromkeys((401, 403, 407), _ACCESS_CURE),
    **dict.fromkeys((301, 302, 303, 307, 308, 404, 405, 410), _ADDRESS_CURE),
    **dict.fromkeys((400, 409, 412, 413, 415, 422), _RULE_CURE),
}


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the receiver answered, the SHA-256 of what was meant for it, and what was found there again."""

    status: str
    digest: str
    read_back: str


@dataclass(frozen=True, kw_only=True)
class _Bundle:
    """A bundle of ours as its sender must know it: its id, and its report's id, identifier and status."""

    name: str
    report: str
    identifier: dict[str, str]
    status: str

    @property
    def place(self) -> str:
        """Where a server keeps the report."""
        return f"DiagnosticReport/{self.report}"

    @property
    def successor(self) -> str:
        """The name of the bundle that replaces a preliminary one."""
        return f"{self.report}-final"


def _read_bundle(content: bytes) -> _Bundle:
    """Raises ValueError where the bytes are no bundle of a result."""
    try:
        bundle = json.loads(content)
        resources = (entry["resource"] for entry in bundle["entry"])
        report = next(one for one in resources if one["resourceType"] == "DiagnosticReport")
        found = _Bundle(
            name=bundle["id"], report=report["id"], identifier=report["identifier"][0], status=report["status"]
        )
    except (ValueError, TypeError, LookupError, StopIteration, RecursionError):
        raise ValueError("these bytes are no bundle of a result; make it again") from None
    if not _ID.fullmatch(found.name) or not _ID.fullmatch(found.report):
        raise ValueError("this bundle has no id of ours; make it again")
    return found


def put_in_folder(folder: Path, content: bytes) -> Proof:
    """Write a bundle under its own id: whole, durable and once, however often. Raises RetryLater, ValueError.

    A receiver may take the file away as soon as it has its name. A preliminary bundle is not written beside the
    verified one of the same decision: it came late.
    """
    bundle, digest = _read_bundle(content), hashlib.sha256(content).hexdigest()
    target = folder / f"{bundle.name}.json"
    with _folder_errors():
        if bundle.status == "preliminary" and target.with_name(f"{bundle.successor}.json").exists():
            return Proof(status="not written, the verified one is there", digest=digest, read_back=bundle.successor)
        _write(target, content)
        found = _digest_of(target)
    if found not in {digest, None}:
        raise RetryLater("the folder of the results holds other bytes than were written; check its disk")
    return Proof(status="written", digest=digest, read_back="taken by the receiver" if found is None else found)


def _write(target: Path, data: bytes) -> None:
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, target)  # noqa: PTH104 - the system call itself, so that faults can be planted on it
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(target.parent)
    for left in target.parent.glob(f".{target.name}.*.partial"):  # of senders that were killed
        left.unlink(missing_ok=True)


def _digest_of(path: Path) -> str | None:
    """SHA-256 of a file, or None where it is gone."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _folder_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetryLater(
            f"a result could not be written to its folder ({error.strerror}); make or mend the folder, free its disk"
        ) from None


def put_on_server(
    url: str, token: str | None, content: bytes, seconds: float, transport: httpx.BaseTransport | None = None
) -> Proof:
    """Post a bundle to a FHIR base address and find its report there again. Raises RetryLater, ValueError.

    A preliminary report is not sent where the verified one of the same decision stands already: it came late.
    """
    bundle, digest = _read_bundle(content), hashlib.sha256(content).hexdigest()
    with _server_errors(), _client(token, seconds, transport) as client:
        server = _Server(client=client, base=_base(url), seconds=seconds)
        if bundle.status == "preliminary" and (standing := server.verified(bundle.place)) is not None:
            return Proof(status="not sent, a verified report stands there", digest=digest, read_back=standing)
        status = server.post(content)
        return Proof(status=status, digest=digest, read_back=_found(server.get(bundle.place), bundle))


def _base(url: str) -> str:
    """An address without a password, which the library's log lines would repeat."""
    if httpx.URL(url).userinfo:
        raise RetryLater("the address of the FHIR server holds a password; give us a token in token_file instead")
    return url.rstrip("/")


def _client(token: str | None, seconds: float, transport: httpx.BaseTransport | None) -> httpx.Client:
    headers = {"Accept": _JSON, "Accept-Encoding": "identity", "Cache-Control": "no-cache"}
    if token is not None:
        if not token.isascii() or not token.isprintable():
            raise RetryLater("our token for the FHIR server is not one line of plain characters; mend its file")
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Client(headers=headers, timeout=seconds, transport=transport, follow_redirects=False)


@dataclass(frozen=True, kw_only=True)
class _Server:
    """A FHIR base address as one transaction needs it."""

    client: httpx.Client
    base: str
    seconds: float

    def verified(self, place: str) -> str | None:
        """What stands at a place where that is a verified report."""
        code, body = self._ask("GET", place)
        if code in {404, 410}:
            return None
        report = _content(_accepted("a search", code, body))
        status = report.get("status")
        return f"{place} {status}" if status in _VERIFIED else None

    def post(self, data: bytes) -> str:
        """Post a transaction; the status it was answered with, where no entry of it was refused."""
        code, body = self._ask("POST", "", data)
        answered = _accepted("a result", code, body)
        entries = _content(answered).get("entry", []) if answered.strip() else []
        if not isinstance(entries, list) or not all(map(_is_done, entries)):
            raise RetryLater(f"the FHIR server took a part of a result only; {_RULE_CURE}")
        return str(code)

    def get(self, place: str) -> dict[str, Any]:
        """The resource at a place."""
        return _content(_accepted("the search for a result", *self._ask("GET", place)))

    def _ask(self, method: str, place: str, data: bytes | None = None) -> tuple[int, bytes]:
        headers = {} if data is None else {"Content-Type": _JSON, "Prefer": "return=minimal"}
        until, body = time.monotonic() + self.seconds, bytearray()
        address = f"{self.base}/{place}" if place else self.base
        with self.client.stream(method, address, content=data, headers=headers) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _LONGEST_ANSWER or time.monotonic() > until:
                    raise RetryLater("the FHIR server's answer does not end; check its address and its load")
            return response.status_code, bytes(body)


def _is_done(entry: Any) -> bool:
    """Whether one entry of a transaction's answer says success, or nothing."""
    response = entry.get("response") if isinstance(entry, dict) else None
    return not isinstance(response, dict) or str(response.get("status", "2")).startswith("2")


def _accepted(what: str, code: int, body: bytes) -> bytes:
    if code in {200, 201, 204}:
        return body
    cure = _CURES.get(code, "it is tried again, look at its load and its log")
    raise RetryLater(f"the FHIR server answered {what} with {code}; {cure}")


def _content(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    if not isinstance(found, dict):
        raise TypeError
    return found


def _found(report: dict[str, Any], bundle: _Bundle) -> str:
    held = report.get("identifier")
    is_ours = isinstance(held, list) and any(
        isinstance(one, dict) and bundle.identifier.items() <= one.items() for one in held
    )
    if not is_ours or report.get("status") != bundle.status:
        raise RetryLater(f"the FHIR server holds another report than was sent; {_RULE_CURE}")
    return f"{bundle.place} {bundle.status}"


@contextmanager
def _server_errors() -> Iterator[None]:
    """What goes wrong on the way, without addresses, tokens or anything that the server said."""
    try:
        yield
    except httpx.TimeoutException:
        raise RetryLater("the FHIR server does not answer in time; check its address and its load") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise RetryLater(f"the FHIR server cannot be reached ({type(error).__name__}); {_ADDRESS_CURE}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise RetryLater(f"the FHIR server gave no sensible answer ({type(error).__name__}); {_ADDRESS_CURE}") from None
