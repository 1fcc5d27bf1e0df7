"""Prefect's server as a child that never outlives this process, for houses without one of their own.

Why not Prefect's temporary server: when its owner is killed it stays behind, a quarter of a gigabyte each time. This one
reads its standard input and leaves when that ends, which the system sees to however the owner died.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from pipeline.errors import HaltPipeline

_VARIABLE = "PREFECT_API_URL"
_START_SECONDS = 180.0


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """The address of the server that PREFECT_API_URL names, or of one started here for this block.

    Prefect in this process and in its children uses it. Raises HaltPipeline when it does not start.
    """
    given = os.environ.get(_VARIABLE)
    if given:
        yield given
        return
    port = _free_port()
    server = _start(home, port)
    try:
        _wait_until_healthy(port, server)
        with _used(f"http://127.0.0.1:{port}/api") as address:
            yield address
    finally:
        _stop(server)


@contextmanager
def _used(address: str) -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    os.environ[_VARIABLE] = address
    try:
        with temporary_settings({PREFECT_API_URL: address}):
            yield address
    finally:
        os.environ.pop(_VARIABLE, None)


def _start(home: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.prefect_server", str(port)],
        env=os.environ | {"PREFECT_HOME": os.environ.get("PREFECT_HOME", str(home / "prefect"))},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stdin is not None:
        server.stdin.close()


def _wait_until_healthy(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise HaltPipeline(
        "Prefect's server did not start; run `secondread doctor`, or set PREFECT_API_URL to a running one"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _leave_with_owner() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve on the port that the first argument names until standard input ends."""
    threading.Thread(target=_leave_with_owner, name="owner", daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", access_log=False)


if __name__ == "__main__":
    main()
