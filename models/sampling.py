"""The ensemble: posterior samples of a case from MC dropout in several trained networks.

The one safe switch for MC dropout: every module in eval mode, and only dropout modules stochastic. Batch normalisation
therefore keeps its statistics, and one case can never change the next. Reference: Gal and Ghahramani 2016
(arXiv:1506.02142); Lakshminarayanan et al. 2017 (arXiv:1612.01474).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.feature_watch import FeatureWatch
from models.member import Member, Passes, SplitReport
from models.networks import build_network
from models.seeded_dropout import pass_seed
from pipeline.domain.case import Reason
from pipeline.domain.stopping import FEWEST_ROUNDS
from pipeline.domain.uncertainty import PosteriorSamples
from pipeline.errors import DeferCase, HaltPipeline
from pipeline.protocol import Sampling

if TYPE_CHECKING:
    from models.release import Release

Features = dict[str, NDArray[np.float64]]
Settled = Callable[[PosteriorSamples], bool]


class Ensemble:
    """Trained networks that look at the parts of a case `passes` times each.

    The networks are copied. Raises HaltPipeline when there is none, one has no active dropout, or two are the same.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        passes: int,
        device: str | torch.device | None = None,
        sampling: Sampling = Sampling.FIXED,
    ) -> None:
        if not networks or passes < 1:
            raise HaltPipeline("ensemble: it needs at least one network and one pass; set network.members and .passes")
        _refuse_duplicates(networks)
        self.passes = passes
        self.sampling = sampling
        self.device = torch.device(device or "cpu")
        self._one_at_a_time = threading.Lock()  # masks and hooks live in the networks while they run
        self._members = tuple(Member(network, index, self.device) for index, network in enumerate(networks))

    @classmethod
    def load(cls, release: Release, device: str | torch.device | None = None) -> Ensemble:
        """The ensemble of a verified release, with every member's cut checked on its input size.

        Raises HaltPipeline when weights do not fit the protocol's network.
        """
        asked = release.protocol.network
        ensemble = cls([_loaded(release, i) for i in range(len(release.members))], asked.passes, device, asked.sampling)
        size = release.protocol.preprocessing.size[3 - release.protocol.network.dimensions :]
        for member in ensemble._members:
            member.check((1, *size))
        return ensemble

    @property
    def members(self) -> int:
        """Number of networks."""
        return len(self._members)

    @property
    def split_report(self) -> tuple[SplitReport, ...]:
        """Per member whether its deterministic part runs once; empty before the first use."""
        return tuple(member.report for member in self._members if member.report is not None)

    def sample(self, parts: Tensor, case_key: str, passes: int | None = None) -> PosteriorSamples:
        """Log probabilities (M, T, P, C) of one case's `parts` (P, 1, *size).

        Pass t of member m has the same masks for every part and whatever T is. Raises DeferCase(UNCERTAINTY_INVALID)
        when a number is not finite.
        """
        return self._sample(parts, case_key, passes, None)

    def examine(
        self, parts: Tensor, case_key: str, settled: Settled | None = None
    ) -> tuple[PosteriorSamples, Features]:
        """`sample` and `features` of one case, sharing what is deterministic in both where the precision is the same.

        Where sampling is adaptive, rounds of one pass per member are made until `settled` answers True to the samples
        (M, r, P, C) of the rounds so far, or the passes are used up, so that a look that stopped is bit for bit the
        beginning of one that did not; where it is off, one look (M, 1, P, C) without dropout.
        """
        if self.sampling is Sampling.OFF:
            return PosteriorSamples(self.without_dropout(parts)[:, None]), self.features(parts)
        watch = FeatureWatch(self._members[0].network) if self.device.type == "cpu" else None
        ask = (settled or _never) if self.sampling is Sampling.ADAPTIVE else None
        samples = self._sample(parts, case_key, None, watch, ask)
        complete = watch is not None and watch.complete(len(parts))
        return samples, _finite(watch.features()) if watch and complete else self.features(parts)

    def features(self, parts: Tensor) -> Features:
        """Features of the first member (P, F) per depth, float32 forward without dropout, averaged over space.

        Raises DeferCase(UNCERTAINTY_INVALID) when a number is not finite.
        """
        member = self._members[0]
        watch = FeatureWatch(member.network)
        with self._one_at_a_time:
            member.deterministic(parts, watch)
        return _finite(watch.features())

    def without_dropout(self, parts: Tensor) -> NDArray[np.float64]:
        """Log probabilities (M, P, C) of the deterministic members: the baseline that MC dropout is compared with."""
        with self._one_at_a_time:
            logits = torch.stack([member.deterministic(parts) for member in self._members])
        return _log_probabilities(logits)

    def _sample(
        self,
        parts: Tensor,
        case_key: str,
        passes: int | None,
        watch: FeatureWatch | None,
        settled: Settled | None = None,
    ) -> PosteriorSamples:
        if parts.dim() < 4 or 0 in parts.shape or parts.shape[1] != 1:
            raise ValueError(f"parts have axes (P, 1, *size), got shape {tuple(parts.shape)}")
        numbers = range(self.passes if passes is None else passes)
        seeds = [[pass_seed(case_key, m, t) for t in numbers] for m in range(self.members)]
        with self._one_at_a_time:
            begun = [member.begin(parts, watch if m == 0 else None) for m, member in enumerate(self._members)]
            if settled is None:
                made = torch.stack([go(seeds[m]) for m, go in enumerate(begun)])
                return PosteriorSamples(_log_probabilities(made))
            return _in_rounds(begun, seeds, settled)


