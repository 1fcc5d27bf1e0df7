"""The files of a release: which names may stand there, what each holds, and one digest over every byte.

Why a closed list of names: a release is data that arrives over a network and is loaded beside patient images. JSON and
safetensors cannot carry code, so no other format is read, and a file that the manifest does not name is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from pipeline.errors import HaltPipeline

MANIFEST = "manifest.json"
RELEASE = "release.json"
NOVELTY = "novelty.safetensors"
CERTIFICATION = "certification.safetensors"  #: scores and truths of the certify split; older releases have none
CERTIFICATES = {"routine": "certificate-routine.json", "priority": "certificate-priority.json"}
FORMAT = "secondread-release/2"

_deserialize: Callable[[bytes], list[object]] = safetensors.deserialize
_ALLOWED = re.compile(
    r"release\.json|certificate-(routine|priority)\.json|(novelty|certification)\.safetensors|members/\d{2}\.safetensors"
)
_CURE = "download the release again, or train it anew"


def member_name(member: int) -> str:
    """Where the weights of `member` stand in a release, e.g. ``members/00.safetensors``."""
    return f"members/{member:02d}.safetensors"


def sha256(data: bytes) -> str:
    """SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def canonical(content: Any) -> bytes:
    """`content` as the one JSON text it can have: sorted keys, no spaces, no NaN; raises ValueError on NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_manifest(folder: Path) -> str:
    """List every file of `folder` with its SHA-256 in its manifest; returns the release digest."""
    files = {name: sha256((folder / name).read_bytes()) for name in sorted(_names(folder))}
    manifest = canonical({"format": FORMAT, "files": files})
    (folder / MANIFEST).write_bytes(manifest)
    return sha256(manifest)


def verify(folder: Path, expected_digest: str | None = None) -> tuple[str, dict[str, bytes]]:
    """The release digest of `folder` and the verified bytes of each file but the manifest.

    Every byte is read once, here: what is returned is what was hashed. Raises HaltPipeline when a file is missing,
    foreign, a link or changed, or when the digest is not `expected_digest`.
    """
    manifest = _read(folder, MANIFEST)
    digest = sha256(manifest)
    if expected_digest is not None and digest != expected_digest:
        raise HaltPipeline(
            f"release {folder.name}: its digest is {digest[:12]} and not {expected_digest[:12]} as registered; {_CURE}"
        )
    listed = _listed(folder, manifest)
    _refuse_differences(folder, set(listed), _names(folder))
    return digest, {name: _verified(folder, name, listed[name]) for name in sorted(listed)}


def verify_one(folder: Path, name: str, expected_digest: str) -> bytes | None:
    """The verified bytes of one file of the release with that digest, the others unread; None where it has no such file.

    Raises HaltPipeline when the manifest or the file is missing or changed.
    """
    manifest = _read(folder, MANIFEST)
    if sha256(manifest) != expected_digest:
        raise HaltPipeline(f"release {folder.name}: its digest is not {expected_digest[:12]} as registered; {_CURE}")
    listed = _listed(folder, manifest)
    return _verified(folder, name, listed[name]) if name in listed else None


def parse_json(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    """The JSON mapping in the verified bytes of `name`; raises HaltPipeline."""
    try:
        content = json.loads(data, parse_constant=_no_constant)
    except ValueError as error:
        raise HaltPipeline(f"release {folder.name}: {name} is not valid JSON; {_CURE}") from error
    if not isinstance(content, dict):
        raise HaltPipeline(f"release {folder.name}: {name} holds no mapping; {_CURE}")
    return content


def parse_arrays(folder: Path, name: str, data: bytes) -> dict[str, NDArray[np.float64]]:
    """The arrays in the verified bytes of the safetensors file `name`; raises HaltPipeline."""
    try:
        return dict(load_arrays(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise HaltPipeline(f"release {folder.name}: {name} is not a safetensors file; {_CURE}") from error


def refuse_foreign_weights(folder: Path, name: str, data: bytes) -> None:
    """Raises HaltPipeline unless the verified bytes of `name` are safetensors (a renamed pickle is not)."""
    try:
        empty = not _deserialize(data)
    except SafetensorError as error:
        raise HaltPipeline(f"release {folder.name}: {name} is not a safetensors file; {_CURE}") from error
    if empty:
        raise HaltPipeline(f"release {folder.name}: {name} holds no weights; {_CURE}")


def _listed(folder: Path, manifest: bytes) -> dict[str, str]:
    content = parse_json(folder, MANIFEST, manifest)
    files = content.get("files")
    if content.get("format") != FORMAT or not isinstance(files, dict) or canonical(content) != manifest:
        raise HaltPipeline(f"release {folder.name}: {MANIFEST} is not in the format {FORMAT}; {_CURE}")
    return {str(name): str(value) for name, value in files.items()}


def _refuse_differences(folder: Path, listed: set[str], present: set[str]) -> None:
    foreign = sorted(name for name in listed | present if not _ALLOWED.fullmatch(name))
    if foreign:
        raise HaltPipeline(
            f"release {folder.name}: {foreign[0]} may not stand in a release (JSON and safetensors only); {_CURE}"
        )
    if missing := sorted(listed - present):
        raise HaltPipeline(f"release {folder.name}: {missing[0]} is missing; {_CURE}")
    if extra := sorted(present - listed):
        raise HaltPipeline(f"release {folder.name}: {extra[0]} is not in its manifest; {_CURE}")
    needed = {RELEASE, NOVELTY, *CERTIFICATES.values(), member_name(0)}
    if absent := sorted(needed - listed):
        raise HaltPipeline(f"release {folder.name}: its manifest lacks {absent[0]}; {_CURE}")


def _verified(folder: Path, name: str, digest: str) -> bytes:
    data = _read(folder, name)
    if sha256(data) != digest:
        raise HaltPipeline(f"release {folder.name}: {name} was changed after it was written; {_CURE}")
    return data


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise HaltPipeline(f"release {folder.name}: {name} is missing; give the folder of a release, or {_CURE}")
    return path.read_bytes()


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
