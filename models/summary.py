"""From the samples of a case's parts to its summary: the same way in training, evaluation, prediction and triage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.domain.calibration import apply_shared, apply_temperature
from pipeline.domain.evidence import UncertaintySummary
from pipeline.domain.stopping import Stop
from pipeline.domain.uncertainty import PosteriorSamples, aggregate_parts, decompose
from pipeline.protocol import Calibration, TriageProtocol

UNCALIBRATED = 1.0  #: the temperature that changes nothing


def one_case(
    samples: PosteriorSamples, protocol: TriageProtocol, temperature: float, series: Sequence[int] | None = None
) -> PosteriorSamples:
    """One case's samples (M, T, 1, C) from those of its parts (M, T, P, C), as the protocol aggregates them.

    With shared calibration the temperature acts inside every member and pass, before anything is pooled.
    """
    shared = protocol.calibration is Calibration.SHARED
    return aggregate_parts(
        apply_shared(samples, temperature) if shared else samples,
        series,
        how_slices=protocol.aggregation.slices.value,
        how_series=protocol.aggregation.series.value,
        finding_indices=protocol.finding_indices,
    )


def summarise(
    samples: PosteriorSamples,
    temperature: float,
    protocol: TriageProtocol,
    *,
    stop: Stop,
    series: Sequence[int] | None = None,
) -> UncertaintySummary:
    """The summary of one case's samples (M, T, P, C), parts pooled: calibrated probabilities, entropies in nats.

    Pool, then one temperature: q = softmax(log pbar / temperature). The entropy chain is of the samples as they are, so
    that it adds up exactly; with shared calibration it is of the calibrated ones. Raises DeferCase(UNCERTAINTY_INVALID).
    """
    case = one_case(samples, protocol, temperature, series)
    found = decompose(case)
    after = UNCALIBRATED if protocol.calibration is Calibration.SHARED else temperature
    calibrated = np.exp(apply_temperature(found.log_mean[0], after))
    members = np.exp(apply_temperature(found.log_member_mean[:, 0], after))
    findings = list(protocol.finding_indices)
    return UncertaintySummary(
        classes=protocol.class_names,
        probabilities=tuple(float(p) for p in calibrated),
        route_score=float(calibrated[findings].sum()),
        predictive_entropy=float(found.predictive_entropy[0]),
        expected_entropy=float(found.expected_entropy[0]),
        mi_dropout=float(found.mi_dropout[0]),
        mi_member=float(found.mi_member[0]),
        mutual_information=float(found.mutual_information[0]),
        members=case.members,
        passes=case.passes,
        samples_digest=case.digest(0),
        member_scores=tuple(float(p) for p in members[:, findings].sum(axis=1)),
        budget=protocol.network.passes if stop is Stop.SETTLED else case.passes,
        stop=stop.value,
    )
