"""Promotion: the gate, then the alias moves in MLflow and in our own history, and triage believes only when both agree.

Why MLflow first: a crash between the two leaves them in disagreement, and disagreement sends every case to a clinician
until the promotion is repeated.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow

from flows.bootstrap import House
from flows.workplace import at_work
from models.promotion import gate
from models.registry import RegisteredRelease, model_name
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol
from pipeline.store import alias_rows, audit_rows


@flow(name="promotion")
def promotion_flow(protocol: str, version: str, actor: str, reason: str = "") -> dict[str, Any]:
    """Promote `version` of a protocol's model, as a flow run."""
    with at_work() as place:
        return promote(place.house, place.house.protocol(protocol), version, actor=actor, reason=reason)


def promote(house: House, protocol: TriageProtocol, version: str, *, actor: str, reason: str) -> dict[str, Any]:
    """Make `version` (or what that alias names) the champion when the gate lets it through; says what happened."""
    return _move(house, house.registry.resolve(model_name(protocol), version), actor=actor, reason=reason or "promoted")


def roll_back(house: House, protocol: TriageProtocol, *, actor: str, reason: str) -> dict[str, Any]:
    """Make the champion before the present one the champion again. Raises HaltPipeline when there was none."""
    model = model_name(protocol)
    with house.database.read() as connection:
        moves = [move for move in alias_rows.history(connection, model) if move.alias == "champion"]
    earlier = [move for move in moves if move.release_digest != moves[-1].release_digest]
    if not earlier:
        raise HaltPipeline(f"{model} had no earlier champion; promote a release with `secondread models promote`")
    found = house.registry.resolve(model, earlier[-1].version)
    return _move(house, found, actor=actor, reason=reason or "rolled back")


def _move(house: House, found: RegisteredRelease, *, actor: str, reason: str) -> dict[str, Any]:
    release = house.registry.download(found.model, found.version)
    now = datetime.now(UTC)
    result = gate(release, today=now.date())
    outcome = {"model": found.model, "version": found.version, "digest": release.digest, "moved": result.passed}
    if not result.passed:
        return outcome | {
            "findings": list(result.failures),
            "sentence": f"The gate refuses version {found.version}; the champion stays as it was.",
        }
    house.registry.set_alias(found.model, "champion", found.version)
    record_move(house, found, alias="champion", digest=release.digest, actor=actor, reason=reason, at=now)
    sentence = f"Version {found.version} of {found.model} is the champion; the next claim uses it."
    return outcome | {"findings": [check.reason for check in result.checks], "sentence": sentence}


def record_move(
    house: House, found: RegisteredRelease, *, alias: str, digest: str, actor: str, reason: str, at: datetime
) -> None:
    """Write an alias move to our own history and the audit trail, in one transaction."""
    with house.database.transaction() as connection:
        alias_rows.record_alias(
            connection,
            model=found.model,
            alias=alias,
            version=found.version,
            release_digest=digest,
            actor=actor,
            reason=reason,
            at=at,
        )
        audit_rows.append(
            connection,
            at=at,
            actor=actor,
            event="alias_moved",
            payload={"model": found.model, "alias": alias, "version": found.version, "release_digest": digest},
        )
