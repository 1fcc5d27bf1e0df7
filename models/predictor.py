"""What a release says about one case, the same way in training, evaluation, prediction and triage."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from models.sampling import Ensemble, Features
from models.transforms import prepare
from pipeline.domain.calibration import apply_temperature
from pipeline.domain.case import Reason
from pipeline.domain.evidence import Analysis, Policy, UncertaintySummary
from pipeline.domain.novelty import intensity_histogram
from pipeline.domain.uncertainty import PosteriorSamples, aggregate_parts, decompose
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase
from pipeline.protocol import TriageProtocol

if TYPE_CHECKING:
    from models.release import Release

HISTOGRAM = "histogram"


def case_features(ensemble: Ensemble, parts: Tensor) -> Features:
    """What the novelty detectors look at, per detector (P, F): an intensity histogram and two depths of the network."""
    return _with_histogram(ensemble.features(parts), parts)


def summarise(samples: PosteriorSamples, temperature: float, protocol: TriageProtocol) -> UncertaintySummary:
    """The summary of one case's samples (M, T, P, C), parts pooled: calibrated probabilities, entropies in nats.

    Pool, then one temperature: q = softmax(log pbar / temperature). The entropy chain is of the samples as they are, so
    that it adds up exactly. Raises DeferCase(UNCERTAINTY_INVALID).
    """
    case = aggregate_parts(samples)
    found = decompose(case)
    calibrated = np.exp(apply_temperature(found.log_mean[0], temperature))
    members = np.exp(apply_temperature(found.log_member_mean[:, 0], temperature))
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
    )


class ReleasePredictor:
    """A verified release with its networks loaded; what triage asks about a case."""

    def __init__(
        self, release: Release, ensemble: Ensemble | None = None, device: str | torch.device | None = None
    ) -> None:
        self._release = release
        self._ensemble = ensemble or Ensemble.load(release, device)

    @property
    def release_digest(self) -> str:
        """The digest of the release that speaks."""
        return self._release.digest

    @property
    def protocol_digest(self) -> str:
        """The digest of the protocol the release was made for."""
        return self._release.protocol.digest

    @property
    def policy(self) -> Policy:
        """The release's thresholds and limits."""
        return self._release.policy

    @property
    def fingerprint(self) -> dict[str, str]:
        """What besides the release decides the last bits of a result; a decision recomputes exactly where this is equal."""
        device = self._ensemble.device
        cuda = device.type == "cuda"
        return {
            "torch": torch.__version__,
            "monai": version("monai"),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "processor": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
            "device": device.type,
            "threads": str(torch.get_num_threads()),
        }

    def analyse(self, case_key: str, volumes: Sequence[Volume]) -> Analysis:
        """What the release says about the case whose chosen series are `volumes`.

        Raises DeferCase with the reason when it may not speak.
        """
        if not volumes:
            raise DeferCase(Reason.NO_SERIES, "no series was given to the network")
        protocol = self._release.protocol
        dimensions = protocol.network.dimensions
        parts = torch.cat([prepare(volume, protocol.preprocessing, dimensions) for volume in volumes])
        samples, features = self._ensemble.examine(parts, case_key)
        return Analysis(
            uncertainty=summarise(samples, self._release.temperature, protocol),
            novelty=self._release.novelty.p_values(
                _with_histogram(features, parts), level=self._release.policy.novelty_level
            ),
            depths=tuple(depth for v in volumes for depth in _depths(v, dimensions)),
        )


def _with_histogram(features: Features, parts: Tensor) -> Features:
    return {HISTOGRAM: np.stack([intensity_histogram(part.numpy()) for part in parts])} | features


def _depths(volume: Volume, dimensions: int) -> tuple[int, ...]:
    """The slices of each part that a volume became."""
    slices = volume.voxels.shape[0]
    return (slices,) if dimensions == 3 else (1,) * slices
