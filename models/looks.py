"""What a release, or one in the making, says of a case, with the very functions that triage calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.novelty_features import look_features
from models.sampling import Ensemble, Features
from models.summary import one_case, summarise
from pipeline.domain.evidence import NoveltySummary, UncertaintySummary
from pipeline.domain.novelty import NoveltyReference
from pipeline.domain.stopping import Stop, StoppingRule
from pipeline.domain.stopping_path import information_path
from pipeline.domain.uncertainty import PosteriorSamples, decompose
from pipeline.errors import DeferCase
from pipeline.protocol import Sampling, TriageProtocol

if TYPE_CHECKING:
    from models.release import Release

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """The samples (M, T, P, C) of a case's parts and their novelty features per detector (P, F).

    `series` lists how many parts each series has; None for one series.
    """

    samples: PosteriorSamples
    features: Features
    series: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What routes a case: score, corrected mutual information (nats) and combined novelty p, NaN where undefined."""

    route_score: float
    mutual_information: float
    novelty_p: float
    answer: int | None  #: the most probable class
    passes: int = 0  #: made by each member


UNDEFINED = Judgement(route_score=np.nan, mutual_information=np.nan, novelty_p=np.nan, answer=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Everything of a release that turns a look into what routes the case."""

    protocol: TriageProtocol
    temperature: float
    novelty: NoveltyReference
    stopping: StoppingRule | None = None  #: where sampling is adaptive

    def summaries(self, found: Look) -> tuple[UncertaintySummary, NoveltySummary]:
        """The summaries of one case, as triage would have them; raises DeferCase."""
        summary = summarise(
            found.samples, self.temperature, self.protocol, stop=self._stop(found.samples), series=found.series
        )
        return summary, self.novelty.p_values(found.features, level=self.protocol.limits.novelty_level)

    def judge(self, found: Look) -> Judgement:
        """What routes one case; raises DeferCase."""
        return judgement_of(*self.summaries(found))

    def judge_or_none(
        self, ensemble: Ensemble, parts: Tensor, key: str, series: Sequence[int] | None = None
    ) -> Judgement:
        """What routes one case, undefined numbers (which every gate stops) where triage would defer it."""
        try:
            return self.judge(look(ensemble, parts, key, self, series=series))
        except DeferCase:
            return UNDEFINED

    def first_settled(self, samples: PosteriorSamples, series: Sequence[int] | None) -> int | None:
        """The fewest of the rounds `samples` (M, r, P, C) after which the case needs no further one, or None."""
        if self.stopping is None or not samples.finite.all():
            return None
        case = one_case(samples, self.protocol, self.temperature, series).log_probabilities[:, :, 0]
        finding = np.exp(case[:, :, list(self.protocol.finding_indices)]).sum(axis=-1)
        return self.stopping.first_settled(finding, information_path(case))

    def shortened(self, found: Look) -> Look:
        """`found`, sampled with the whole budget, as adaptive sampling would have left it."""
        rounds = self.first_settled(found.samples, found.series)
        if rounds is None or rounds >= found.samples.passes:
            return found
        seen = PosteriorSamples(found.samples.log_probabilities[:, :rounds])
        return Look(samples=seen, features=found.features, series=found.series)

    def _stop(self, samples: PosteriorSamples) -> Stop:
        if self.protocol.network.sampling is Sampling.OFF and samples.passes == 1:
            return Stop.OFF
        whole = self.stopping is None or samples.passes >= self.stopping.budget
        return Stop.BUDGET if whole else Stop.SETTLED


def judge_of(release: Release) -> Judge:
    """The judge that `release` deploys."""
    return Judge(
        protocol=release.protocol,
        temperature=release.temperature,
        novelty=release.novelty,
        stopping=release.stopping,
    )


def judgement_of(summary: UncertaintySummary, unfamiliar: NoveltySummary) -> Judgement:
    """What of a case's summaries routes it."""
    return Judgement(
        route_score=summary.route_score,
        mutual_information=summary.mutual_information,
        novelty_p=unfamiliar.combined,
        answer=int(np.argmax(summary.probabilities)),
        passes=summary.passes,
    )


def look(
    ensemble: Ensemble, parts: Tensor, key: str, judge: Judge | None = None, *, series: Sequence[int] | None = None
) -> Look:
    """Sample and describe one case, as long as `judge` is not settled about it; raises DeferCase when not finite."""
    adaptive = judge is not None and judge.stopping is not None
    samples, features = ensemble.examine(
        parts, key, (lambda seen: judge.first_settled(seen, series)) if judge is not None and adaptive else None
    )
    return Look(
        samples=samples,
        features=look_features(features, parts, samples),
        series=None if series is None else tuple(series),
    )


def pooled_parts(looks: Iterable[Look]) -> Floats:
    """Log of the mean probability (N, C) of every part of every look, members and passes pooled."""
    return np.concatenate([decompose(one.samples).log_mean for one in looks])
