"""Step 2: what a sealed revision shows, what a release says about it, and the route that follows, in one transaction.

Whatever goes wrong on the way is evidence too: it becomes a problem with a reason, and `decide` sends the case to a
clinician. Only what may pass by itself (RetryLater) leaves the case undecided, and that only a few times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.scope_gate import judge_scope
from pipeline.dicom.series_selection import SelectionOutcome, select_series
from pipeline.domain.case import Reason
from pipeline.domain.deferral import decide
from pipeline.domain.drawn_map import DrawnMap
from pipeline.domain.evidence import Analysis, Decision, Evidence, Policy, ScopeVerdict
from pipeline.domain.study import InstanceHeader, Verdict
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, HaltPipeline, RetryLater
from pipeline.protocol import TriageProtocol
from pipeline.store import decision_rows, revision_rows, safe_state_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.case_rows import ClaimedCase
from pipeline.store.database import Database, canonical_json
from pipeline.store.decided_cases import ReadyRecord, write_decision
from pipeline.store.decision_rows import DecisionRecord, StoredDecision
from pipeline.store.json_values import evidence_json, plain
from pipeline.store.revision_rows import SealedRevision

MOST_ATTEMPTS = 3
"""A case begun more often than this is decided without the model: it may be what kills its workers."""


class Predictor(Protocol):
    """A release that is loaded and may speak: what triage asks of the models."""

    @property
    def release_digest(self) -> str:
        """The digest of weights, preprocessing, temperature, novelty reference and certificate together."""

    @property
    def protocol_digest(self) -> str:
        """The digest of the protocol the release was made for."""

    @property
    def policy(self) -> Policy:
        """The certified thresholds and the limits of the guards."""

    @property
    def fingerprint(self) -> dict[str, str]:
        """Library versions and device: where these are equal a decision recomputes bit for bit."""

    def analyse(self, case_key: str, volumes: Sequence[Volume]) -> Analysis:
        """What the release says about the series of one case. Raises DeferCase when it may not speak."""

    def maps(self, case_key: str, volumes: Sequence[Volume], out_of_time: Callable[[], bool]) -> Sequence[DrawnMap]:
        """Where the answer about them is sensitive, for a reader who has seen it; may raise anything."""


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """A stored decision beside its recomputation; `same_stack` says whether versions and device are those of then."""

    identical: bool
    same_stack: bool
    stored: Mapping[str, Any]
    recomputed: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the cases of one protocol are worked on with.

    `release_problem` says why there is no predictor; it may begin with a `Reason` and a colon.
    """

    blobs: BlobStore
    sandbox: Sandbox
    predictor: Predictor | None
    protocol: TriageProtocol
    release_problem: str | None = None


def triage_case(  # noqa: PLR0917 - what it works with, what it works on; the rest is named
    database: Database,
    blobs: BlobStore,
    sandbox: Sandbox,
    predictor: Predictor | None,
    claimed: ClaimedCase,
    protocol: TriageProtocol,
    *,
    audit_key: bytes,
    now: Callable[[], datetime],
    release_problem: str | None = None,
) -> Decision:
    """Decide one claimed case and write the decision with all that follows from it, or nothing.

    Raises RetryLater when something was busy or away (the claim stays the caller's, to try again or to release),
    LostClaim when the lease ended meanwhile.
    """
    bench = Bench(blobs=blobs, sandbox=sandbox, predictor=predictor, protocol=protocol, release_problem=release_problem)
    record = PreparedCase(database, bench, claimed).decided(now)
    return write_decision(database, protocol, record, audit_key=audit_key)


class PreparedCase:
    """One claimed case up to its volumes, so that the next case can be read while the engine works on this one."""

    def __init__(self, database: Database, bench: Bench, claimed: ClaimedCase) -> None:
        """Read what is stored, choose the series and decode them; what fails is kept and told by `decided`.

        Raises RetryLater when the database is busy.
        """
        self._database, self._bench, self._claimed = database, bench, claimed
        with database.read() as connection:
            self._revision = revision_rows.sealed_revision(connection, claimed.revision_id)
        self._look = _Look(bench, self._revision)
        self._failure = _failure_of(lambda: self._look.prepare(with_model=claimed.attempts <= MOST_ATTEMPTS))

    def decided(self, now: Callable[[], datetime]) -> ReadyRecord:
        """Ask the release and decide. Raises RetryLater."""
        failure = _failure_of(self._look.analyse) if self._failure is None else self._failure
        with self._database.read() as connection:
            safe = safe_state_rows.is_safe(connection)
        evidence = replace(_told(self._look, failure, self._claimed.attempts), safe_state=safe)
        record = _decided(self._bench, self._revision, self._claimed, evidence, now())
        return ReadyRecord(claimed=self._claimed, record=record)


