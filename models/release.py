"""A release: weights, preprocessing, temperature, novelty reference, certificates and policy under one digest.

Why one digest: old temperature with new weights, or new thresholds with an old protocol, would route wrongly in silence.
A release therefore lives and moves as one folder; the digest is the SHA-256 of its manifest, which names the SHA-256 of
every other file. Certificates name what they were made for, and a release whose parts do not match them is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.numpy
from pydantic import ValidationError

from models import release_files
from models.release_files import CERTIFICATES, CERTIFICATION, FORMAT, NOVELTY, RELEASE, canonical, member_name, sha256
from pipeline.domain.certificate import Certificate
from pipeline.domain.evidence import Policy
from pipeline.domain.neighbours import ScoredCases
from pipeline.domain.novelty import NoveltyReference
from pipeline.domain.stopping import StoppingRule
from pipeline.errors import HaltPipeline
from pipeline.protocol import Sampling, TriageProtocol

if TYPE_CHECKING:
    from torch import Tensor

_LIBRARIES = ("secondread", "torch", "monai", "numpy", "scipy", "scikit-learn", "safetensors")


@dataclass(frozen=True, kw_only=True)
class ReleaseBody:
    """What a certificate vouches for: everything of a release but the certificates themselves.

    `members` are the weights as safetensors bytes; `mutual_information_limit` is in nats; `data` holds one SHA-256 per
    split over its images, labels and patients.
    """

    protocol: TriageProtocol
    members: tuple[bytes, ...]
    novelty: NoveltyReference
    temperature: float
    mutual_information_limit: float
    data: Mapping[str, str]
    stopping: StoppingRule | None = None  #: where sampling is adaptive

    @property
    def novelty_bytes(self) -> bytes:
        """The novelty reference as safetensors bytes."""
        return _arrays_bytes(self.novelty.to_arrays())

    @property
    def dependencies(self) -> dict[str, str]:
        """SHA-256 of each thing that a certificate depends on; a certificate is void when one of them differs."""
        return {
            "protocol": self.protocol.digest,
            "preprocessing": _digest(self.protocol.preprocessing.model_dump(mode="json")),
            "members": _digest([sha256(data) for data in self.members]),
            "temperature": _digest(self.temperature),
            "novelty": sha256(self.novelty_bytes),
            "mutual_information_limit": _digest(self.mutual_information_limit),
            "stopping": _digest(_stopping_content(self.stopping)),
            "tune": self.data.get("tune", ""),
            "certify": self.data.get("certify", ""),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """A verified release in `folder`; `meta` is its release.json, `members` the paths of the weights in order."""

    folder: Path
    digest: str
    protocol: TriageProtocol
    temperature: float
    policy: Policy
    certificates: dict[str, Certificate]
    novelty: NoveltyReference
    stopping: StoppingRule | None
    members: tuple[Path, ...]
    member_digests: tuple[str, ...]
    meta: dict[str, Any]
    certification: ScoredCases | None  #: what the certificates counted; None in an older release

    @classmethod
    def load(cls, folder: Path, expected_digest: str | None = None) -> Release:
        """The release in `folder`, after verifying every byte of it.

        Raises HaltPipeline when the digest is not `expected_digest`, a file is missing, foreign or changed, or the parts
        do not belong together.
        """
        digest, files = release_files.verify(folder, expected_digest)
        meta = release_files.parse_json(folder, RELEASE, files[RELEASE])
        body = _read_body(folder, meta, files)
        certificates = {side: _read_certificate(folder, name, files[name]) for side, name in CERTIFICATES.items()}
        _refuse_disagreement(folder, meta, body, certificates)
        scored = read_scored_cases(folder, files.get(CERTIFICATION))
        _refuse_more_cases(folder, scored, certificates)
        paths = tuple(folder / member_name(i) for i in range(len(body.members)))
        return cls(
            folder=folder,
            digest=digest,
            protocol=body.protocol,
            temperature=body.temperature,
            policy=_policy(body, certificates, digest),
            certificates=certificates,
            novelty=body.novelty,
            stopping=body.stopping,
            members=paths,
            member_digests=tuple(sha256(data) for data in body.members),
            meta=meta,
            certification=scored,
        )

    def weights(self, member: int) -> dict[str, Tensor]:
        """The weights of `member`, verified again as they are read; raises HaltPipeline when they changed since."""
        data = self.members[member].read_bytes()
        if sha256(data) != self.member_digests[member]:
            raise HaltPipeline(
                f"release {self.folder.name}: {member_name(member)} was changed after it was written; "
                "download the release again"
            )
        from safetensors.torch import load  # noqa: PLC0415 - listing releases needs no torch

        return load(data)


def weights_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Weights as safetensors bytes, on the CPU and contiguous; equal weights give equal bytes."""
    from safetensors.torch import save  # noqa: PLC0415 - listing releases needs no torch

    return save({name: weights[name].detach().cpu().contiguous() for name in sorted(weights)})