def _never(_seen: PosteriorSamples) -> bool:
    return False


def _in_rounds(begun: Sequence[Passes], seeds: Sequence[Sequence[int]], settled: Settled) -> PosteriorSamples:
    """Rounds of one pass per member, up to the first at which `settled`.

    They are drawn in blocks, each as long as all before it, since passes drawn together cost far less; rounds beyond the one
    that settles are dropped, so that how they were drawn shows nowhere.
    """
    budget, asked = len(seeds[0]), FEWEST_ROUNDS
    made = _drawn(begun, seeds, 0, min(FEWEST_ROUNDS, budget))
    while asked < budget:
        if settled(PosteriorSamples(made[:, :asked])):
            return PosteriorSamples(made[:, :asked])
        asked += 1
        if asked > (now := made.shape[1]):
            made = np.concatenate([made, _drawn(begun, seeds, now, min(2 * now, budget))], axis=1)
    return PosteriorSamples(made)


def _drawn(begun: Sequence[Passes], seeds: Sequence[Sequence[int]], first: int, end: int) -> NDArray[np.float64]:
    """Log probabilities (M, end - first, P, C) of these passes of every member."""
    return _log_probabilities(torch.stack([go(seeds[m][first:end]) for m, go in enumerate(begun)]))


def _log_probabilities(logits: Tensor) -> NDArray[np.float64]:
    if not torch.isfinite(logits).all():
        raise DeferCase(Reason.UNCERTAINTY_INVALID, "a network's output is not finite; a clinician reads the case")
    log_p: NDArray[np.float64] = torch.log_softmax(logits.to("cpu", torch.float64), dim=-1).numpy()
    return log_p


def _finite(features: Features) -> Features:
    if not all(np.isfinite(values).all() for values in features.values()):
        raise DeferCase(Reason.UNCERTAINTY_INVALID, "a network's features are not finite; a clinician reads the case")
    return features


def _refuse_duplicates(networks: Sequence[nn.Module]) -> None:
    seen: dict[str, int] = {}
    for index, network in enumerate(networks):
        first = seen.setdefault(_weights_digest(network), index)
        if first != index:
            raise HaltPipeline(
                f"ensemble: members {first} and {index} have the same weights, so their agreement says nothing; "
                "train them with different seeds"
            )


def _weights_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.named_parameters():
        digest.update(name.encode())
        digest.update(value.detach().to("cpu").contiguous().numpy().tobytes())
    return digest.hexdigest()


def _loaded(release: Release, member: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        network = build_network(release.protocol)
    try:
        network.load_state_dict(release.weights(member))
    except RuntimeError as error:
        raise HaltPipeline(
            f"release {release.folder.name}: the weights of member {member} do not fit the network of its protocol; "
            "train the release again with this version"
        ) from error
    return network
