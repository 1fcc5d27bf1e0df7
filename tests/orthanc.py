"""A real PACS for tests: Debian's Orthanc with DICOMweb, on free loopback ports, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

AE_TITLE = "ORTHANC"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"


def need(program: str) -> str:
    """The path of an installed program; its absence skips the test, and fails it in CI."""
    found = program if Path(program).exists() else shutil.which(program)
    if found is None:
        reason = f"{program} is absent: 'make system' installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Orthanc:
    """A running PACS: DICOM on `dicom_port`, REST and DICOMweb on `http_port`."""

    folder: Path
    dicom_port: int
    http_port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def web(self) -> str:
        return f"{self.url}/dicom-web"

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self.url}{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()

    def upload(self, data: bytes) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/instances", content=data, timeout=60)
        answer.raise_for_status()
        return dict(answer.json())

    def try_upload(self, data: bytes) -> bool:
        """Whether the PACS takes the file."""
        return httpx.post(f"{self.url}/instances", content=data, timeout=60).is_success

    def know(self, title: str, port: int) -> None:
        """Let the PACS send to the node of that title."""
        content = {"AET": title, "Host": "127.0.0.1", "Port": port}
        httpx.put(f"{self.url}/modalities/{title}", json=content, timeout=10).raise_for_status()

    def send(self, title: str, orthanc_ids: list[str]) -> dict[str, Any]:
        """C-STORE of what these ids name to the known node; raises where the PACS reports a failure."""
        answer = httpx.post(f"{self.url}/modalities/{title}/store", json=orthanc_ids, timeout=300)
        answer.raise_for_status()
        return dict(answer.json())

    def clear(self) -> None:
        for study in self.get("/studies"):
            httpx.delete(f"{self.url}/studies/{study}", timeout=30).raise_for_status()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def running_orthanc(folder: Path, **changes: Any) -> Iterator[Orthanc]:
    """An Orthanc that stops with the block."""
    need(PROGRAM)
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = free_port(), free_port()
    content: dict[str, Any] = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": AE_TITLE,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowMove": True,
        "DicomAlwaysAllowGet": True,
        "DicomModalitiesInDatabase": True,
        "SynchronousCMove": True,
        "OverwriteInstances": False,
        "StableAge": 1,
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **changes,
    }
    (folder / "orthanc.json").write_text(json.dumps(content))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, str(folder / "orthanc.json")], stdout=log, stderr=log)
    orthanc = Orthanc(folder, dicom_port, http_port, process)
    try:
        _wait(orthanc)
        yield orthanc
    finally:
        orthanc.stop()


def _wait(orthanc: Orthanc) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            orthanc.get("/system")
        except httpx.TransportError:
            assert orthanc.process.poll() is None, (orthanc.folder / "log").read_text()
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("Orthanc did not start")
