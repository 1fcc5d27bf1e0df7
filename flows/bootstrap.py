"""The composition root: settings become one house of database, blobs, keys, protocols, sandbox and registry.

Why one place: nothing inside reads a setting or makes its own connection, so what a process works on is decided here and
nowhere else. A house that is not in order is not opened: absent database, lost or open key, unreadable protocol.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flows.environment import prepare_environment
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol, load_protocol
from pipeline.settings import Settings
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database, open_database

if TYPE_CHECKING:
    from models.registry import Registry
    from pipeline.dicom.sandbox import Sandbox
    from pipeline.hospital import Hospital
    from pipeline.reading_room import ReadingRoom

_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Keys derived from the house's secret, one per purpose, so that none can stand in for another."""

    pseudonym: bytes
    audit: bytes
    session: bytes
    export: bytes
    sealing: bytes


@dataclass(frozen=True, kw_only=True)
class House:
    """Everything one process works on; the sandbox and the registry are opened when first asked for."""

    settings: Settings
    database: Database
    blobs: BlobStore
    keys: Keys
    protocols: dict[str, TriageProtocol]

    @cached_property
    def sandbox(self) -> Sandbox:
        """The limited child process that parses and decodes foreign bytes."""
        return self.new_sandbox()

    def new_sandbox(self) -> Sandbox:
        """Another such child; whoever asks for it closes it."""
        from pipeline.dicom.sandbox import Sandbox

        return Sandbox(memory_mb=self.settings.decode_memory_mb, seconds=self.settings.decode_seconds)

    @cached_property
    def hospital(self) -> Hospital:
        """Whom the house speaks with outside. Raises HaltPipeline."""
        from pipeline.hospital import load_hospital

        return load_hospital(self.settings.hospital_file)

    @cached_property
    def reading_room(self) -> ReadingRoom:
        """How the site reads. Raises HaltPipeline."""
        from pipeline.reading_room import load_reading_room

        return load_reading_room(self.settings.reading_room_file)

    @cached_property
    def registry(self) -> Registry:
        """The registry of releases."""
        from models.registry import Registry

        return Registry(self.settings.mlflow, self.settings.home / "releases")

    def protocol(self, name_or_path: str) -> TriageProtocol:
        """The active protocol of that name, a shipped one or one in a file. Raises HaltPipeline."""
        return self.protocols.get(name_or_path) or load_protocol(name_or_path)

    def only_protocol(self, name: str | None) -> TriageProtocol:
        """The protocol of that name, or the only active one. Raises HaltPipeline when that is not clear."""
        if name is not None:
            return self.protocol(name)
        if len(self.protocols) > 1:
            raise HaltPipeline(f"several protocols are active; name one with --protocol: {', '.join(self.protocols)}")
        return next(iter(self.protocols.values()))

    def close(self) -> None:
        """End the child process, when one was started, and the connections."""
        sandbox = self.__dict__.pop("sandbox", None)
        if sandbox is not None:
            sandbox.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_house(settings: Settings, *, create: bool = False) -> House:
    """The house of these settings; `create` makes what is absent and brings the database's schema up to date.

    Raises HaltPipeline naming the cure when anything is absent or not as it must be.
    """
    home = settings.home.expanduser().absolute()
    settings = settings.model_copy(update={"home": home})
    protocols = _load_protocols(settings)
    if create:
        _make_home(home)
    secret = _read_secret(home)
    prepare_environment(home)
    return House(
        settings=settings,
        database=open_database(settings.database, create=create),
        blobs=BlobStore(home / "blobs", reserve_bytes=settings.reserve_mb << 20),
        keys=Keys(
            pseudonym=_derive(secret, b"pseudonym"),
            audit=_derive(secret, b"audit"),
            session=_derive(secret, b"session"),
            export=_derive(secret, b"export"),
            sealing=_derive(secret, b"sealing"),
        ),
        protocols=protocols,
    )


def _load_protocols(settings: Settings) -> dict[str, TriageProtocol]:
    protocols = [load_protocol(name) for name in settings.protocol_names]
    if not protocols:
        raise HaltPipeline("SECONDREAD_PROTOCOLS names no protocol; unset it or name one, such as brain-tumour-mr")
    names = [protocol.name for protocol in protocols]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise HaltPipeline(f"SECONDREAD_PROTOCOLS: two protocols are named '{repeated[0]}'; rename one")
    return {protocol.name: protocol for protocol in protocols}


def _make_home(home: Path) -> None:
    if (home / "secondread.db").exists() and not (home / "secret.key").exists():
        raise HaltPipeline(f"{home} has a database but no secret.key; restore that file from the backup of the home")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "blobs").mkdir(mode=0o700, exist_ok=True)
        _make_secret(home / "secret.key")
    except OSError as error:
        raise HaltPipeline(f"the home {home} cannot be made ({error.strerror}); set SECONDREAD_HOME") from error


def _make_secret(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _read_secret(home: Path) -> bytes:
    path = home / "secret.key"
    try:
        mode, secret = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise HaltPipeline(
            f"no readable home at {home}; run `secondread init`, or set SECONDREAD_HOME to an existing one"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise HaltPipeline(f"{path} can be read by others; run `chmod 600` on it, then `secondread doctor`")
    if len(secret) != _KEY_BYTES:
        raise HaltPipeline(f"{path} does not hold {_KEY_BYTES} bytes; restore it from the backup of the home")
    return secret


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return hmac.digest(secret, b"secondread/" + purpose, hashlib.sha256)
