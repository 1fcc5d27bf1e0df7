"""The reveal: a stored decision as words, numbers and the coordinates of two small drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.protocol import TriageProtocol
from pipeline.review import CaseView
from pipeline.store.reading_rows import ModelAnswer
from pipeline.web import words

BAR_WIDTH = 320.0  #: user units of the drawings


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stretch of the uncertainty bar, nats and user units."""

    name: str
    words: str
    nats: float
    share: float
    x: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One place on the score axis, user units."""

    x: float
    value: float
    words: str


@dataclass(frozen=True, kw_only=True)
class AnswerView:
    """What the page says of the model's answer; `spoke` is False when the release gave no numbers."""

    route: str
    reasons: tuple[str, ...]
    spoke: bool
    agrees: bool | None  #: whether the committed read names the model's likeliest class; None without an answer
    probabilities: tuple[tuple[str, float, float], ...]  #: class, probability, width in user units
    score: float | None
    parts: tuple[Part, ...]
    ceiling: float  #: largest possible entropy, nats
    members: tuple[Mark, ...]
    thresholds: tuple[Mark, ...]
    spread: float | None  #: difference between the highest and lowest member score
    novelty: float | None
    novelty_level: float | None
    fired: tuple[str, ...]
    passes: str
    certificates: tuple[str, ...]
    release: str
    audit: bool
    failed_guards: tuple[str, ...]


def answer_view(view: CaseView, certificates: Sequence[str]) -> AnswerView | None:
    """The reveal of a case, or None where nothing may be shown."""
    answer = view.answer
    if answer is None or view.read is None:
        return None
    analysis = answer.evidence.get("analysis") or {}
    numbers: Mapping[str, Any] = analysis.get("uncertainty") or {}
    novelty: Mapping[str, Any] = analysis.get("novelty") or {}
    policy: Mapping[str, Any] = answer.policy or {}
    likelihoods = _probabilities(numbers)
    scores = [float(value) for value in numbers.get("member_scores") or ()]
    return AnswerView(
        route=answer.route,
        reasons=answer.reasons,
        spoke=bool(likelihoods),
        agrees=_agrees(likelihoods, view.read.finding),
        probabilities=tuple((name, p, BAR_WIDTH * p) for name, p in likelihoods),
        score=_number(numbers.get("route_score")),
        parts=_parts(numbers),
        ceiling=math.log(max(2, len(likelihoods))),
        members=tuple(Mark(x=BAR_WIDTH * s, value=s, words=f"member {i + 1}") for i, s in enumerate(scores)),
        thresholds=_thresholds(policy),
        spread=max(scores) - min(scores) if scores else None,
        novelty=_number(novelty.get("combined")),
        novelty_level=_number(policy.get("novelty_level")),
        fired=tuple(str(name) for name in novelty.get("fired") or ()),
        passes=_looks(numbers),
        certificates=tuple(certificates) or certified_limits(answer, view.protocol),
        release=answer.release_digest or "",
        audit=answer.audit,
        failed_guards=tuple(str(name) for name, holds in _pairs(answer.guards) if not holds),
    )


def _looks(numbers: Mapping[str, Any]) -> str:
    """How often the networks looked, and why not more often."""
    if not numbers:
        return ""
    made = f"{numbers['members']} members, {numbers['passes']} passes each"
    settled = numbers.get("stop") == "settled"
    return f"{made} of {numbers['budget']}, then the route was settled" if settled else made


def _number(value: object) -> float | None:
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None


def _pairs(guards: Any) -> list[tuple[str, bool]]:
    pairs = guards.items() if isinstance(guards, Mapping) else guards or ()
    return [(str(name), bool(holds)) for name, holds in pairs]


def _probabilities(numbers: Mapping[str, Any]) -> list[tuple[str, float]]:
    names, values = numbers.get("classes") or (), numbers.get("probabilities") or ()
    shares = [_number(value) for value in values]
    if not shares or len(names) != len(shares):
        return []
    return [(str(name), share) for name, share in zip(names, shares, strict=True) if share is not None]


def _agrees(likelihoods: Sequence[tuple[str, float]], read_as: str) -> bool | None:
    return max(likelihoods, key=lambda pair: pair[1])[0] == read_as if likelihoods else None


def _parts(numbers: Mapping[str, Any]) -> tuple[Part, ...]:
    """Expected entropy, dropout part and member part side by side; together they are the predictive entropy."""
    asked = (
        ("expected_entropy", "in the images"),
        ("mi_dropout", "between looks"),
        ("mi_member", "between networks"),
    )
    found = [(name, said, max(0.0, _number(numbers.get(name)) or 0.0)) for name, said in asked if numbers]
    total = sum(nats for _, _, nats in found)
    parts: list[Part] = []
    x = 0.0
    for name, said, nats in found:
        share = nats / total if total else 0.0
        parts.append(Part(name=name, words=said, nats=nats, share=share, x=x, width=BAR_WIDTH * share))
        x += BAR_WIDTH * share
    return tuple(parts)


def _thresholds(policy: Mapping[str, Any]) -> tuple[Mark, ...]:
    asked = (("routine_below", "ordinary place at or below"), ("priority_above", "priority at or above"))
    found = [(said, _number(policy.get(name))) for name, said in asked]
    return tuple(Mark(x=BAR_WIDTH * value, value=value, words=said) for said, value in found if value is not None)


def certified_limits(answer: ModelAnswer, protocol: TriageProtocol) -> tuple[str, ...]:
    """What the protocol asked to be certified and whether it was, where the release's own sentence is not at hand."""
    policy = answer.policy
    if policy is None:
        return ()
    limits = protocol.limits
    priority, routine = limits.priority_share_of_delta, 1.0 - limits.priority_share_of_delta
    sides = (
        ("routine_below", limits.alpha, routine, "with the finding keep an ordinary place"),
        ("priority_above", limits.alpha_priority, priority, "without the finding go to the front"),
    )
    said = []
    for name, alpha, share, what in sides:
        sure = words.percent(1.0 - limits.delta * share)
        limit = f"that at most {words.percent(alpha)} of studies {what}"
        has = policy.get(name) is not None
        said.append(f"Certified with confidence {sure} {limit}." if has else f"It is not certified {limit}.")
    return (*said, f"The certificate is valid until {policy.get('certificate_expires')}.")
