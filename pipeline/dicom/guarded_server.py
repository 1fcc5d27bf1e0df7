"""A DICOM server that a peer cannot exhaust: one PDU is bounded in size and time, one address in connections.

pynetdicom's own server reads whatever length a PDU declares, waits for it without end, counts a connection only once its
thread runs, and shakes TLS hands in the loop that accepts everybody. Each of these stops a hospital's images with a few
bytes; each is closed here, below the library's state machine, which stays as it is.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

LOGGER = logging.getLogger(__name__)
MOST_PDU_BYTES: Final = 1 << 20  #: we announce 64 KiB; a longer A-ASSOCIATE-RQ than this is an attack
HANDSHAKE_SECONDS: Final = 5.0
_READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What peers may take: connections, seconds for one PDU, bytes that wait to be stored."""

    most_connections: int
    most_per_address: int
    pdu_seconds: float
    most_waiting_bytes: int


@dataclass
class WaitingBytes:
    """Bytes received and not yet stored, over all associations, bounded."""

    most: int
    _held: Counter[int] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, holder: int, count: int) -> bool:
        """Whether `holder` may keep `count` more bytes waiting."""
        with self._lock:
            if self._held.total() + count > self.most:
                return False
            self._held[holder] += count
            return True

    def give_back(self, holder: int) -> None:
        """What `holder` kept waiting is stored or gone."""
        with self._lock:
            self._held.pop(holder, None)


class GuardedSocket(AssociationSocket):
    """A connection whose PDUs are bounded in size and time, and whose waiting bytes are counted."""

    limits: Limits
    waiting: WaitingBytes

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly `nr_bytes`, fewer at the peer's end. Raises OSError beyond a limit: the association ends."""
        if nr_bytes > MOST_PDU_BYTES:
            raise OSError("a PDU is longer than allowed")
        if not self.waiting.take(id(self.assoc), nr_bytes):
            raise OSError("too many bytes wait to be stored")
        received, until = bytearray(), time.monotonic() + self.limits.pdu_seconds
        while len(received) < nr_bytes:
            part = self._part(nr_bytes - len(received), until)
            if not part:
                break
            received += part
        return received

    def _part(self, most: int, until: float) -> bytes:
        left = until - time.monotonic()
        if self.socket is None or left <= 0:
            raise TimeoutError("a PDU came too slowly")
        self.socket.settimeout(left)
        return self.socket.recv(min(most, _READ_BYTES))

    def send(self, bytestream: bytes) -> None:
        """Send, for as long as one PDU may take: a peer that does not read is let go."""
        with suppress(OSError):  # closed meanwhile: the library finds that out itself
            if self.socket is not None:
                self.socket.settimeout(self.limits.pdu_seconds)
        super().send(bytestream)

    def _shutdown_socket(self) -> None:
        self.waiting.give_back(id(self.assoc))
        super()._shutdown_socket()


class _GuardedHandler(RequestHandler):
    """Shakes hands outside the loop that accepts, and gives the association its guarded socket."""

    server: GuardedServer

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(HANDSHAKE_SECONDS)
            self.request.do_handshake()

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dul.event_queue.get_nowait()  # the plain socket's "connected"; the guarded one says it again
        guarded = GuardedSocket(association, client_socket=self.request)
        guarded.limits, guarded.waiting = self.server.limits, self.server.waiting
        association.dul.socket = guarded
        return association


class GuardedServer(ThreadedAssociationServer):
    """Takes connections from `allowed` addresses within `limits`; whoever is refused costs nothing."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *arguments: Any, limits: Limits, allowed: Callable[[str], bool], **options: Any) -> None:
        self.limits, self._allowed = limits, allowed
        self.waiting = WaitingBytes(limits.most_waiting_bytes)
        self._open: list[tuple[socket.socket, str]] = []
        super().__init__(*arguments, **options | {"request_handler": _GuardedHandler})

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; hands are shaken later, in the connection's own thread."""
        listening: Any = self.socket
        connection, address = listening.accept()
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether this connection is taken; called in the accepting loop, so that counts are never late."""
        self._open = [(known, address) for known, address in self._open if known.fileno() != -1]
        address = client_address[0]
        theirs = sum(known == address for _, known in self._open)
        if not self._allowed(address) or theirs >= self.limits.most_per_address:
            return False
        if len(self._open) >= self.limits.most_connections:
            return False
        self._open.append((request, address))
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A connection that failed before it was an association: closed by the caller, one line of log."""
        LOGGER.warning("a connection failed before its association")
