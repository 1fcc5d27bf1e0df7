"""A house's room with its door open to other systems, served on loopback the way `secondread serve` does it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import uvicorn
from dicomweb_client import DICOMwebClient

from flows.bootstrap import House
from flows.service_commands import room

TOKEN = "a token that two systems agreed on, 2026"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@contextmanager
def live_room(house: House) -> Iterator[str]:
    """The address of the room while it is served."""
    config = uvicorn.Config(room(house), port=0, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@contextmanager
def web_client(address: str, *, token: str = TOKEN) -> Iterator[DICOMwebClient]:
    """A DICOMweb client that shows a token and never tries twice."""
    with requests.Session() as session:
        client = DICOMwebClient(
            f"{address}/dicom-web", session=session, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        client.set_http_retry_params(retry=False)
        yield client
