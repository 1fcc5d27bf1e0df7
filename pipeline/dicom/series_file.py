"""One file of a series: its header is read first, native pixels stay in the file until they have a place to go.

Whatever way it is read, its pixels are used only after the digest of all its bytes was compared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from pipeline.dicom.decoders import native_values
from pipeline.dicom.parsing import ParsedInstance, parse, parse_head
from pipeline.dicom.pixel_checks import check_length, decode
from pipeline.dicom.pixel_description import PixelDescription, describe_pixels
from pipeline.dicom.plane import FramePlane, planes
from pipeline.domain.case import Reason
from pipeline.errors import DeferCase

HEAD_BYTES: Final = 64 * 1024  #: read first; a header that is longer is read with the whole file

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class SeriesFile:
    """A file with its header read: what it says about its pixels and frames.

    `head` are the bytes before pixels that were left in the file, empty where the whole file was read and verified;
    `digest` is the SHA-256 digest that its bytes must have, None where nobody named one.
    """

    path: Path
    size: int
    instance: ParsedInstance
    description: PixelDescription
    planes: list[FramePlane]
    head: bytes
    digest: str | None


def open_header(path: Path, digest: str | None) -> SeriesFile:
    """The file with its header read and checked. Raises RejectInstance, DeferCase."""
    size, head = _opened(path, lambda file: (os.fstat(file.fileno()).st_size, file.read(HEAD_BYTES)))
    instance = parse_head(head, size)
    if instance is not None and instance.pixels_at is not None:
        description = describe_pixels(instance.dataset)
        if description.is_plain(instance.transfer_syntax_uid):
            check_length(len(instance.pixels_at), description)
            frames = planes(instance.dataset, description.frames)
            return SeriesFile(path, size, instance, description, frames, head[: instance.pixels_at.start], digest)
    return _whole(path, digest)


def _whole(path: Path, digest: str | None) -> SeriesFile:
    data = _opened(path, lambda file: file.read())
    found = verified(data, digest)
    instance = parse(data)
    if instance.problem:
        raise instance.problem
    description = describe_pixels(instance.dataset)
    frames = planes(instance.dataset, description.frames)
    return SeriesFile(path, len(data), instance, description, frames, b"", found)


def stored_pixels(file: SeriesFile, room: bytearray, threads: int = 1) -> tuple[NDArray[Any], str]:
    """The stored values (F, H, W) and the digest of the file's bytes, which lie in `room` until it is used again.

    `room` holds at least the `size` of a file whose pixels were left in it. Raises RejectInstance, DeferCase.
    """
    place = file.instance.pixels_at
    if place is None:
        return decode(file.instance, threads)[1], file.digest or ""
    content = memoryview(room)[: file.size]
    read = _opened(file.path, lambda opened: _read_into(opened, content))
    found = verified(content, file.digest)
    if read != file.size or content[: place.start] != file.head:
        raise DeferCase(Reason.UNREADABLE, "a file changed while it was read")
    return native_values(content[place.start : place.stop], file.instance.transfer_syntax_uid, file.description), found


def _read_into(opened: FileIO, content: memoryview) -> int:
    position = 0
    while position < len(content):
        read = opened.readinto(content[position:])
        if not read:
            break
        position += read
    return position


def verified(data: bytes | memoryview, digest: str | None) -> str:
    """The SHA-256 digest of the bytes. Raises DeferCase unless it is `digest`, where one is named."""
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise DeferCase(Reason.UNREADABLE, "the bytes of an instance are not those that were received")
    return found


def verify(path: Path, digest: str) -> None:
    """Raises DeferCase unless the bytes of the file have that digest."""
    verified(_opened(path, lambda file: file.read()), digest)


def _opened(path: Path, use: Callable[[FileIO], Result]) -> Result:
    try:
        with path.open("rb", buffering=0) as file:
            return use(file)
    except OSError as error:
        raise DeferCase(Reason.UNREADABLE, f"a file cannot be opened ({type(error).__name__})") from None
