"""What a release, or one in the making, says of a case, with the very functions that triage calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.predictor import HISTOGRAM, summarise
from models.sampling import Ensemble, Features
from pipeline.domain.evidence import NoveltySummary, UncertaintySummary
from pipeline.domain.novelty import NoveltyReference, intensity_histogram
from pipeline.domain.uncertainty import PosteriorSamples, decompose
from pipeline.errors import DeferCase
from pipeline.protocol import TriageProtocol

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """The samples (M, T, P, C) of a case's parts and their novelty features per detector (P, F)."""

    samples: PosteriorSamples
    features: Features


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What routes a case: score, corrected mutual information (nats) and combined novelty p, NaN where undefined."""

    route_score: float
    mutual_information: float
    novelty_p: float
    answer: int | None  #: the most probable class


UNDEFINED = Judgement(route_score=np.nan, mutual_information=np.nan, novelty_p=np.nan, answer=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Everything of a release that turns a look into what routes the case."""

    protocol: TriageProtocol
    temperature: float
    novelty: NoveltyReference

    def summaries(self, found: Look) -> tuple[UncertaintySummary, NoveltySummary]:
        """The summaries of one case, as triage would have them; raises DeferCase."""
        summary = summarise(found.samples, self.temperature, self.protocol)
        return summary, self.novelty.p_values(found.features, level=self.protocol.limits.novelty_level)

    def judge(self, found: Look) -> Judgement:
        """What routes one case; raises DeferCase."""
        return judgement_of(*self.summaries(found))

    def judge_or_none(self, ensemble: Ensemble, parts: Tensor, key: str) -> Judgement:
        """What routes one case, undefined numbers (which every gate stops) where triage would defer it."""
        try:
            return self.judge(look(ensemble, parts, key))
        except DeferCase:
            return UNDEFINED


def judgement_of(summary: UncertaintySummary, unfamiliar: NoveltySummary) -> Judgement:
    """What of a case's summaries routes it."""
    return Judgement(
        route_score=summary.route_score,
        mutual_information=summary.mutual_information,
        novelty_p=unfamiliar.combined,
        answer=int(np.argmax(summary.probabilities)),
    )


def look(ensemble: Ensemble, parts: Tensor, key: str) -> Look:
    """Sample and describe one case; raises DeferCase when a number is not finite."""
    samples, features = ensemble.examine(parts, key)
    histograms = np.stack([intensity_histogram(part.numpy()) for part in parts])
    return Look(samples=samples, features={HISTOGRAM: histograms} | features)


def pooled_parts(looks: Iterable[Look]) -> Floats:
    """Log of the mean probability (N, C) of every part of every look, members and passes pooled."""
    joined = np.concatenate([one.samples.log_probabilities for one in looks], axis=2)
    return decompose(PosteriorSamples(joined)).log_mean
