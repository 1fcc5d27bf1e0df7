"""A TCP proxy that behaves as bad networks do, so that peers can be tried against it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """What the network does."""

    NONE = "none"  #: Passes everything on.
    REFUSE = "refuse"  #: Resets every connection at once.
    RESET = "reset"  #: Resets the connection after some bytes of the far side's answer.
    CLOSE = "close"  #: Closes it in order after some bytes of the far side's answer.
    SILENT = "silent"  #: Takes the connection and never says a word.
    HALF_OPEN = "half-open"  #: Passes some bytes of the answer on and then neither more nor an end.
    SLOW = "slow"  #: A trickle of the answer.
    LATE = "late"  #: Every piece of the answer comes a little later.
    DROP_REQUEST = "drop-request"  #: Resets the connection after some bytes of the near side's request.


@dataclass
class FaultProxy:
    """Stands on `port` before 127.0.0.1:`target`; the fault may be changed at any time."""

    target: int
    fault: Fault = Fault.NONE
    after: int = 0  #: bytes that pass before the fault begins
    connections: int = 0
    _listening: socket.socket = field(init=False)
    _closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.2)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def close(self) -> None:
        self._closing.set()
        self._listening.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            with suppress(OSError):
                near, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(near, self.fault, self.after), daemon=True).start()

    def _serve(self, near: socket.socket, fault: Fault, after: int) -> None:
        if fault is Fault.REFUSE:
            _reset(near)
            return
        if fault is Fault.SILENT:
            self._closing.wait(120)
            near.close()
            return
        with suppress(OSError):
            far = socket.create_connection(("127.0.0.1", self.target))
            request = Fault.DROP_REQUEST if fault is Fault.DROP_REQUEST else Fault.NONE
            forth = threading.Thread(target=self._pass, args=(near, far, request, after), daemon=True)
            forth.start()
            self._pass(far, near, Fault.NONE if fault is Fault.DROP_REQUEST else fault, after)
            forth.join()
            near.close()
            far.close()

    def _pass(self, source: socket.socket, sink: socket.socket, fault: Fault, after: int) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 if fault is Fault.SLOW and passed >= after else 4096):
                if (
                    fault in {Fault.RESET, Fault.CLOSE, Fault.DROP_REQUEST, Fault.HALF_OPEN}
                    and passed + len(data) > after
                ):
                    sink.sendall(data[: max(0, after - passed)])
                    self._end(source, sink, fault)
                    return
                time.sleep(0.05 if fault in {Fault.SLOW, Fault.LATE} else 0)
                sink.sendall(data)
                passed += len(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _end(self, source: socket.socket, sink: socket.socket, fault: Fault) -> None:
        if fault is Fault.HALF_OPEN:
            self._closing.wait(120)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR) if fault is Fault.CLOSE else _reset(end)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
        connection.close()


@contextmanager
def fault_proxy(target: int) -> Iterator[FaultProxy]:
    """A proxy that ends with the block."""
    proxy = FaultProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
