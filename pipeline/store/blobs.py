"""Received bytes under their own SHA-256: durable before they are named, never changed, never under a received name.

Order of one write: temporary file on the same file system, fsync, rename, fsync of the folder. Only then does `put`
return, so a caller that writes its row afterwards never has a row without bytes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from pipeline.domain.case import Reason
from pipeline.errors import DeferCase, HaltPipeline, RetryLater

CHUNK = 1 << 20
"""Bytes read at once, so that a large file never stands in memory as a whole."""

_LEFTOVER_AGE = timedelta(hours=1)


class Source(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` further bytes, none at the end."""


@dataclass(frozen=True)
class Stored:
    """What was stored: SHA-256, hexadecimal, and size in bytes."""

    sha256: str
    size: int


class BlobStore:
    """A folder of files named by their SHA-256, two hexadecimal digits a subfolder.

    Writes are refused while less than `reserve_bytes` of the disk would stay free, so that the database and the results
    keep their room; nothing is ever deleted to make some. Raises HaltPipeline when the folder cannot be made.
    """

    def __init__(self, root: Path, *, reserve_bytes: int = 0) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._incoming = root / "incoming"
        try:
            self._make_folders()
        except OSError as error:
            raise HaltPipeline(f"the image store cannot be made ({error.strerror}); choose another folder") from error

    def _make_folders(self) -> None:
        """All at once and durable, so that no later write depends on a folder that may be lost."""
        if (self._root / "ff").is_dir():
            return
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        for first in range(256):
            (self._root / f"{first:02x}").mkdir(mode=0o700, exist_ok=True)
        _sync_folder(self._root)
        _sync_folder(self._root.parent)

    def path(self, sha256: str) -> Path:
        """Where the bytes of that digest are; raises ValueError when it is none."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError("not a SHA-256 in lower-case hexadecimal digits")
        return self._root / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Store `data` durably and return its SHA-256. Raises RetryLater when the disk is full or away."""
        return self._store([data]).sha256

    def put_file(self, source: Source) -> Stored:
        """Store what `source` holds from here on, read once and hashed on the way. Raises RetryLater."""
        return self._store(iter(lambda: source.read(CHUNK), b""))

    def _store(self, chunks: Iterable[bytes]) -> Stored:
        temporary = self._incoming / secrets.token_hex(16)
        self._refuse_when_nearly_full()
        with _disk_errors():
            try:
                return self._store_as(temporary, chunks)
            finally:
                temporary.unlink(missing_ok=True)

    def _refuse_when_nearly_full(self) -> None:
        if self._reserve_bytes and shutil.disk_usage(self._root).free < self._reserve_bytes:
            raise RetryLater("the disk of the image store is nearly full; free some of it, nothing confirmed is lost")

    def _store_as(self, temporary: Path, chunks: Iterable[bytes]) -> Stored:
        digest, size = hashlib.sha256(), 0
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
            file.flush()
            stored = Stored(digest.hexdigest(), size)
            target = self.path(stored.sha256)
            if not _holds(target, stored.sha256):
                os.fsync(file.fileno())
                os.rename(temporary, target)  # noqa: PTH104 - the system call itself, so that faults can be planted on it
        _sync_folder(target.parent)
        return stored

    def verified(self, sha256: str) -> Path:
        """Where the bytes of that digest are, after reading and comparing them all.

        Raises DeferCase(UNREADABLE) when they are absent or others.
        """
        path = self.path(sha256)
        if not _holds(path, sha256):
            raise DeferCase(Reason.UNREADABLE, "the stored bytes of an image are absent or no longer those received")
        return path

    def read(self, sha256: str) -> bytes:
        """The bytes of that digest, verified. Raises DeferCase(UNREADABLE)."""
        try:
            data = self.path(sha256).read_bytes()
        except OSError as error:
            raise DeferCase(Reason.UNREADABLE, "the stored bytes of an image are absent") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DeferCase(Reason.UNREADABLE, "the stored bytes of an image are no longer those received")
        return data

    def sweep(self, now: datetime) -> int:
        """Take away what killed writers left half-written more than an hour before `now`; returns how many files."""
        removed = 0
        for path in self._incoming.iterdir():
            try:
                if path.stat().st_mtime < (now - _LEFTOVER_AGE).timestamp():
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue
        return removed


def _holds(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetryLater(
            f"an image could not be stored ({error.strerror}); free or mend the disk of the image store and try again, "
            "nothing that was confirmed is lost"
        ) from error
