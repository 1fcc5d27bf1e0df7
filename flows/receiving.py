"""Taking a file or a folder in, with this house's database, blobs, sandbox and key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flows.bootstrap import House
from pipeline.errors import HaltPipeline
from pipeline.intake import Receipt, accept_file, accept_folder


def take_in(
    house: House, path: Path, *, source: str, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> list[Receipt]:
    """Every file at or under `path` through the intake. Raises HaltPipeline for an absent path, RetryLater."""
    existing(path)
    if not path.is_dir():
        return [take_file_in(house, path, source=source)]
    return list(
        accept_folder(
            house.database,
            house.blobs,
            house.sandbox,
            path,
            source=source,
            pseudonym_key=house.keys.pseudonym,
            now=_now,
            on_progress=on_progress,
        )
    )


def take_file_in(house: House, path: Path, *, source: str) -> Receipt:
    """One file through the intake. Raises RetryLater."""
    return accept_file(
        house.database,
        house.blobs,
        house.sandbox,
        path,
        source=source,
        pseudonym_key=house.keys.pseudonym,
        now=_now(),
    )


def existing(path: Path) -> Path:
    """`path`, when it is there. Raises HaltPipeline."""
    if not path.exists():
        raise HaltPipeline(f"{path}: no such file or folder; give the path of a DICOM file or of a folder of them")
    return path


def _now() -> datetime:
    return datetime.now(UTC)
