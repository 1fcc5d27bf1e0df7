"""The reveal: a stored decision as words, numbers and the coordinates of two small drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.domain.neighbours import Neighbours
from pipeline.protocol import TriageProtocol
from pipeline.review import CaseView
from pipeline.store.map_rows import has_maps
from pipeline.store.reading_rows import ModelAnswer
from pipeline.web import words
from pipeline.web.room import Room

BAR_WIDTH = 320.0  #: user units of the drawings


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stretch of the uncertainty bar, nats and user units."""

    name: str
    words: str
    why: str
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
    doubt: str = ""  #: how sure it is and why not surer, in one sentence
    leaning: int | None = None  #: members whose score for any finding is a half or more
    neighbours: Neighbours | None = None  #: in the certification set
    maps: bool = False  #: whether there are maps to show


def answer_to_show(room: Room, view: CaseView) -> AnswerView | None:
    """The reveal of a case with what its release has at hand, or None where nothing may be shown."""
    digest = None if view.answer is None else view.answer.release_digest
    if digest is None:
        return answer_view(view, ())
    answer = answer_view(view, room.certificates(digest))
    if answer is None or answer.score is None or view.read is None:
        return answer
    return replace(
        answer,
        neighbours=room.neighbours(digest, answer.score),
        maps=has_maps(room.database, view.case.case_id, reader_id=view.read.reader_id),
    )


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
    ceiling = math.log(max(2, len(likelihoods)))
    parts = _parts(numbers, ceiling)
    return AnswerView(
        route=answer.route,
        reasons=answer.reasons,
        spoke=bool(likelihoods),
        agrees=_agrees(likelihoods, view.read.finding),
        probabilities=tuple((name, p, BAR_WIDTH * p) for name, p in likelihoods),
        score=_number(numbers.get("route_score")),
        parts=parts,
        ceiling=ceiling,
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
        doubt=_doubt(parts, ceiling),
        leaning=sum(score >= 0.5 for score in scores) if scores else None,
    )


def _doubt(parts: Sequence[Part], ceiling: float) -> str:
    """How much of the largest possible doubt there is, and what most of it comes from."""
    total = sum(part.nats for part in parts)
    if not parts or not total:
        return "No doubt that could be measured." if parts else ""
    share = total / ceiling
    much = "Little doubt" if share < 1 / 3 else "Some doubt" if share < 2 / 3 else "Much doubt"
    most = max(parts, key=lambda part: part.nats)
    return f"{much}, {'most' if most.share >= 0.5 else 'more than elsewhere'} of it from {most.words}."


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


def _parts(numbers: Mapping[str, Any], ceiling: float) -> tuple[Part, ...]:
    """Expected entropy, dropout part and member part side by side, along an axis that ends at the largest doubt."""
    asked = (
        ("expected_entropy", "noise in the images", "no further look would settle it"),
        ("mi_dropout", "one network between its own looks", "looking again, it changes its mind"),
        ("mi_member", "networks among each other", "they were taught alike and differ"),
    )
    found = [(name, said, why, max(0.0, _number(numbers.get(name)) or 0.0)) for name, said, why in asked if numbers]
    total = sum(nats for *_, nats in found)
    parts: list[Part] = []
    x = 0.0
    for name, said, why, nats in found:
        width = BAR_WIDTH * nats / max(ceiling, total)
        share = nats / total if total else 0.0
        parts.append(Part(name=name, words=said, why=why, nats=nats, share=share, x=x, width=width))
        x += width
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
