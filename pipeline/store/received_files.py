"""Received files as the file system shows them: only regular files are read, links are not followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import RejectInstance


def files_under(folder: Path) -> list[Path]:
    """Everything that is no folder, links to folders and folders that cannot be listed too, in a stable order."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=lambda error: found.append(Path(error.filename))):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found.extend(Path(place) / name for name in (*files, *links))
    return sorted(found)


class ReceivedFile:
    """An open file whose read errors are its own, not those of the store it is copied to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """The next bytes. Raises RejectInstance."""
        try:
            return self._file.read(size)
        except OSError as error:
            raise RejectInstance("unreadable_file", str(error.strerror)) from error


@contextmanager
def open_received(path: Path) -> Iterator[ReceivedFile]:
    """A regular file, opened without following a link or waiting for a pipe. Raises RejectInstance."""
    if path.is_symlink():
        raise RejectInstance("symbolic_link", "links are not followed")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RejectInstance("unreadable_file", str(error.strerror)) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RejectInstance("not_a_file", "only regular files are taken in")
        yield ReceivedFile(file)
