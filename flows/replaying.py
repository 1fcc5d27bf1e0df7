"""Replay: a stored decision recomputed with the release that made it, and compared."""

from __future__ import annotations

from typing import Any

from flows.bootstrap import House
from flows.champion import load_predictor
from pipeline import triage
from pipeline.errors import HaltPipeline
from pipeline.store import decision_rows


def replay_case(house: House, case_id: str) -> dict[str, Any]:
    """What was decided, what is decided now with the same release, and whether they are identical."""
    with house.database.read() as connection:
        stored = decision_rows.stored_decision(connection, case_id)
    if stored is None:
        raise HaltPipeline(f"case {case_id[:36]} has no decision; `secondread triage --json` lists cases")
    predictor = _predictor(house, stored.release_digest)
    result = triage.replay(house.database, house.blobs, house.sandbox, predictor, case_id)
    return {"identical": result.identical, "stored": result.stored, "recomputed": result.recomputed}


def _predictor(house: House, digest: str | None) -> Any:
    if digest is None:
        return None
    found = next((release for release in house.registry.list() if release.digest == digest), None)
    if found is None:
        raise HaltPipeline(f"the registry no longer holds release {digest[:12]}, which decided this case; restore it")
    return load_predictor(house.registry.download(found.model, found.version), house.settings)