def write_release(
    folder: Path,
    body: ReleaseBody,
    certificates: Mapping[str, Certificate],
    *,
    created_at: datetime,
    metrics: Mapping[str, float] | None = None,
    routine_without_finding: int | None = None,
    certification: ScoredCases | None = None,
) -> Release:
    """Write a release to `folder`, whole or not at all, and load it back verified.

    `routine_without_finding` counts the certify cases without the finding that the certificate's threshold leaves in
    ROUTINE; `certification` are the cases the certificates counted. Raises HaltPipeline when the folder exists or the parts do not belong together.
    """
    if folder.exists():
        raise HaltPipeline(f"{folder.name}: exists already; give a folder that does not")
    draft = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        told = {"metrics": dict(metrics or {}), "routine_without_finding": routine_without_finding}
        _write_files(draft, body, certificates, created_at=created_at, told=told)
        if certification is not None:
            (draft / CERTIFICATION).write_bytes(_arrays_bytes(certification.to_arrays()))
        release_files.write_manifest(draft)
        Release.load(draft)
        os.replace(draft, folder)  # noqa: PTH105 - the one atomic step
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Release.load(folder)


def read_scored_cases(folder: Path, data: bytes | None) -> ScoredCases | None:
    """The cases in the verified bytes of a release's CERTIFICATION, None where it has none; raises HaltPipeline."""
    if data is None:
        return None
    try:
        return ScoredCases.from_arrays(release_files.parse_arrays(folder, CERTIFICATION, data))
    except ValueError as error:
        raise _mismatch(folder, f"{CERTIFICATION} cannot be read ({error})") from error


def _refuse_more_cases(folder: Path, scored: ScoredCases | None, certificates: Mapping[str, Certificate]) -> None:
    """Cases that no certificate counted are not the certification's."""
    if scored is None:
        return
    routine = certificates["routine"]
    if len(scored.scores) > routine.patients or int(scored.truths.sum()) > routine.positives:
        raise _mismatch(folder, f"{CERTIFICATION} holds more cases than its certificates counted")


def _write_files(
    folder: Path,
    body: ReleaseBody,
    certificates: Mapping[str, Certificate],
    *,
    created_at: datetime,
    told: Mapping[str, Any],
) -> None:
    (folder / "members").mkdir(parents=True)
    for index, data in enumerate(body.members):
        (folder / member_name(index)).write_bytes(data)
    (folder / NOVELTY).write_bytes(body.novelty_bytes)
    for side, name in CERTIFICATES.items():
        (folder / name).write_bytes(_pretty(certificates[side].to_dict()))
    (folder / RELEASE).write_bytes(_pretty(_meta(body, certificates, created_at, told)))


def _meta(
    body: ReleaseBody, certificates: Mapping[str, Certificate], created_at: datetime, told: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "created_at": created_at.isoformat(),
        "protocol": body.protocol.model_dump(mode="json"),
        "protocol_digest": body.protocol.digest,
        "classes": list(body.protocol.class_names),
        "temperature": body.temperature,
        "mutual_information_limit": body.mutual_information_limit,
        "stopping": _stopping_content(body.stopping),
        "policy": _policy_content(_policy(body, certificates, "")),
        "data": dict(body.data),
        "dependencies": body.dependencies,
        "libraries": {name: version(name) for name in _LIBRARIES},
    } | dict(told)


