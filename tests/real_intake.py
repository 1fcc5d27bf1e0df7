"""Files through the real intake, store and sandbox and then through triage; only the release is pretended.

The release is as sure as can be that there is no finding, so that every study goes to ROUTINE that passes the guards.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.evidence import Decision
from pipeline.intake import Receipt, accept_folder, seal_quiet_studies
from pipeline.protocol import SeriesRule, TriageProtocol, load_protocol
from pipeline.store import conservation
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.decided_cases import write_decisions
from pipeline.triage import Bench, PreparedCase
from tests.pretend_scanner import KEY, MINUTE, NOON, PretendedRelease, claim

LATER = NOON + 10 * MINUTE
CHUNK = 64


def strict_protocol() -> TriageProtocol:
    """The shipped MR protocol, 16 slices at least; no ROUTINE case is drawn for audit."""
    shipped = load_protocol("brain-tumour-mr")
    return shipped.model_copy(update={"limits": shipped.limits.model_copy(update={"audit_share": 1e-9})})


def lenient_protocol() -> TriageProtocol:
    """A protocol for whatever is an image, single slices too, so that all that is accepted is decoded for triage."""
    strict = strict_protocol()
    scope = strict.scope.model_copy(
        update={"modality": ("MR", "CT", "CR", "DX", "NM", "OT"), "body_part": (), "age_years": None}
    )
    rule = SeriesRule(slices=(1, 4096), exclude_image_types=())
    return strict.model_copy(update={"name": "whatever", "scope": scope, "series": rule})


class RealIntake:
    """One house, empty at first."""

    def __init__(self, folder: Path, database: Database, sandbox: Sandbox) -> None:
        self.database, self.sandbox = database, sandbox
        self.blobs = BlobStore(folder / "blobs")
        self._incoming = folder / "incoming"

    def take(self, files: Mapping[str, bytes]) -> dict[str, Receipt]:
        """A receipt for each file by its name; the files are gone afterwards, as they would be from a drop folder."""
        for name, data in files.items():
            path = self._incoming / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        receipts = self.take_folder(self._incoming)
        shutil.rmtree(self._incoming)
        return {str(receipt.path.relative_to(self._incoming)): receipt for receipt in receipts}

    def take_folder(self, folder: Path) -> list[Receipt]:
        """A receipt for every name under a folder."""
        given: dict[str, Any] = {"source": "folder", "pseudonym_key": KEY, "now": lambda: NOON}
        return list(accept_folder(self.database, self.blobs, self.sandbox, folder, **given))

    def seal(self, *protocols: TriageProtocol) -> list[str]:
        """Ids of the cases of every study that was open."""
        return seal_quiet_studies(self.database, protocols, quiet=MINUTE, now=LATER, force=True)

    def decide(self, protocol: TriageProtocol) -> dict[str, Decision]:
        """The decision about every waiting study, by its id, with a release that is sure."""
        release = PretendedRelease(protocol, score=0.0)
        bench = Bench(blobs=self.blobs, sandbox=self.sandbox, predictor=release, protocol=protocol)
        found: dict[str, Decision] = {}
        while claimed := claim(self.database, protocol, now=LATER, lease=timedelta(hours=1), limit=CHUNK):
            ready = [PreparedCase(self.database, bench, one).decided(lambda: LATER) for one in claimed]
            decisions = write_decisions(self.database, protocol, ready, audit_key=KEY)
            assert decisions is not None, "a decision was refused by the database"
            found |= {one.study_id: decision for one, decision in zip(claimed, decisions, strict=True)}
        return found

    def state(self) -> dict[str, Any]:
        """What `secondread status` says."""
        with self.database.read() as connection:
            return conservation.status(connection, LATER)

    def lost_bytes(self) -> list[str]:
        """Digests in the ledger whose bytes are gone or others."""
        with self.database.read() as connection:
            return conservation.lost_bytes(connection, self.blobs)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
