"""The limited child process of the sandbox: it parses and decodes, and can do little else.

Started by `Sandbox` with an empty environment; arguments: descriptor of the socket, descriptor of the shared memory
and bytes of address space. It ends when its parent closes the socket.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import mmap
import socket
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox_limits import address_space_used, leave_network, limit_resources, renew_processor_time
from pipeline.dicom.sandbox_wire import BrokenWireError, Message, receive, send
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase


def main(arguments: Sequence[str]) -> None:
    """Serve calls until the parent closes the socket."""
    descriptor, memory, address_space = (int(argument) for argument in arguments)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    leave_network()
    limit_resources(address_space)
    with socket.socket(fileno=descriptor) as wire:
        send(wire, {"ready": True})
        while True:
            try:
                request = receive(wire)
                renew_processor_time(request["seconds"])
                send(wire, answer(request, wire, memory) | {"address_space": address_space_used()})
            except BrokenWireError:
                return


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
