"""One child process of the sandbox: started clean, spoken to under a deadline, ended without ceremony."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.sandbox_wire import MOST_KEPT, BrokenWireError, Message, receive, send
from pipeline.dicom.side_by_side import free_cores, shares, side_by_side
from pipeline.errors import HaltPipeline

START_SECONDS: Final = 60.0  #: a child that has not reported by then will never do
_ROOT: Final = Path(__file__).resolve().parents[2]
LEAST_FOR_THREADS: Final = 2**23  #: bytes; fewer are copied by one thread
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # an arena per thread would eat the address space
}
_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from pipeline.dicom.sandbox_child import main; main(sys.argv[1:])"
)


class ChildProcess:
    """A running child with its socket and the memory it shares with us."""

    def __init__(self, process: subprocess.Popen[bytes], wire: socket.socket, memory: int) -> None:
        self._process, self._wire, self._memory = process, wire, memory
        self._room = 0  #: bytes of shared memory
        self._granted = 0  #: of them, what this call was granted last
        self.calls = 0
        self.address_space = 0  #: bytes, as the child reported after its last call

    @classmethod
    def start(cls, *, memory_bytes: int) -> Self:
        """A child that has reported itself ready. Raises HaltPipeline."""
        ours, theirs = socket.socketpair()
        memory = shared_memory()
        descriptors = (theirs.fileno(), memory)
        arguments = [*descriptors, memory_bytes]
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, str(_ROOT), *(str(argument) for argument in arguments)],
            env=_ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=True, pass_fds=descriptors, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        child = cls(process, ours, memory)
        child._await_ready()
        return child

    def _await_ready(self) -> None:
        try:
            receive(self._wire, time.monotonic() + START_SECONDS)
        except (BrokenWireError, TimeoutError):
            self.end()
            raise HaltPipeline(
                "the process that decodes images does not start: raise SECONDREAD_DECODE_MEMORY_MB or reinstall"
            ) from None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, request: Message, deadline: float, on_room: Callable[[int], bool] | None = None) -> Message:
        """The child's reply; `on_room` decides whether it may have that many bytes of shared memory.

        Raises BrokenWireError when the child died, TimeoutError when it did not answer in time.
        """
        self.calls += 1
        self._granted = 0
        send(self._wire, request, deadline)
        reply = receive(self._wire, deadline)
        while "room_for" in reply:
            granted = on_room is not None and on_room(reply["room_for"])
            if granted and reply["room_for"] > self._room:
                self._resize(reply["room_for"])
            self._granted = reply["room_for"] if granted else 0
            send(self._wire, {"granted": granted}, deadline)
            reply = receive(self._wire, deadline)
        self.address_space = int(reply.get("address_space", 0))
        return reply

    def take_voxels(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A private copy of the shared memory as float32 of that shape.

        It is read, not mapped: a child that shrinks it can then only make us raise. Raises BrokenWireError, also where
        the last call was granted another size: beyond that lies what earlier calls wrote.
        """
        if math.prod(shape) * 4 != self._granted:
            raise BrokenWireError
        voxels = np.empty(shape, dtype=np.float32)
        target = voxels.data.cast("B")
        threads = free_cores() if len(target) >= LEAST_FOR_THREADS else 1
        side_by_side(lambda part: self._copy(target, part), shares(len(target), threads), threads)
        return voxels

    def _copy(self, target: memoryview, part: range) -> None:
        position = part.start
        while position < part.stop:
            read = os.preadv(self._memory, [target[position : part.stop]], position)
            if not read:
                raise BrokenWireError
            position += read

    def give_back_memory(self) -> None:
        """Free the shared memory of the last call beyond what is kept for the next."""
        if self._room > MOST_KEPT:
            self._resize(0)

    def _resize(self, size: int) -> None:
        os.ftruncate(self._memory, size)
        self._room = size

    def end(self) -> None:
        """Kill the child and free what we share with it."""
        self._process.kill()
        self._process.wait()
        self._wire.close()
        os.close(self._memory)


def shared_memory() -> int:
    """Descriptor of anonymous memory (a deleted temporary file where the system has no memfd)."""
    create: Callable[..., int] | None = getattr(os, "memfd_create", None)
    if create is not None:
        return create("volume")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def plain(value: Any) -> Any:
    """JSON lists as tuples, so that headers compare and hash as they did in the child."""
    return tuple(plain(part) for part in value) if isinstance(value, list) else value