def _policy(body: ReleaseBody, certificates: Mapping[str, Certificate], digest: str) -> Policy:
    routine, priority = certificates["routine"], certificates["priority"]
    network, limits = body.protocol.network, body.protocol.limits
    return Policy(
        release_digest=digest,
        protocol_digest=body.protocol.digest,
        members=network.members,
        passes=network.passes,
        routine_below=routine.threshold if routine.certified else None,
        priority_above=priority.threshold if priority.certified else None,
        mutual_information_limit=body.mutual_information_limit,
        novelty_level=limits.novelty_level,
        certificate_expires=min(routine.expires_on, priority.expires_on),
        sampling=network.sampling.value,
    )


def _stopping_content(rule: StoppingRule | None) -> dict[str, Any] | None:
    return None if rule is None else rule.to_dict()


def _policy_content(policy: Policy) -> dict[str, Any]:
    content = asdict(policy)
    del content["release_digest"]  # the digest covers this text
    return content | {"certificate_expires": policy.certificate_expires.isoformat()}


def _read_body(folder: Path, meta: Mapping[str, Any], files: Mapping[str, bytes]) -> ReleaseBody:
    names = sorted(name for name in files if name.startswith("members/"))
    for name in names:
        release_files.refuse_foreign_weights(folder, name, files[name])
    try:
        return ReleaseBody(
            protocol=TriageProtocol.model_validate(meta["protocol"]),
            members=tuple(files[name] for name in names),
            novelty=NoveltyReference.from_arrays(release_files.parse_arrays(folder, NOVELTY, files[NOVELTY])),
            temperature=float(meta["temperature"]),
            mutual_information_limit=float(meta["mutual_information_limit"]),
            data=dict(meta["data"]),
            stopping=None if meta["stopping"] is None else StoppingRule.from_dict(meta["stopping"]),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise _mismatch(folder, f"{RELEASE} cannot be read ({type(error).__name__})") from error


def _read_certificate(folder: Path, name: str, data: bytes) -> Certificate:
    content = release_files.parse_json(folder, name, data)
    try:
        return Certificate.from_dict(content)
    except (KeyError, TypeError, ValueError) as error:
        raise _mismatch(folder, f"{name} cannot be read ({type(error).__name__})") from error


def _refuse_disagreement(
    folder: Path, meta: Mapping[str, Any], body: ReleaseBody, certificates: Mapping[str, Certificate]
) -> None:
    wanted = body.protocol.network.members
    if len(body.members) != wanted:
        raise _mismatch(folder, f"it has {len(body.members)} members and its protocol asks for {wanted}")
    if len({sha256(data) for data in body.members}) != wanted:
        raise _mismatch(folder, "two members have the same weights")
    if (body.stopping is not None) != (body.protocol.network.sampling is Sampling.ADAPTIVE):
        raise _mismatch(folder, "its stopping rule is not what its protocol asks for")
    if body.stopping is not None and body.stopping.budget != body.protocol.network.passes:
        raise _mismatch(folder, "its stopping rule has another number of passes than its protocol")
    if meta.get("protocol_digest") != body.protocol.digest:
        raise _mismatch(folder, "its protocol does not have the digest it names")
    for side, certificate in certificates.items():
        if certificate.side != side:
            raise _mismatch(folder, f"the certificate of the {side} side is for the {certificate.side} side")
        changed = [key for key, value in body.dependencies.items() if certificate.dependencies.get(key) != value]
        if changed:
            raise _mismatch(folder, f"the {side} certificate was not made for its {changed[0].replace('_', ' ')}")
    if meta.get("policy") != _policy_content(_policy(body, certificates, "")):
        raise _mismatch(folder, "its policy is not the one its certificates grant")


def _mismatch(folder: Path, what: str) -> HaltPipeline:
    return HaltPipeline(f"release {folder.name}: {what}; download the release again, or train it anew")


def _arrays_bytes(arrays: Mapping[str, Any]) -> bytes:
    return safetensors.numpy.save({name: arrays[name] for name in sorted(arrays)})


def _pretty(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False).encode()


def _digest(content: Any) -> str:
    return sha256(canonical(content))
