"""Evaluation of a release on a split that nothing was fitted on: the report whose keys are a promise.

Numbers are per image, as the rows of the labels file are; `cases` and `certificate` are per case, as triage sees them.
Intervals resample patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from models import measures
from models.backend_choice import Search
from models.daily_reads import day
from models.fitting import JudgedCases, judge_cases
from models.judged_images import gallery, sampling, shown_images, uncertainty_by_kind
from models.looks import judge_of, judgement_of
from models.predictions import PredictedImage, Row, predict, prediction_rows
from models.preparation import OnProgress, PreparedImage, group_cases, silent
from models.recheck import recheck
from models.release import Release
from models.sampling import Ensemble
from models.subgroups import subgroups
from models.systems import Answers, PooledLooks, answers_of, pooled_looks, routed, simpler_systems
from pipeline.domain.brier import brier_decomposition
from pipeline.domain.calibration import reliability_bins
from pipeline.domain.calibration_table import calibration_table
from pipeline.domain.selective import auroc
from pipeline.errors import HaltPipeline
from pipeline.protocol import Sampling

_NOVELTY_LEVEL = 0.05  #: of `flagged_at_5pct`: combined p-values up to this are flagged


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The report (JSON-able), the prediction rows it was made from, and the images (H, W) that it shows, by name."""

    report: dict[str, Any]
    rows: list[Row]
    pictures: Mapping[str, Any] = field(default_factory=dict)


def evaluate(
    release: Release,
    images: Mapping[str, Sequence[PreparedImage]],
    *,
    split: str = "test",
    novel: Sequence[str] = ("ood",),
    seed: int = 0,
    draws: int = measures.DRAWS,
    device: str | None = None,
    ensemble: Ensemble | None = None,
    on_progress: OnProgress = silent,
    search: Search | None = None,
    studies_per_day: int | None = None,
    reads_per_day: int | None = None,
) -> Evaluation:
    """Judge `release` on `split` of `images`; `novel` splits without an image are left out.

    `studies_per_day` asks what the policy costs in reads, `reads_per_day` whether that many suffice.
    With a tune split among the images the baselines get a temperature of their own. Raises HaltPipeline when the split is
    empty or holds an image without a class.
    """
    judged = images.get(split, ())
    if not judged:
        raise HaltPipeline(f"split {split} has no image; name another with --split, or give some patients that split")
    if any(image.target is None for image in judged):
        raise HaltPipeline(f"split {split} has images of no class of the protocol; name it with --novel instead")
    networks = ensemble or Ensemble.load(release, device, search)
    predicted = predict(release, networks, judged, stage="judge", on_progress=on_progress)
    tuned = pooled_looks(networks, images["tune"]) if images.get("tune") else None
    answers = answers_of(predicted, release.temperature, release.protocol)
    systems = simpler_systems(_looks(networks, predicted), tuned, release.protocol)
    systems["route"] = _routed(release, answers, predicted)
    strangers = {
        name: predict(release, networks, images[name], stage=f"judge {name}", on_progress=on_progress)
        for name in novel
        if images.get(name)
    }
    cases = _judged_cases(release, networks, predicted, on_progress)
    report = _report(
        release,
        answers,
        systems,
        predicted,
        strangers=strangers,
        cases=cases,
        split=split,
        seed=seed,
        draws=draws,
    )
    report |= measures.defined(day(release, report["certificate"], studies_per_day, reads_per_day))
    rows = prediction_rows([*predicted, *(one for found in strangers.values() for one in found)])
    return Evaluation(report=report, rows=rows, pictures=shown_images(predicted, strangers))


