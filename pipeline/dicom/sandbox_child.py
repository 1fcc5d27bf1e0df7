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
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom.deidentify import DeidentificationProfile, deidentified_instance
from pipeline.dicom.headers import glance, inspect_instance
from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox_limits import address_space_used, leave_network, limit_resources, renew_processor_time
from pipeline.dicom.sandbox_wire import MOST_KEPT, BrokenWireError, Message, receive, send
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.dicom.side_by_side import free_cores
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, RejectInstance

HEAD_BYTES = 1 << 18  #: that a glance at a file reads


def main(arguments: Sequence[str]) -> None:
    """Serve calls until the parent closes the socket."""
    descriptor, memory, address_space = (int(argument) for argument in arguments)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    leave_network()
    limit_resources(address_space)
    room = Room(memory)
    with socket.socket(fileno=descriptor) as wire:
        send(wire, {"ready": True})
        while True:
            try:
                request = receive(wire)
                renew_processor_time(request["seconds"] * (free_cores() if request["call"] == "read_series" else 1))
                send(wire, answer(request, wire, room) | {"address_space": address_space_used()})
            except BrokenWireError:
                return


class Room:
    """The memory shared with the parent, kept mapped between calls: fresh pages cost more than what is written there."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._kept: mmap.mmap | None = None

    def voxels(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array over its first bytes, which the parent has granted; what an earlier call wrote is still in it."""
        size = math.prod(shape) * 4
        if size > MOST_KEPT:
            self._kept = None
            mapped = mmap.mmap(self._memory, size)
        else:
            if self._kept is None or len(self._kept) < size:
                self._kept = mmap.mmap(self._memory, size)
            mapped = self._kept
        return np.frombuffer(mapped, dtype=np.float32, count=math.prod(shape)).reshape(shape)


def answer(request: Message, wire: socket.socket, room: Room) -> Message:
    """The reply to one request; every error becomes a verdict here, and its text is ours."""
    try:
        match request["call"]:
            case "inspect":
                return _inspect(request)
            case "glance":
                return _glance(request)
            case "deidentify":
                return _deidentify(request, wire, room)
            case _:
                return _read_series(request, wire, room)
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
        case RejectInstance():
            return {"refused": [error.reason, error.detail]}
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


def _glance(request: Message) -> Message:
    with Path(request["path"]).open("rb") as file:
        return {"header": dataclasses.asdict(glance(file.read(HEAD_BYTES)))}


def _deidentify(request: Message, wire: socket.socket, room: Room) -> Message:
    key, profile = bytes.fromhex(request["key"]), DeidentificationProfile(**request["profile"])
    found = deidentified_instance(Path(request["path"]).read_bytes(), key=key, profile=profile)
    words = _granted((-(-len(found.data) // 4),), wire=wire, room=room)
    words.view(np.uint8)[: len(found.data)] = np.frombuffer(found.data, dtype=np.uint8)
    return {
        "size": len(found.data),
        "patient": found.patient,
        "study_instance_uid": found.study_instance_uid,
        "series_instance_uid": found.series_instance_uid,
        "sop_instance_uid": found.sop_instance_uid,
    }


def _read_series(request: Message, wire: socket.socket, room: Room) -> Message:
    paths = [Path(path) for path in request["paths"]]
    allocate = partial(_granted, wire=wire, room=room)
    return _described(read_series_in_process(paths, request["digests"], allocate=allocate))


def _granted(shape: tuple[int, ...], *, wire: socket.socket, room: Room) -> NDArray[np.float32]:
    """Shared memory of that shape. Raises MemoryError where the parent grants none."""
    send(wire, {"room_for": math.prod(shape) * 4})
    if not receive(wire).get("granted"):
        raise MemoryError
    return room.voxels(shape)


def _described(volume: Volume) -> Message:
    return {
        "shape": list(volume.voxels.shape),
        "affine": volume.affine.tolist(),
        "sources": list(volume.sources),
        "quality": list(volume.quality),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
