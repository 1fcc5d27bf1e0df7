"""The limited child process of the sandbox: it parses and decodes, and can do little else.

Started by `Sandbox` with an empty environment; arguments: descriptor of the socket, descriptor of the shared memory,
bytes of address space, seconds of processor time for one call. It ends when its parent closes the socket.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import mmap
import os
import resource
import socket
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox_wire import BrokenWireError, Message, receive, send
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase


def main(arguments: Sequence[str]) -> None:
    """Serve calls until the parent closes the socket."""
    descriptor, memory, address_space, seconds = (int(argument) for argument in arguments)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    limit_resources(address_space)
    with socket.socket(fileno=descriptor) as wire:
        send(wire, {"ready": True})
        while True:
            try:
                request = receive(wire)
                renew_processor_time(seconds)
                send(wire, answer(request, wire, memory) | {"address_space": address_space_used()})
            except BrokenWireError:
                return


def limit_resources(address_space: int) -> None:
    """Bound the address space; allow no core dump, no growing file and few open files."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def renew_processor_time(seconds: int) -> None:
    """Allow this call `seconds` of processor time from now; the kernel kills the child beyond that."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime) + seconds, hard))


def address_space_used() -> int:
    """Bytes of address space of this process, or 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[0]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def answer(request: Message, wire: socket.socket, memory: int) -> Message:
    """The reply to one request; every error becomes a verdict here, and its text is ours."""
    try:
        return _inspect(request) if request["call"] == "inspect" else _read_series(request, wire, memory)
    except BrokenWireError:
        raise
    except Exception as error:  # noqa: BLE001  the boundary: nothing unforeseen may look like success
        return verdict(error)


def verdict(error: Exception) -> Message:
    """The reply that an error stands for; of an unforeseen one only the type is told."""
    match error:
        case RefusedInstance():
            header = None if error.header is None else dataclasses.asdict(error.header)
            return {"refused": [error.reason, error.detail], "is_image": error.is_image, "header": header}
        case DeferCase():
            return {"deferred": [error.reason, error.detail]}
        case MemoryError():
            return {"exhausted": True}
        case OSError():
            return {"unopened": type(error).__name__}
        case _:
            return {"failed": type(error).__name__}


def _inspect(request: Message) -> Message:
    return {"header": dataclasses.asdict(inspect_instance(Path(request["path"]).read_bytes()))}


def _read_series(request: Message, wire: socket.socket, memory: int) -> Message:
    def allocate(shape: tuple[int, int, int]) -> NDArray[np.float32]:
        size = math.prod(shape) * 4
        send(wire, {"room_for": size})
        if not receive(wire).get("granted"):
            raise MemoryError
        room = mmap.mmap(memory, size)
        return np.frombuffer(room, dtype=np.float32).reshape(shape)

    paths = [Path(path) for path in request["paths"]]
    return _described(read_series_in_process(paths, request["digests"], allocate=allocate))


def _described(volume: Volume) -> Message:
    return {
        "shape": list(volume.voxels.shape),
        "affine": volume.affine.tolist(),
        "sources": list(volume.sources),
        "quality": list(volume.quality),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
