"""From trained members to a release: temperature, novelty reference, limits and certificates.

Each split has one use, and certify none but the certificate. What is certified is what triage deploys: the same seeds,
pooling, temperature and gates, with a case that a gate stops counted as never cleared. The temperature is fitted on the
parts of the tune split (for 2-D networks its slices), which are many more than its patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from models.backend_choice import Search
from models.looks import Judge, Judgement, Look, look, pooled_parts
from models.networks import build_network
from models.novelty_features import case_features
from models.preparation import (
    OnProgress,
    PreparedCase,
    PreparedImage,
    data_digest,
    group_cases,
    one_case_each,
    silent,
    training_tensors,
)
from models.release import Release, ReleaseBody, weights_bytes, write_release
from models.sampling import Ensemble
from models.stopping_fit import expected_threshold, stopping_rule
from models.train import TrainedMember
from pipeline.domain.calibration import (
    apply_shared,
    apply_temperature,
    finding_probability,
    fit_shared_temperature,
    fit_temperature,
    nll,
)
from pipeline.domain.certificate import Certificate, Side, certify, gated_scores
from pipeline.domain.neighbours import ScoredCases
from pipeline.domain.novelty import NoveltyReference
from pipeline.domain.selective import auroc
from pipeline.domain.stopping import StoppingRule
from pipeline.errors import DeferCase, HaltPipeline
from pipeline.protocol import Calibration, Limits, Sampling, TriageProtocol

FITTED_SPLITS = ("train", "tune", "certify")


@dataclass(frozen=True, kw_only=True)
class JudgedCases:
    """Cases of one split and what routes each."""

    cases: tuple[PreparedCase, ...]
    judgements: tuple[Judgement, ...]

    @property
    def patients(self) -> list[str]:
        """The patient of every case."""
        return [case.patient for case in self.cases]

    def positive(self, protocol: TriageProtocol) -> NDArray[np.bool_]:
        """Whether each case (N,) shows the finding."""
        return np.isin([case.target for case in self.cases], protocol.finding_indices)

    def scored(self, protocol: TriageProtocol) -> ScoredCases:
        """Their scores and truths, without who they are."""
        return ScoredCases.of([one.route_score for one in self.judgements], self.positive(protocol))

    def gated(self, side: Side, mutual_information_limit: float, novelty_level: float) -> NDArray[np.float64]:
        """Route scores (N,) with every case that a gate stops at the far end of `side`."""
        return gated_scores(
            [one.route_score for one in self.judgements],
            [one.mutual_information for one in self.judgements],
            [one.novelty_p for one in self.judgements],
            mutual_information_limit=mutual_information_limit,
            novelty_level=novelty_level,
            side=side,
        )


def fit_release(
    protocol: TriageProtocol,
    members: Sequence[TrainedMember],
    images: Mapping[str, Sequence[PreparedImage]],
    *,
    folder: Path,
    created_at: datetime,
    device: str | None = None,
    search: Search | None = None,
    on_progress: OnProgress = silent,
) -> Release:
    """Calibrate, certify and write the release of `members` to `folder`; `images` has train, tune and certify.

    `created_at` is an aware UTC moment. Raises HaltPipeline when a split is missing or a member's output is not finite.
    """
    _refuse_missing(images)
    _refuse_ignored(protocol)
    asked = protocol.network
    networks = [_network(protocol, member) for member in members]
    ensemble = Ensemble(networks, asked.passes, device, asked.sampling, search)
    tune = group_cases(images["tune"], protocol)
    looks = _looks(ensemble, tune, on_progress)
    labels = _labels(tune)
    judge = Judge(
        protocol=protocol,
        temperature=_temperature(protocol, looks, labels),
        novelty=_fit_novelty(ensemble, images["train"], looks),
    )
    limit = _limit(protocol, _judged(judge, tune, looks))
    if protocol.network.sampling is Sampling.ADAPTIVE:
        judge = replace(judge, stopping=_stopping(judge, tune, looks, limit))
    tuned = _judged(judge, tune, [judge.shortened(one) for one in looks])
    body = ReleaseBody(
        protocol=protocol,
        members=tuple(weights_bytes(member.weights) for member in members),
        novelty=judge.novelty,
        temperature=judge.temperature,
        mutual_information_limit=limit,
        data={split: data_digest(images[split]) for split in FITTED_SPLITS},
        stopping=judge.stopping,
    )
    certifying = one_case_each(group_cases(images["certify"], protocol))
    certified = judge_cases(judge, ensemble, certifying, stage="certify", on_progress=on_progress)
    certificates: dict[str, Certificate] = {
        side: _certify(body, tuned, certified, side, created_at) for side in get_args(Side)
    }
    return write_release(
        folder,
        body,
        certificates,
        created_at=created_at,
        metrics=_metrics(_calibrated(judge, looks), labels, protocol),
        routine_without_finding=_kept_without_finding(body, certified, certificates["routine"]),
        certification=certified.scored(protocol),
    )


def judge_cases(
    judge: Judge,
    ensemble: Ensemble,
    cases: Sequence[PreparedCase],
    *,
    stage: str,
    on_progress: OnProgress = silent,
) -> JudgedCases:
    """What routes each of `cases`, undefined where triage would defer it."""
    judgements = []
    for number, case in enumerate(cases, start=1):
        judgements.append(judge.judge_or_none(ensemble, case.parts, case.key, case.series))
        on_progress(stage, number, len(cases))
    return JudgedCases(cases=tuple(cases), judgements=tuple(judgements))


def _refuse_missing(images: Mapping[str, Sequence[PreparedImage]]) -> None:
    for split in FITTED_SPLITS:
        if not images.get(split):
            raise HaltPipeline(f"split {split} has no image; give some patients the split {split} in the labels file")


def _network(protocol: TriageProtocol, member: TrainedMember) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        network = build_network(protocol)
    network.load_state_dict(member.weights)
    return network


def _looks(ensemble: Ensemble, cases: Sequence[PreparedCase], on_progress: OnProgress) -> list[Look]:
    looks = []
    for number, case in enumerate(cases, start=1):
        try:
            looks.append(look(ensemble, case.parts, case.key, series=case.series))
        except DeferCase as problem:
            raise HaltPipeline("a member's output is not finite on the tune split; train it again") from problem
        on_progress("calibrate", number, len(cases))
    return looks


def _refuse_ignored(protocol: TriageProtocol) -> None:
    """A setting of the protocol that nothing here obeys must not seem to be obeyed."""
    if protocol.limits.strata is not None:
        raise HaltPipeline("limits.strata: a release has one certificate per side; remove it")


def _judged(judge: Judge, cases: Sequence[PreparedCase], looks: Sequence[Look]) -> JudgedCases:
    return JudgedCases(cases=tuple(cases), judgements=tuple(judge.judge(one) for one in looks))


def _temperature(protocol: TriageProtocol, looks: Sequence[Look], labels: NDArray[np.int_]) -> float:
    """Fitted on the parts of the tune split: on their pool, or inside every member and pass."""
    if protocol.calibration is Calibration.SHARED:
        return fit_shared_temperature(np.concatenate([one.samples.log_probabilities for one in looks], axis=2), labels)
    return fit_temperature(pooled_parts(looks), labels)


def _calibrated(judge: Judge, looks: Sequence[Look]) -> NDArray[np.float64]:
    """Calibrated log probabilities (N, C) of every part of the tune split."""
    if judge.protocol.calibration is Calibration.SHARED:
        return pooled_parts([replace(one, samples=apply_shared(one.samples, judge.temperature)) for one in looks])
    return apply_temperature(pooled_parts(looks), judge.temperature)


def _stopping(judge: Judge, tune: Sequence[PreparedCase], looks: Sequence[Look], limit: float) -> StoppingRule:
    judged, limits = _judged(judge, tune, looks), judge.protocol.limits
    truths = judged.positive(judge.protocol)
    expected: dict[Side, float | None] = {}
    for side in get_args(Side):
        alpha, delta = _limits(limits, side)
        sign = 1.0 if side == "routine" else -1.0
        at_risk = truths if side == "routine" else ~truths
        found = expected_threshold(sign * judged.gated(side, limit, limits.novelty_level), at_risk, alpha, delta)
        expected[side] = None if found is None else sign * found
    return stopping_rule(judge, looks, expected, information_limit=limit)


def _limits(limits: Limits, side: Side) -> tuple[float, float]:
    """Alpha and the share of delta of one side."""
    if side == "priority":
        return limits.alpha_priority, limits.delta * limits.priority_share_of_delta
    return limits.alpha, limits.delta * (1.0 - limits.priority_share_of_delta)


def _labels(cases: Sequence[PreparedCase]) -> NDArray[np.int_]:
    """The class of every part."""
    return np.repeat([case.target for case in cases], [len(case.parts) for case in cases])


def _fit_novelty(ensemble: Ensemble, train: Sequence[PreparedImage], looks: Sequence[Look]) -> NoveltyReference:
    parts, classes = training_tensors(train)
    held_out = {name: np.concatenate([one.features[name] for one in looks]) for name in looks[0].features}
    return NoveltyReference.fit(case_features(ensemble, parts), held_out, train_labels=classes.numpy())


def _limit(protocol: TriageProtocol, tuned: JudgedCases) -> float:
    values = [judgement.mutual_information for judgement in tuned.judgements]
    return max(0.0, float(np.quantile(values, protocol.limits.mutual_information_quantile, method="higher")))


def _certify(
    body: ReleaseBody, tuned: JudgedCases, certified: JudgedCases, side: Side, created_at: datetime
) -> Certificate:
    gates = (body.mutual_information_limit, body.protocol.limits.novelty_level)
    alpha, delta = _limits(body.protocol.limits, side)
    return certify(
        tuned.gated(side, *gates),
        tuned.positive(body.protocol),
        certified.gated(side, *gates),
        certified.positive(body.protocol),
        certified.patients,
        tune_patients=tuned.patients,
        alpha=alpha,
        delta=delta,
        side=side,
        made_on=created_at.date(),
        expires_on=created_at.date() + timedelta(days=body.protocol.limits.certificate_days),
        dependencies=body.dependencies,
        method=body.protocol.limits.method.value,
    )


def _kept_without_finding(body: ReleaseBody, certified: JudgedCases, certificate: Certificate) -> int:
    if certificate.threshold is None:
        return 0
    scores = certified.gated("routine", body.mutual_information_limit, body.protocol.limits.novelty_level)
    return int(((scores <= certificate.threshold) & ~certified.positive(body.protocol)).sum())


def _metrics(log_p: NDArray[np.float64], labels: NDArray[np.int_], protocol: TriageProtocol) -> dict[str, float]:
    findings = protocol.finding_indices
    metrics = {
        "tune_nll": nll(log_p, labels),
        "tune_accuracy": float((log_p.argmax(axis=1) == labels).mean()),
        "tune_auc": auroc(np.isin(labels, findings), finding_probability(log_p, findings)),
    }
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