def _failure_of(work: Callable[[], None]) -> Exception | None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever went wrong, a clinician reads the case
        return error
    return None


def _told(look: _Look, failure: Exception | None, attempts: int) -> Evidence:
    """The evidence, with what failed on the way as one of its problems. Raises RetryLater."""
    match failure:
        case None:
            pass
        case RetryLater():
            if attempts < MOST_ATTEMPTS:
                raise failure
            look.note(Reason.NOT_ANALYSED, f"what the analysis needs was away at {attempts} attempts")
        case DeferCase():
            look.note(_reason(failure.reason, Reason.NOT_ANALYSED), failure.detail)
        case _:
            look.note(Reason.NOT_ANALYSED, f"the analysis failed ({type(failure).__name__})")
    return look.evidence


def volumes_of(bench: Bench, revision: SealedRevision) -> list[Volume]:
    """The volumes of a sealed revision as the release is shown them, decoded again. Raises what decoding raises."""
    look = _Look(bench, revision)
    look.prepare(with_model=True)
    return look.volumes


class _Look:
    """The evidence of one case as it grows; what was found before a failure stays."""

    def __init__(self, bench: Bench, revision: SealedRevision) -> None:
        self._bench = bench
        self._revision = revision
        self._volumes: list[Volume] | None = None  # None: there is nothing to ask the release about
        accepted = [m for m in revision.members if m.verdict is Verdict.ACCEPTED]
        self._images = [member.header for member in accepted if member.header is not None]
        self._digest_of = {m.sop_instance_uid: m.sha256 for m in accepted}
        self.evidence = Evidence(
            scope=None,
            seal=revision.evidence,
            protocol_digest=bench.protocol.digest,
            release_digest=None if bench.predictor is None else bench.predictor.release_digest,
        )

    @property
    def volumes(self) -> list[Volume]:
        """What the release is asked about; nothing before `prepare`, outside the scope and after `analyse`."""
        return self._volumes or []

    def note(self, reason: Reason, detail: str) -> None:
        """Add a problem."""
        self.evidence = replace(self.evidence, problems=(*self.evidence.problems, (reason, detail)))

    def prepare(self, *, with_model: bool) -> None:
        """Scope, choice of series, volumes. Raises DeferCase, RetryLater and whatever a library raises."""
        self.evidence = replace(self.evidence, scope=self._scope_of_all())
        if self.evidence.scope is not None and self.evidence.scope.in_scope is False:
            return
        series = self._chosen_series()
        predictor = self._bench.predictor
        if predictor is None:
            raise _no_release(self._bench.release_problem)
        if not with_model:
            raise DeferCase(Reason.NOT_ANALYSED, f"the analysis did not finish in {MOST_ATTEMPTS} attempts")
        if predictor.protocol_digest != self._bench.protocol.digest:
            raise DeferCase(Reason.RELEASE_INVALID, "the release was made for another text of this protocol")
        self._volumes = self._decoded(series)

    def analyse(self) -> None:
        """What the release says about the volumes. Raises DeferCase, RetryLater and whatever a library raises."""
        if self._volumes is None or self._bench.predictor is None:
            return
        analysis = self._bench.predictor.analyse(self._revision.manifest_digest, self._volumes)
        self.evidence = replace(self.evidence, analysis=analysis)
        self._volumes = None

    def _scope_of_all(self) -> ScopeVerdict | None:
        """The scope of everything that arrived: only that can turn a study away. Raises DeferCase(UNREADABLE)."""
        if self._images:
            return judge_scope(self._images, self._bench.protocol.scope)
        if any(member.is_image for member in self._revision.members):
            raise DeferCase(Reason.UNREADABLE, "no image of the study can be read")
        return ScopeVerdict(in_scope=False, reasons=(Reason.NOT_AN_IMAGE,), detail="the study holds no image")

    def _chosen_series(self) -> tuple[tuple[InstanceHeader, ...], ...]:
        """The series the protocol reads, whose own scope counts from here on. Raises DeferCase."""
        protocol = self._bench.protocol
        selection = select_series(self._images, protocol.series, modality=protocol.scope.modality)
        if selection.outcome is SelectionOutcome.NONE:
            raise DeferCase(Reason.NO_SERIES, selection.detail)
        if selection.outcome is not SelectionOutcome.SELECTED or not selection.series:
            raise DeferCase(Reason.AMBIGUOUS_SERIES, selection.detail)
        chosen = [header for series in selection.series for header in series]
        slices = sum(header.number_of_frames for header in chosen)
        self.evidence = replace(self.evidence, scope=judge_scope(chosen, protocol.scope), manifest_slices=slices)
        return selection.series

    def _decoded(self, series: Sequence[Sequence[InstanceHeader]]) -> list[Volume]:
        """Every series decoded from verified bytes, each with exactly the slices its headers list. Raises DeferCase."""
        volumes = []
        for headers in series:
            volume = self._volume(headers)
            volumes.append(volume)
            decoded = (self.evidence.decoded_slices or 0) + volume.voxels.shape[0]
            found = dict.fromkeys([*self.evidence.quality, *(_reason(q, Reason.LOW_QUALITY) for q in volume.quality)])
            self.evidence = replace(self.evidence, decoded_slices=decoded, quality=tuple(found))
        return volumes

    def _volume(self, headers: Sequence[InstanceHeader]) -> Volume:
        digests = [self._digest_of[header.sop_instance_uid] for header in headers]
        volume = self._bench.sandbox.read_series([self._bench.blobs.path(digest) for digest in digests], digests)
        slices = sum(header.number_of_frames for header in headers)
        if volume.voxels.shape[0] != slices or set(volume.sources) != set(digests):
            detail = f"{volume.voxels.shape[0]} slices were decoded where the series lists {slices}"
            raise DeferCase(Reason.INCOMPLETE, detail)
        return volume


