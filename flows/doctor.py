"""Doctor: everything a house needs, looked at one by one, each with its state and the cure of what is amiss."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from flows.bootstrap import House, open_house
from flows.check import Check
from pipeline.errors import HaltPipeline, SecondreadError
from pipeline.settings import Settings
from pipeline.store import alias_rows, audit_rows, conservation, safe_state_rows
from pipeline.store.database import is_safe_for_wal

LEAST_FREE_BYTES = 5 * 2**30
#: Library, the first version that is known not to work, and why.
_CEILINGS = {
    "fastapi": ((0, 151), "Prefect's server does not build with it"),
    "sqlalchemy": ((2, 1), "Prefect's scheduler silently creates no cron runs with it"),
}


def examine(settings: Settings, *, quick: bool = False) -> list[Check]:
    """Every check that can be made; without a house only those that need none.

    A `quick` look starts no child, walks no chain and opens no registry.
    """
    checks = [_disk(settings), _sqlite(settings), *(_library(name) for name in _CEILINGS), _prefect()]
    try:
        house = open_house(settings)
    except SecondreadError as problem:
        said, _, cure = str(problem).partition(";")
        return [Check(name="home", state="amiss", detail=said, cure=cure.strip() or "see the text"), *checks]
    with house:
        checks.insert(0, Check(name="home", state="well", detail=str(house.settings.home)))
        looks = (_ledger, _stop) if quick else (_sandbox, _ledger, _audit, _stop, _registry)
        checks += [_asked(look, house) for look in looks]
        return checks if quick else checks + _door(house)


def _door(house: House) -> list[Check]:
    from flows.door_doctor import examine_door

    try:
        return examine_door(house)
    except SecondreadError as problem:
        said, _, cure = str(problem).partition(";")
        return [Check(name="door", state="amiss", detail=said, cure=cure.strip())]


def _asked(look: Callable[[House], Check], house: House) -> Check:
    name = look.__name__.strip("_")
    try:
        return look(house)
    except SecondreadError as problem:
        said, _, cure = str(problem).partition(";")
        return Check(name=name, state="amiss", detail=said, cure=cure.strip())
    except Exception as error:  # noqa: BLE001 - a broken part is what this command is there to show
        return Check(name=name, state="amiss", detail=f"unexpected {type(error).__name__}", cure="see `--debug`")


def _disk(settings: Settings) -> Check:
    place = settings.home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    short = free < LEAST_FREE_BYTES
    cure = "free some space: images are refused, never lost, when the disk is full" if short else ""
    return Check(name="disk", state="amiss" if short else "well", detail=f"{free / 2**30:.0f} GiB free", cure=cure)


def _sqlite(settings: Settings) -> Check:
    if not settings.database.startswith("sqlite"):
        return Check(name="database", state="well", detail="PostgreSQL")
    mode = "WAL" if is_safe_for_wal(sqlite3.sqlite_version_info) else "DELETE: this version can lose writes in WAL"
    return Check(name="database", state="well", detail=f"SQLite {sqlite3.sqlite_version}, journal {mode}")


def _library(name: str) -> Check:
    ceiling, why = _CEILINGS[name]
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name=name, state="amiss", detail="not installed", cure="install secondread with constraints.txt")
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if numbers >= ceiling:
        return Check(name=name, state="amiss", detail=f"{found}: {why}", cure="install the version in constraints.txt")
    return Check(name=name, state="well", detail=found)


def _prefect() -> Check:
    address = os.environ.get("PREFECT_API_URL")
    return Check(name="prefect", state="well", detail=address or "embedded server, started per command")


def _sandbox(house: House) -> Check:
    from pipeline.errors import RejectInstance

    try:
        house.sandbox.inspect(house.settings.home / "secret.key")
    except RejectInstance as refusal:
        return Check(name="sandbox", state="well", detail=f"the limited child answers ({refusal.reason})")
    return Check(
        name="sandbox", state="amiss", detail="the child took a key file for an image", cure="reinstall pydicom"
    )


def _ledger(house: House) -> Check:
    with house.database.read() as connection:
        found = conservation.status(connection, datetime.now(UTC))
    lost = found["instances"]["unaccounted"]
    if lost:
        return Check(
            name="ledger", state="amiss", detail=f"{lost} instances unaccounted for", cure="restore the backup"
        )
    return Check(name="ledger", state="well", detail=f"{found['instances']['accepted']} instances, all accounted for")


def _audit(house: House) -> Check:
    problems = audit_rows.verify_trail(house.database)
    if problems:
        return Check(name="audit", state="amiss", detail=f"{len(problems)} breaks", cure="compare with the backup")
    return Check(name="audit", state="well", detail="the chain holds")


def _stop(house: House) -> Check:
    with house.database.read() as connection:
        stopped = safe_state_rows.is_safe(connection)
    if stopped:
        return Check(
            name="stop rule", state="note", detail="safe state: every case goes to REVIEW", cure="see the history"
        )
    return Check(name="stop rule", state="well", detail="not tripped")


def _registry(house: House) -> Check:
    with house.database.read() as connection:
        champions = alias_rows.champions(connection)
    absent = [name for name in house.protocols if f"secondread-{name}" not in champions]
    for model, move in champions.items():
        found = house.registry.resolve(model, "champion")
        if (found.version, found.digest) != (move.version, move.release_digest):
            raise HaltPipeline(f"{model}: MLflow and our history name different champions; promote one of them again")
    if absent:
        cure = "train a release and run `secondread models promote`"
        return Check(name="registry", state="note", detail=f"no champion for {', '.join(absent)}", cure=cure)
    return Check(name="registry", state="well", detail=", ".join(f"{m} {v.version}" for m, v in champions.items()))
