"""A certificate for every group of studies: a site, a scanner, a sex, an age band.

A pooled certificate says nothing of a group in it. With G groups each is certified at delta / G, so that all promises
hold together with confidence 1 - delta (Bonferroni). A group with too few cases, and every study of a group that is not
listed, has no threshold: a clinician reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipeline.domain.certificate import Certificate, Method, Side, certify
from pipeline.errors import HaltPipeline

AGE_BANDS = ((18.0, "under 18"), (65.0, "18 to 64"), (float("inf"), "65 and older"))


@dataclass(frozen=True, kw_only=True)
class StratifiedCertificate:
    """One certificate per group, under the group's name, all made at their share of `delta`."""

    side: Side
    delta: float
    groups: Mapping[str, Certificate]

    def threshold_for(self, group: str | None) -> float | None:
        """The certified threshold of a study's group; None for an uncertified or unknown one."""
        found = self.groups.get(group) if group else None
        return found.threshold if found is not None and found.certified else None

    def sentences(self) -> dict[str, str]:
        """The sentence of every group."""
        return {name: found.sentence() for name, found in self.groups.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content; the inverse of `from_dict`."""
        return {
            "side": self.side,
            "delta": self.delta,
            "groups": {name: found.to_dict() for name, found in self.groups.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> StratifiedCertificate:
        """The certificates in `content`, each proof recomputed; raises HaltPipeline where counts do not support one."""
        try:
            groups = {str(name): Certificate.from_dict(one) for name, one in content["groups"].items()}
            found = cls(side=content["side"], delta=float(content["delta"]), groups=groups)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HaltPipeline("certificate by group: unreadable; train the release again") from error
        share = found.delta / max(len(groups), 1)
        if any(one.side != found.side or not one.delta <= share * (1 + 1e-12) for one in groups.values()):
            raise HaltPipeline("certificate by group: a group claims more than its share of delta; train it again")
        return found


def certify_strata(  # noqa: PLR0917 - the arguments of `certify`, with the groups of both splits
    tune_scores: ArrayLike,
    tune_positive: ArrayLike,
    tune_groups: Sequence[str | None],
    scores: ArrayLike,
    positive: ArrayLike,
    groups: Sequence[str | None],
    patients: Sequence[str],
    *,
    tune_patients: Sequence[str],
    alpha: float,
    delta: float,
    side: Side,
    made_on: date,
    expires_on: date,
    dependencies: Mapping[str, str],
    method: Method = "ladder",
) -> StratifiedCertificate:
    """Certify every group of the tune split on its own certify cases; cases without a group certify nothing.

    The groups are fixed by the tune split alone. Raises HaltPipeline as `certify` does, or when lengths differ.
    """
    if len(tune_groups) != len(tune_patients) or len(groups) != len(patients):
        raise HaltPipeline("certificate by group: groups and patients differ in number; give one group per case")
    names = sorted({name for name in tune_groups if name})

    def one(name: str) -> Certificate:
        here = [i for i, group in enumerate(tune_groups) if group == name]
        there = [i for i, group in enumerate(groups) if group == name]
        return certify(
            np.asarray(tune_scores)[here],
            np.asarray(tune_positive)[here],
            np.asarray(scores)[there],
            np.asarray(positive)[there],
            [patients[i] for i in there],
            tune_patients=[tune_patients[i] for i in here],
            alpha=alpha,
            delta=delta / len(names),
            side=side,
            made_on=made_on,
            expires_on=expires_on,
            dependencies=dependencies,
            method=method,
        )

    return StratifiedCertificate(side=side, delta=delta, groups={name: one(name) for name in names})


def age_band(years: float | None) -> str | None:
    """The band of an age in years, None where it is unknown."""
    if years is None or not np.isfinite(years) or years < 0:
        return None
    return next(name for end, name in AGE_BANDS if years < end)