def _reason(value: object, otherwise: Reason) -> Reason:
    try:
        return Reason(str(value))
    except ValueError:
        return otherwise


def _no_release(problem: str | None) -> DeferCase:
    """Why there is no release to ask; `problem` may begin with a reason and a colon."""
    if problem is None:
        return DeferCase(Reason.NOT_ANALYSED, "no release is the champion of this protocol")
    code, _, detail = problem.partition(":")
    try:
        return DeferCase(Reason(code.strip()), detail.strip() or "the release cannot be used")
    except ValueError:
        return DeferCase(Reason.NOT_ANALYSED, problem)


def _decided(
    bench: Bench, revision: SealedRevision, claimed: ClaimedCase, evidence: Evidence, moment: datetime
) -> DecisionRecord:
    policy = None if bench.predictor is None else bench.predictor.policy
    return DecisionRecord(
        case_id=claimed.case_id,
        decision=decide(evidence, policy, moment.date()),
        evidence=evidence,
        policy=policy,
        protocol_digest=bench.protocol.digest,
        manifest_digest=revision.manifest_digest,
        fingerprint={} if bench.predictor is None else bench.predictor.fingerprint,
        audit=False,
        fence=claimed.fence,
        decided_at=moment,
    )


def replay(
    database: Database, blobs: BlobStore, sandbox: Sandbox, predictor: Predictor | None, case_id: str
) -> ReplayResult:
    """Compute a stored decision again from its record and compare route, reasons, guards and evidence.

    The policy, the day and the safe state are those of then. Raises HaltPipeline when the case has no decision or
    `predictor` is not the release that spoke.
    """
    with database.read() as connection:
        stored = decision_rows.stored_decision(connection, case_id)
        if stored is None:
            raise HaltPipeline("there is no decision of that case; take a case's id from `secondread triage --json`")
        revision = revision_rows.sealed_revision(connection, stored.revision_id)
    if (None if predictor is None else predictor.release_digest) != stored.release_digest:
        raise HaltPipeline(f"this case was decided by release {stored.release_digest}; load that one to replay it")
    bench = Bench(
        blobs=blobs,
        sandbox=sandbox,
        predictor=predictor,
        protocol=TriageProtocol.model_validate(dict(stored.protocol)),
        release_problem=_first_problem(stored),
    )
    look = _Look(bench, revision)
    failure = _failure_of(lambda: look.prepare(with_model=True))
    if failure is None:
        failure = _failure_of(look.analyse)
    evidence = replace(_told(look, failure, attempts=1), safe_state=bool(stored.evidence["safe_state"]))
    decision = decide(evidence, stored.policy, stored.decided_at.date())
    return _compared(stored, decision, evidence, {} if predictor is None else predictor.fingerprint)


def _first_problem(stored: StoredDecision) -> str | None:
    """Why no release spoke then, where none did."""
    problems = stored.evidence["problems"]
    return f"{problems[0][0]}: {problems[0][1]}" if problems else None


def _compared(
    stored: StoredDecision, decision: Decision, evidence: Evidence, fingerprint: Mapping[str, str]
) -> ReplayResult:
    then = {
        "route": stored.route,
        "reasons": list(stored.reasons),
        "guards": [list(guard) for guard in stored.guards],
        "evidence": stored.evidence,
    }
    today = {
        "route": str(decision.route),
        "reasons": plain(decision.reasons),
        "guards": plain(decision.guards),
        "evidence": evidence_json(evidence),
    }
    return ReplayResult(
        identical=canonical_json(then) == canonical_json(today),
        same_stack=dict(stored.fingerprint) == dict(fingerprint),
        stored=then,
        recomputed=today,
    )
