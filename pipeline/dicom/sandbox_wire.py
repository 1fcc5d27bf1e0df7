"""Messages between the sandbox and its child: length-prefixed JSON over a socket pair, under a deadline."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, Final

LONGEST_MESSAGE: Final = 16 * 2**20  #: bytes
MOST_KEPT: Final = 256 * 2**20  #: bytes of shared memory that outlive a call, for the next one
_LENGTH: Final = struct.Struct(">I")

Message = dict[str, Any]


class BrokenWireError(Exception):
    """The other side is gone, or does not speak as agreed."""


def send(wire: socket.socket, message: Message, deadline: float | None = None) -> None:
    """Send one message; `deadline` is in seconds of `time.monotonic`. Raises BrokenWireError, TimeoutError."""
    content = json.dumps(message, allow_nan=False).encode()
    wire.settimeout(_remaining(deadline))
    try:
        wire.sendall(_LENGTH.pack(len(content)) + content)
    except TimeoutError:
        raise
    except OSError as error:
        raise BrokenWireError from error


def receive(wire: socket.socket, deadline: float | None = None) -> Message:
    """The next message. Raises BrokenWireError, TimeoutError."""
    (length,) = _LENGTH.unpack(_exactly(wire, _LENGTH.size, deadline))
    if length > LONGEST_MESSAGE:
        raise BrokenWireError
    try:
        message = json.loads(_exactly(wire, length, deadline))
    except (ValueError, RecursionError) as error:
        raise BrokenWireError from error
    if not isinstance(message, dict):
        raise BrokenWireError
    return message


def _exactly(wire: socket.socket, count: int, deadline: float | None) -> bytes:
    parts, missing = [], count
    while missing:
        wire.settimeout(_remaining(deadline))
        try:
            part = wire.recv(min(missing, 2**20))
        except TimeoutError:
            raise
        except OSError as error:
            raise BrokenWireError from error
        if not part:
            raise BrokenWireError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