def _report(
    release: Release,
    answers: Answers,
    systems: Mapping[str, Answers],
    predicted: Sequence[PredictedImage],
    *,
    strangers: Mapping[str, Sequence[PredictedImage]],
    cases: JudgedCases,
    split: str,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    patients = [one.image.row.patient for one in predicted]
    measured = measures.measure(answers, seed=seed)
    baselines = {name: measures.measure(system, seed=seed) for name, system in systems.items()}
    report = measured | {
        "release": release.digest,
        "protocol": release.protocol.name,
        "split": split,
        "patients": len(set(patients)),
        "intervals": measures.intervals(answers, patients, seed=seed, draws=draws),
        "less": {
            name: measures.differences(answers, one, patients, seed=seed, draws=draws) for name, one in systems.items()
        },
        "augrc_ratio_single": measures.augrc_ratio(answers, systems["single"], patients, seed=seed, draws=draws),
        "baselines": baselines | measures.without_order(measured),
        "referral": measures.referral(answers, patients, seed=seed),
        "referral_falls": measures.referral_falls(answers, patients, seed=seed),
        "certificate": measures.defined(recheck(release, cases)),
        "cases": _cases(cases),
        "novelty": {name: _novelty(predicted, found) for name, found in strangers.items()},
        "subgroups": measures.defined(subgroups(answers, [one.image for one in predicted], systems["single"])),
        "reliability": _reliability(answers),
        "calibration": [
            asdict(line)
            for line in calibration_table(answers.p, answers.labels, release.protocol.finding_indices, seed=seed)
        ],
        "brier_parts": asdict(brier_decomposition(np.clip(answers.score, 0.0, 1.0), answers.positive)),
        "uncertainty": uncertainty_by_kind(predicted, strangers),
        "gallery": measures.defined(gallery(predicted, strangers)),
        "sampling": sampling(predicted),
        "classes": list(release.protocol.class_names),
        "question": release.protocol.question,
        "risk_coverage": {name: measures.curve(one) for name, one in {"release": answers, **systems}.items()},
    }
    return report | {
        "less_single": report["less"]["single"],
        "blocked": [group for group in report["subgroups"] if group["verdict"] == "blocked"],
    }


def _routed(release: Release, answers: Answers, predicted: Sequence[PredictedImage]) -> Answers:
    policy = release.policy
    return routed(
        answers,
        predicted,
        information_limit=policy.mutual_information_limit,
        novelty_level=policy.novelty_level,
    )


def _judged_cases(
    release: Release, networks: Ensemble, predicted: Sequence[PredictedImage], on_progress: OnProgress
) -> JudgedCases:
    """What routes each case; for 3-D networks a case is an image, and has been looked at already."""
    cases = group_cases([one.image for one in predicted], release.protocol)
    if release.protocol.network.dimensions == 2:
        return judge_cases(judge_of(release), networks, cases, stage="route", on_progress=on_progress)
    return JudgedCases(cases=cases, judgements=tuple(judgement_of(one.uncertainty, one.novelty) for one in predicted))


def _looks(ensemble: Ensemble, predicted: Sequence[PredictedImage]) -> PooledLooks:
    """What the simpler systems start from; with the passes already made where those are the whole budget."""
    whole = ensemble.sampling is Sampling.FIXED
    made = [one.samples.log_probabilities[:1] for one in predicted] if whole else None
    return pooled_looks(ensemble, [one.image for one in predicted], dropout=made)


def _cases(cases: JudgedCases) -> dict[str, Any]:
    """How often a whole case is answered rightly; a case that could not be answered counts as wrong."""
    targets = np.array([case.target for case in cases.cases])
    right = np.array([one.answer == t for one, t in zip(cases.judgements, targets, strict=True)])
    recalls = [float(right[targets == c].mean()) for c in np.unique(targets)]
    return {"n": len(targets), "accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(recalls))}


def _novelty(familiar: Sequence[PredictedImage], strange: Sequence[PredictedImage]) -> dict[str, Any]:
    """How well novelty tells a split from the judged one, and what share of either its p-value flags at 5 %."""
    known = np.array([one.novelty.combined for one in familiar])
    foreign = np.array([one.novelty.combined for one in strange])
    truth = np.repeat([False, True], [len(known), len(foreign)])
    return {
        "n": len(foreign),
        "auroc": auroc(truth, -np.concatenate([known, foreign])),
        "flagged_at_5pct": float((foreign <= _NOVELTY_LEVEL).mean()),
        "familiar_flagged_at_5pct": float((known <= _NOVELTY_LEVEL).mean()),
    }


def _reliability(answers: Answers) -> list[dict[str, float]]:
    bins = reliability_bins(answers.confidence, answers.failures == 0.0)
    return [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in bins]
