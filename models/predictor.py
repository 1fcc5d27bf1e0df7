"""What a release says about one case, the same way in training, evaluation, prediction and triage."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.looks import judge_of, look
from models.saliency import OutOfTime, attribute, draw
from models.sampling import Ensemble
from models.transforms import prepare
from pipeline.domain.case import Reason
from pipeline.domain.drawn_map import DrawnMap
from pipeline.domain.evidence import Analysis, Policy
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase

if TYPE_CHECKING:
    from models.release import Release


class ReleasePredictor:
    """A verified release with its networks loaded; what triage asks about a case."""

    def __init__(
        self, release: Release, ensemble: Ensemble | None = None, device: str | torch.device | None = None
    ) -> None:
        self._release = release
        self._ensemble = ensemble or Ensemble.load(release, device)
        self._judge = judge_of(release)

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
            "engine": self._ensemble.engine,
        }

    def analyse(self, case_key: str, volumes: Sequence[Volume]) -> Analysis:
        """What the release says about the case whose chosen series are `volumes`.

        Raises DeferCase with the reason when it may not speak.
        """
        if not volumes:
            raise DeferCase(Reason.NO_SERIES, "no series was given to the network")
        protocol = self._release.protocol
        dimensions = protocol.network.dimensions
        each = [prepare(volume, protocol.preprocessing, dimensions) for volume in volumes]
        found = look(self._ensemble, torch.cat(each), case_key, self._judge, series=[len(parts) for parts in each])
        uncertainty, novelty = self._judge.summaries(found)
        return Analysis(
            uncertainty=uncertainty,
            novelty=novelty,
            depths=tuple(depth for v in volumes for depth in _depths(v, dimensions)),
        )

    def maps(self, case_key: str, volumes: Sequence[Volume], out_of_time: OutOfTime) -> tuple[DrawnMap, ...]:
        """Where the answer about the same case is sensitive and where the networks differ; no decision looks at it.

        Raises TimeoutError once `out_of_time`, DeferCase, ValueError and whatever torch raises.
        """
        protocol = self._release.protocol
        each = [prepare(volume, protocol.preprocessing, protocol.network.dimensions) for volume in volumes]
        found = attribute(self._ensemble, torch.cat(each), case_key, protocol.finding_indices, out_of_time=out_of_time)
        return draw(protocol, volumes, each, found)


def _depths(volume: Volume, dimensions: int) -> tuple[int, ...]:
    """The slices of each part that a volume became."""
    slices = volume.voxels.shape[0]
    return (slices,) if dimensions == 3 else (1,) * slices
