"""Finding and describing releases for the command line: a version, an alias or a folder."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.bootstrap import House
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol
from pipeline.store import alias_rows

if TYPE_CHECKING:
    from models.release import Release
    from pipeline.domain.neighbours import Neighbours, ScoredCases

_log = logging.getLogger(__name__)


def find_release(house: House, name: str, protocol: str | None) -> Release:
    """The verified release in the folder `name`, or the one of that version or alias. Raises HaltPipeline."""
    from models.registry import model_name
    from models.release import Release

    folder = Path(name)
    if folder.is_dir():
        return Release.load(folder)
    return house.registry.download(model_name(house.only_protocol(protocol)), name)


def describe(release: Release) -> dict[str, Any]:
    """What `models show` prints of a release."""
    from models.registry import model_name

    certificates = {
        side: certificate.to_dict() | {"sentence": certificate.sentence()}
        for side, certificate in release.certificates.items()
    }
    return {
        "model": model_name(release.protocol),
        "digest": release.digest,
        "protocol": release.protocol.name,
        "protocol_digest": release.protocol.digest,
        "temperature": release.temperature,
        "routine_below": release.policy.routine_below,
        "priority_above": release.policy.priority_above,
        "mutual_information_limit": release.policy.mutual_information_limit,
        "certificates": certificates,
        "metrics": release.meta.get("metrics", {}),
        "data": release.meta.get("data", {}),
    }


def certificate_sentences(house: House, digest: str) -> tuple[str, ...]:
    """What the verified release with that digest certifies, in words; nothing when it is not kept in this home."""
    from models.release import Release

    folder = house.settings.home / "releases" / digest
    if not folder.is_dir():
        return ()
    try:
        release = Release.load(folder, expected_digest=digest)
    except HaltPipeline:
        return ()
    return tuple(certificate.sentence() for certificate in release.certificates.values())


def neighbours_of(house: House, digest: str, score: float) -> Neighbours | None:
    """The certification patients nearest to `score` under the release with that digest; None where they are not kept."""
    folder = house.settings.home / "releases" / digest
    cases = _scored_cases(folder, digest) if folder.is_dir() else None
    return None if cases is None else cases.nearest(score)


@lru_cache(maxsize=16)
def _scored_cases(folder: Path, digest: str) -> ScoredCases | None:
    """Read and verified once: a release never changes. None for an older release and for one that was tampered with."""
    from models.release import read_scored_cases
    from models.release_files import CERTIFICATION, verify_one

    try:
        return read_scored_cases(folder, verify_one(folder, CERTIFICATION, digest))
    except HaltPipeline as error:
        _log.warning(
            "a release's certification cases cannot be read", extra={"release": digest, "error": type(error).__name__}
        )
        return None


def alias_history(house: House, protocol: TriageProtocol) -> list[dict[str, Any]]:
    """Every alias move of the protocol's model, oldest first."""
    from models.registry import model_name

    with house.database.read() as connection:
        moves = alias_rows.history(connection, model_name(protocol))
    return [
        {
            "at": move.at.isoformat(timespec="seconds"),
            "alias": move.alias,
            "version": move.version,
            "release_digest": move.release_digest,
            "actor": move.actor,
            "reason": move.reason,
        }
        for move in moves
    ]
