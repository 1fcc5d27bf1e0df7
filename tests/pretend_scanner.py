"""A scanner, a sandbox and a release that need no DICOM and no network: instances are small JSON texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dicom.rejections import RefusedInstance
from pipeline.domain.case import Reason
from pipeline.domain.evidence import Analysis, NoveltySummary, Policy, UncertaintySummary
from pipeline.domain.study import InstanceHeader
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase
from pipeline.intake import seal_quiet_studies
from pipeline.protocol import SeriesRule, TriageProtocol, load_protocol
from pipeline.store import case_rows
from pipeline.store.case_rows import ClaimedCase
from pipeline.store.database import Database

KEY = b"k" * 32
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MR = "1.2.840.10008.5.1.4.1.1.4"


def tiny_protocol(**limits: float) -> TriageProtocol:
    """The shipped MR protocol for series of two slices and more; every ROUTINE case is audited or none."""
    shipped = load_protocol("brain-tumour-mr")
    changed = shipped.limits.model_copy(update={"audit_share": 1e-9, **limits})
    return shipped.model_copy(update={"series": SeriesRule(slices=(2, 64)), "limits": changed})


def header(study: str = "1.1", number: int = 1, **changes: Any) -> InstanceHeader:
    """One axial brain MR slice of a study, 5 mm from the next."""
    values: dict[str, Any] = {
        "sop_instance_uid": f"{study}.9.{number}",
        "sop_class_uid": MR,
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.9",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "modality": "MR",
        "body_part_examined": "BRAIN",
        "instance_number": number,
        "image_type": ("ORIGINAL", "PRIMARY"),
        "image_orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        "image_position": (0.0, 0.0, 5.0 * number),
        "patient_id": "P1",
        "patient_name": "DOE^JANE",
        "patient_age_years": 50.0,
    }
    return InstanceHeader(**{**values, **changes})


def slice_bytes(study: str = "1.1", number: int = 1, content: str = "", **changes: Any) -> bytes:
    """A slice as the pretended sandbox reads it; `content` tells apart bytes of one header."""
    return json.dumps({"header": header(study, number, **changes).__dict__, "content": content}).encode()


def refused_bytes(reason: str, *, is_image: bool = True, study: str | None = "1.1", **changes: Any) -> bytes:
    """Bytes that the pretended sandbox refuses."""
    known = None if study is None else header(study, **{"sop_instance_uid": "", "number": 77, **changes}).__dict__
    return json.dumps({"refuse": reason, "is_image": is_image, "header": known}).encode()


def write_study(folder: Path, study: str = "1.1", slices: Sequence[int] = (1, 2, 3), **changes: Any) -> list[Path]:
    """The slices of a study as files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{study}-{number}.dcm" for number in slices]
    for path, number in zip(paths, slices, strict=True):
        path.write_bytes(slice_bytes(study, number, **changes))
    return paths


class PretendedSandbox:
    """Reads what `slice_bytes` and `refused_bytes` write."""

    def inspect(self, path: Path) -> InstanceHeader:
        try:
            content = json.loads(path.read_bytes())
            known = None if content["header"] is None else pretended_header(content["header"])
        except (ValueError, KeyError):
            raise RefusedInstance("not_dicom", "these bytes are no instance") from None
        if "refuse" in content:
            raise RefusedInstance(content["refuse"], "refused", header=known, is_image=content["is_image"])
        assert known is not None
        return known

    def read_series(self, paths: Sequence[Path], digests: Sequence[str]) -> Volume:
        for path, digest in zip(paths, digests, strict=True):
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise DeferCase(Reason.UNREADABLE, "the stored bytes are others")
        voxels = np.zeros((len(digests), 4, 4), dtype=np.float32)
        return Volume(voxels, np.diag([5.0, 1.0, 1.0, 1.0]), sources=tuple(digests))


def pretended_header(content: dict[str, Any]) -> InstanceHeader:
    """The header in an instance's JSON."""
    return InstanceHeader(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})


@dataclass
class PretendedRelease:
    """A release that always says the same: `score` is its probability of a finding."""

    protocol: TriageProtocol
    score: float = 0.05
    release_digest: str = "a" * 64
    fingerprint: dict[str, str] = field(default_factory=lambda: {"pretended": "1"})
    asked: list[str] = field(default_factory=list)

    @property
    def protocol_digest(self) -> str:
        return self.protocol.digest

    @property
    def policy(self) -> Policy:
        return Policy(
            release_digest=self.release_digest,
            protocol_digest=self.protocol_digest,
            members=2,
            passes=3,
            routine_below=0.1,
            priority_above=0.9,
            mutual_information_limit=0.5,
            novelty_level=0.02,
            certificate_expires=date(2027, 1, 1),
            sampling="fixed",
        )

    def analyse(self, case_key: str, volumes: Sequence[Volume]) -> Analysis:
        self.asked.append(case_key)
        uncertainty = UncertaintySummary(
            classes=("no_tumour", "tumour"),
            probabilities=(1.0 - self.score, self.score),
            route_score=self.score,
            predictive_entropy=0.2,
            expected_entropy=0.15,
            mi_dropout=0.03,
            mi_member=0.02,
            mutual_information=0.05,
            members=2,
            passes=3,
            budget=3,
            stop="budget",
            samples_digest=hashlib.sha256(case_key.encode()).hexdigest(),
        )
        novelty = NoveltySummary(p_values=(("histogram", 0.5),), combined=0.5)
        return Analysis(uncertainty=uncertainty, novelty=novelty, depths=tuple(v.voxels.shape[0] for v in volumes))


def seal_all(database: Database, protocol: TriageProtocol, now: datetime = NOON + 10 * MINUTE) -> list[str]:
    """Seal every open study and return the new cases."""
    return seal_quiet_studies(database, [protocol], quiet=MINUTE, now=now, force=True)


def claim(
    database: Database,
    protocol: TriageProtocol,
    *,
    owner: str = "worker",
    now: datetime = NOON + 11 * MINUTE,
    lease: timedelta = MINUTE,
    limit: int = 100,
) -> list[ClaimedCase]:
    """Claim what is ready."""
    with database.transaction() as connection:
        return case_rows.claim_cases(connection, protocol=protocol.name, owner=owner, limit=limit, lease=lease, now=now)
