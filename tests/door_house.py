"""A house with an open door for tests: real database, blobs, sandbox and receiver on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from flows.bootstrap import House, open_house
from flows.reception import Reception
from pipeline.settings import Settings
from pipeline.store.tables import instance


def write_hospital(path: Path, **changes: Any) -> None:
    """A hospital in which everybody on loopback titled ORTHANC or SENDER may send."""
    peers = [{"ae_title": title, "addresses": ["127.0.0.1"]} for title in ("ORTHANC", "SENDER")]
    content = {"reception": {"port": 0, "peers": peers}} | changes
    path.write_text(yaml.safe_dump(content), "utf-8")


@contextmanager
def door_house(folder: Path, *, hospital: dict[str, Any] | None = None, **settings: Any) -> Iterator[House]:
    """An initialised house whose hospital.yaml lets the tests in."""
    folder.mkdir(parents=True, exist_ok=True)
    write_hospital(folder / "hospital.yaml", **(hospital or {}))
    given = Settings(home=folder / "home", hospital=folder / "hospital.yaml", reserve_mb=0, **settings)
    with open_house(given, create=True) as house:
        yield house


@contextmanager
def open_door(house: House) -> Iterator[Reception]:
    """The house's receiver, listening."""
    with Reception(house) as reception:
        yield reception


def ledger(house: House) -> list[Any]:
    """Every line of the ledger in order of arrival."""
    with house.database.read() as connection:
        return list(connection.execute(instance.select().order_by(instance.c.sequence)))
