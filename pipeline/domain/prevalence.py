"""From missed findings to the finding's share of ROUTINE, for a prevalence that is declared and never learnt.

A certificate counts misses among studies with the finding, which no change of prevalence touches. What a reader of the
ROUTINE list asks is another rate: how many of these hold the finding. With the miss rate's upper bound u and the lower
bound v of the share of studies without the finding that go to ROUTINE, each at delta / 2, that is at most
pi u / (pi u + (1 - pi) v) for every prevalence up to pi. Certification sets are enriched with findings, so that the rate
counted in them directly would be that of another hospital.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import beta

from pipeline.domain.ladder import clopper_pearson_upper
from pipeline.domain.wording import percent
from pipeline.errors import HaltPipeline


@dataclass(frozen=True, kw_only=True)
class FalseOmission:
    """The derived bound: the largest share of ROUTINE studies with the finding, with the counts it comes from."""

    bound: float
    largest_prevalence: float
    delta: float
    misses: int
    positives: int
    kept: int  #: studies without the finding that go to ROUTINE
    negatives: int

    def sentence(self) -> str:
        """The bound in one plain sentence."""
        return (
            f"With {percent(1.0 - self.delta, up=False)} confidence at most {percent(self.bound)} of the studies in ROUTINE "
            f"hold the finding, as long as no more than {percent(self.largest_prevalence)} of all studies do: derived from "
            f"{self.misses} of {self.positives} studies with the finding and {self.kept} of {self.negatives} without it "
            "that went to ROUTINE in the certification test."
        )


def false_omission_bound(
    *, misses: int, positives: int, kept: int, negatives: int, largest_prevalence: float, delta: float
) -> FalseOmission:
    """The bound for every prevalence up to `largest_prevalence`, at confidence 1 - delta.

    1 where nothing shows that any study without the finding goes to ROUTINE. Raises HaltPipeline when counts or limits
    are impossible.
    """
    counts_fit = 0 <= misses <= positives and 0 <= kept <= negatives
    if not counts_fit or not 0.0 < largest_prevalence < 1.0 or not 0.0 < delta < 1.0:
        raise HaltPipeline("false-omission rate: counts or limits are impossible; declare a prevalence between 0 and 1")
    upper = clopper_pearson_upper(misses, positives, delta / 2.0) if positives else 1.0
    lower = float(beta.ppf(delta / 2.0, kept, negatives - kept + 1)) if kept else 0.0
    with_finding = largest_prevalence * upper
    without = (1.0 - largest_prevalence) * lower
    return FalseOmission(
        bound=with_finding / (with_finding + without),
        largest_prevalence=largest_prevalence,
        delta=delta,
        misses=misses,
        positives=positives,
        kept=kept,
        negatives=negatives,
    )


def refuse_enriched(share_in_split: float, largest_prevalence: float) -> None:
    """Raises HaltPipeline where the finding is more frequent in the certify split than declared for the hospital."""
    if share_in_split > largest_prevalence:
        raise HaltPipeline(
            f"the certify split holds the finding in {percent(share_in_split)} of its studies and the declared prevalence is "
            f"{percent(largest_prevalence)}: its false-omission rate cannot be counted directly; derive it from the miss rate"
        )
