"""Evidence: all that the decision about one case looks at, and the policy it is held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from pipeline.domain.case import Reason
from pipeline.domain.study import SealEvidence


@dataclass(frozen=True, kw_only=True)
class ScopeVerdict:
    """Whether the protocol applies: True, False (with out-of-scope reasons) or None (a tag asked for is missing)."""

    in_scope: bool | None
    reasons: tuple[Reason, ...] = ()
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class UncertaintySummary:
    """What the posterior samples of one case say; probabilities are calibrated, entropies are in nats.

    `route_score` is the calibrated probability of any finding: the number the certified thresholds are compared with.
    `mutual_information` is the finite-sample corrected I(y; weights), dropout part plus member part.
    `members` and `passes` count what was really sampled, `budget` how many passes of each member were allowed and `stop`
    (a `Stop`) why no more were made; without these two the guards let nothing through. `samples_digest` is the SHA-256 of the raw log probabilities.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    route_score: float
    predictive_entropy: float
    expected_entropy: float
    mi_dropout: float
    mi_member: float
    mutual_information: float
    members: int
    passes: int
    samples_digest: str
    member_scores: tuple[float, ...] = ()  #: calibrated probability of any finding, per member
    budget: int = 0
    stop: str = ""


@dataclass(frozen=True, kw_only=True)
class NoveltySummary:
    """Conformal p-values of each detector against held-out data, and their combination."""

    p_values: tuple[tuple[str, float], ...]
    combined: float
    fired: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a release says about one case."""

    uncertainty: UncertaintySummary
    novelty: NoveltySummary
    depths: tuple[int, ...]  #: slices of each part that went through the network's preprocessing


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that `decide` looks at; every field that could not be had is None and never a default.

    `manifest_slices` is what the sealed revision lists for the chosen series, `decoded_slices` what was decoded.
    `problems` are failures on the way, each with one sentence without patient data.
    """

    scope: ScopeVerdict | None
    seal: SealEvidence | None
    manifest_slices: int | None = None
    decoded_slices: int | None = None
    quality: tuple[Reason, ...] = ()
    problems: tuple[tuple[Reason, str], ...] = ()
    analysis: Analysis | None = None
    release_digest: str | None = None
    protocol_digest: str | None = None
    safe_state: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The routing half of a release: thresholds with their certificate, and the limits the guards hold.

    `routine_below` (route_score <= it may be ROUTINE) and `priority_above` (route_score >= it may be PRIORITY) are None
    where nothing was certified. `sampling` is off, fixed or adaptive; without it the guards let nothing through.
    """

    release_digest: str
    protocol_digest: str
    members: int
    passes: int
    routine_below: float | None
    priority_above: float | None
    mutual_information_limit: float
    novelty_level: float
    certificate_expires: date
    sampling: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The route of one case with its reasons and the truth of every guard, in the order they were asked."""

    route: str
    reasons: tuple[Reason, ...]
    guards: tuple[tuple[str, bool], ...] = field(default=())
    details: tuple[str, ...] = ()
