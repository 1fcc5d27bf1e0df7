"""The real room in processes of its own, on a clock that its test moves, whole or with a wound that a test must see."""

from __future__ import annotations

import argparse
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.error import URLError

from tests.reading_room_cases import NOW

FOREVER = timedelta(days=365)
_START = 60  #: seconds in which a process must answer


class SharedClock:
    """Runs like the machine's clock and jumps for every process that has the file; it never goes back."""

    def __init__(self, path: Path, *, start: bool = False) -> None:
        if start:
            path.write_bytes(struct.pack("dd", time.monotonic(), 0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 16)

    def __call__(self) -> datetime:
        started, shift = struct.unpack("dd", self._shared)
        return NOW + timedelta(seconds=time.monotonic() - started + shift)

    def jump(self, step: timedelta) -> None:
        """Let that much time pass at once."""
        started, shift = struct.unpack("dd", self._shared)
        self._shared[:] = struct.pack("dd", started, shift + step.total_seconds())


def _takes_what_is_held() -> None:
    from pipeline.store import worklist_rows

    worklist_rows.is_free = lambda _: worklist_rows.is_open()  # type: ignore[assignment]


def _lets_ended_holds_write() -> None:
    from pipeline.store import worklist_rows
    from pipeline.store.tables import worklist_item

    worklist_rows.held_by = lambda case_id, *_: (worklist_item.c.case_id == case_id) & worklist_rows.is_open()


def _never_ends_a_lease() -> None:
    from pipeline.store import worklist_rows
    from pipeline.store.tables import worklist_item

    worklist_rows.is_free = lambda _: worklist_item.c.state == "SCHEDULED"  # type: ignore[assignment]


WOUNDS: dict[str, Callable[[], None]] = {
    "takes what is held": _takes_what_is_held,
    "lets ended holds write": _lets_ended_holds_write,
    "never ends a lease": _never_ends_a_lease,
}


@dataclass(frozen=True)
class Served:
    """Processes that serve one store: where they listen, and which they are."""

    addresses: list[str]
    pids: list[int]

    def cpu_seconds(self) -> float:
        """What they have worked so far, in their own and the system's time (Linux)."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def served_room(
    url: str, clock_file: Path, *, processes: int = 1, wound: str | None = None, program: Sequence[str] = ()
) -> Iterator[Served]:
    """That many processes that serve the store at `url`, each as `secondread serve` does."""
    with ExitStack() as opened:
        served, started = Served([], []), []
        for _ in range(processes):
            bound = opened.enter_context(socket.socket())
            bound.bind(("127.0.0.1", 0))
            bound.listen(1024)
            served.addresses.append(f"http://127.0.0.1:{bound.getsockname()[1]}")
            started.append(opened.enter_context(_process(url, clock_file, bound, wound, program)))
            served.pids.append(started[-1].pid)
        for address, process in zip(served.addresses, started, strict=True):
            _wait_for(address, process)
        yield served


@contextmanager
def _process(
    url: str, clock_file: Path, bound: socket.socket, wound: str | None, program: Sequence[str]
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, *(program or ("-m", "tests.served_room")), url, str(clock_file), str(bound.fileno())]
    more = [] if wound is None else ["--wound", wound]
    process = subprocess.Popen([*command, *more], pass_fds=[bound.fileno()])
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until the process answers; raises RuntimeError where it ended or says nothing for a minute."""
    until = time.monotonic() + _START
    while time.monotonic() < until and process.poll() is None:
        with suppress(URLError, ConnectionError, TimeoutError), urllib.request.urlopen(f"{address}/live", timeout=2):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the room did not start (exit code {process.poll()}); its complaint stands above")


def main() -> None:
    """Serve until told to stop."""
    import uvicorn

    from pipeline.dicom.sandbox import Sandbox
    from pipeline.store.blobs import BlobStore
    from pipeline.store.database import open_database
    from tests.reading_room_cases import make_room

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("clock", type=Path)
    parser.add_argument("socket", type=int)
    parser.add_argument("--wound", choices=WOUNDS)
    asked = parser.parse_args()
    if asked.wound is not None:
        WOUNDS[asked.wound]()
    database = open_database(asked.url)
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        clock = SharedClock(asked.clock)
        room = make_room(database, BlobStore(Path(folder)), sandbox, clock, idle=FOREVER, absolute=FOREVER)  # type: ignore[arg-type]
        config = uvicorn.Config(room, log_level="error", ws="none", lifespan="off", timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=asked.socket)])
    database.close()


if __name__ == "__main__":
    main()
