"""Step 2: what a sealed revision shows, what a release says about it, and the route that follows, in one transaction.

Whatever goes wrong on the way is evidence too: it becomes a problem with a reason, and `decide` sends the case to a
clinician. Only what may pass by itself (RetryLater) leaves the case undecided, and that only a few times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.scope_gate import judge_scope
from pipeline.dicom.series_selection import SelectionOutcome, select_series
from pipeline.domain.audit_sampling import drawn_for_audit
from pipeline.domain.case import Reason, Route
from pipeline.domain.deferral import decide
from pipeline.domain.evidence import Analysis, Decision, Evidence, Policy, ScopeVerdict
from pipeline.domain.study import InstanceHeader, Verdict
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, HaltPipeline, RetryLater
from pipeline.protocol import TriageProtocol
from pipeline.store import audit_rows, case_rows, decision_rows, revision_rows, safe_state_rows, worklist_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.case_rows import ClaimedCase
from pipeline.store.database import Database, Transaction, canonical_json
from pipeline.store.decision_rows import DecisionRecord, StoredDecision
from pipeline.store.json_values import evidence_json, plain
from pipeline.store.refusals import ConstraintRefused
from pipeline.store.revision_rows import SealedRevision

ACTOR = "triage"
MOST_ATTEMPTS = 3
"""A case begun more often than this is decided without the model: it may be what kills its workers."""

_ITEM_PRIORITY = {Route.PRIORITY: 2, Route.REVIEW: 1}
_AUDIT_REASONS = (Reason.UNCERTAIN,)  # an audit read must look like any other to its reader


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


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """A stored decision beside its recomputation; `same_stack` says whether versions and device are those of then."""

    identical: bool
    same_stack: bool
    stored: Mapping[str, Any]
    recomputed: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What a case is worked on with."""

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

    `release_problem` says why there is no predictor; it may begin with a `Reason` and a colon. Raises RetryLater when
    something was busy or away (the claim stays the caller's, to try again or to release), LostClaim when the lease
    ended meanwhile.
    """
    with database.read() as connection:
        revision = revision_rows.sealed_revision(connection, claimed.revision_id)
        safe = safe_state_rows.is_safe(connection)
    bench = _Bench(
        blobs=blobs, sandbox=sandbox, predictor=predictor, protocol=protocol, release_problem=release_problem
    )
    evidence = _examine(bench, revision, safe=safe, attempts=claimed.attempts)
    record = _decided(bench, revision, claimed, evidence, now())
    return _write(database, claimed, protocol, record, audit_key)


def _examine(bench: _Bench, revision: SealedRevision, *, safe: bool, attempts: int) -> Evidence:
    """All that can be known of the case; a failure on the way is one of its problems. Raises RetryLater."""
    look = _Look(bench, revision, safe=safe)
    try:
        look.run(with_model=attempts <= MOST_ATTEMPTS)
    except RetryLater:
        if attempts < MOST_ATTEMPTS:
            raise
        look.note(Reason.NOT_ANALYSED, f"what the analysis needs was away at {attempts} attempts")
    except DeferCase as deferred:
        look.note(_reason(deferred.reason, Reason.NOT_ANALYSED), deferred.detail)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, a clinician reads the case
        look.note(Reason.NOT_ANALYSED, f"the analysis failed ({type(error).__name__})")
    return look.evidence


class _Look:
    """The evidence of one case as it grows; what was found before a failure stays."""

    def __init__(self, bench: _Bench, revision: SealedRevision, *, safe: bool) -> None:
        self._bench = bench
        self._revision = revision
        accepted = [m for m in revision.members if m.verdict is Verdict.ACCEPTED]
        self._images = [member.header for member in accepted if member.header is not None]
        self._digest_of = {m.sop_instance_uid: m.sha256 for m in accepted}
        self.evidence = Evidence(
            scope=None,
            seal=revision.evidence,
            protocol_digest=bench.protocol.digest,
            release_digest=None if bench.predictor is None else bench.predictor.release_digest,
            safe_state=safe,
        )

    def note(self, reason: Reason, detail: str) -> None:
        """Add a problem."""
        self.evidence = replace(self.evidence, problems=(*self.evidence.problems, (reason, detail)))

    def run(self, *, with_model: bool) -> None:
        """Scope, choice of series, volumes, analysis. Raises DeferCase, RetryLater and whatever a library raises."""
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
        volumes = self._volumes(series)
        analysis = predictor.analyse(self._revision.manifest_digest, volumes)
        self.evidence = replace(self.evidence, analysis=analysis)

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

    def _volumes(self, series: Sequence[Sequence[InstanceHeader]]) -> list[Volume]:
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
    bench: _Bench, revision: SealedRevision, claimed: ClaimedCase, evidence: Evidence, moment: datetime
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


def _write(
    database: Database, claimed: ClaimedCase, protocol: TriageProtocol, record: DecisionRecord, audit_key: bytes
) -> Decision:
    """Write the record; one that the database refuses becomes a REVIEW. Raises RetryLater, LostClaim."""
    drawn = drawn_for_audit(audit_key, claimed.case_id, protocol.limits.audit_share)
    record = replace(record, audit=drawn and record.decision.route == Route.ROUTINE)
    try:
        with database.transaction() as connection:
            _record(connection, claimed, protocol, record)
    except ConstraintRefused:
        if record.decision.route == Route.REVIEW:
            raise
        record = replace(record, decision=_refused(record.decision), audit=False)
        with database.transaction() as connection:
            _record(connection, claimed, protocol, record)
    return record.decision


def _refused(decision: Decision) -> Decision:
    detail = "the database did not accept the proof of this decision"
    return replace(decision, route=Route.REVIEW, reasons=(Reason.NOT_ANALYSED,), details=(detail,))


def _record(connection: Transaction, claimed: ClaimedCase, protocol: TriageProtocol, record: DecisionRecord) -> None:
    """The case, its decision with proof and outbox row, the worklist item and the audit event: all or nothing."""
    case_rows.finish(
        connection, case_id=claimed.case_id, owner=claimed.owner, fence=claimed.fence, now=record.decided_at
    )
    case_rows.register_protocol(
        connection,
        digest=protocol.digest,
        name=protocol.name,
        content=protocol.model_dump(mode="json"),
        now=record.decided_at,
    )
    decision_id = decision_rows.record_decision(connection, record)
    _schedule(connection, protocol, record)
    audit_rows.append(
        connection,
        at=record.decided_at,
        actor=ACTOR,
        event="case_decided",
        case_id=claimed.case_id,
        study_id=claimed.study_id,
        payload=_for_the_trail(decision_id, record),
    )


def _schedule(connection: Transaction, protocol: TriageProtocol, record: DecisionRecord) -> None:
    """The worklist item of a case that a person reads; an audited one looks like a REVIEW."""
    route = Route.REVIEW if record.audit else Route(record.decision.route)
    if route not in _ITEM_PRIORITY:
        return
    rule = protocol.routes[route]
    worklist_rows.schedule_item(
        connection,
        case_id=record.case_id,
        specialty=rule.specialty,
        priority=_ITEM_PRIORITY[route],
        reasons=_AUDIT_REASONS if record.audit else record.decision.reasons,
        due_at=record.decided_at + timedelta(minutes=rule.longest_wait_minutes),
        now=record.decided_at,
    )


def _for_the_trail(decision_id: str, record: DecisionRecord) -> dict[str, Any]:
    """What binds the decision's row to the audit trail: identifiers and digests."""
    evidence = canonical_json(evidence_json(record.evidence))
    return {
        "decision": decision_id,
        "route": str(record.decision.route),
        "reasons": plain(record.decision.reasons),
        "fence": record.fence,
        "release_digest": record.evidence.release_digest,
        "protocol_digest": record.protocol_digest,
        "manifest_digest": record.manifest_digest,
        "evidence_digest": hashlib.sha256(evidence.encode()).hexdigest(),
    }


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
    bench = _Bench(
        blobs=blobs,
        sandbox=sandbox,
        predictor=predictor,
        protocol=TriageProtocol.model_validate(dict(stored.protocol)),
        release_problem=_first_problem(stored),
    )
    evidence = _examine(bench, revision, safe=bool(stored.evidence["safe_state"]), attempts=1)
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
