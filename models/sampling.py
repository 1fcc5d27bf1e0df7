"""The ensemble: posterior samples of a case from MC dropout in several trained networks.

The one safe switch for MC dropout: every module in eval mode, and only dropout modules stochastic. Batch normalisation
therefore keeps its statistics, and one case can never change the next. Reference: Gal and Ghahramani 2016
(arXiv:1506.02142); Lakshminarayanan et al. 2017 (arXiv:1612.01474).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.backend_choice import Search
from models.backends import versions
from models.cut_network import Engine
from models.feature_watch import FeatureWatch
from models.member import Depths, Member, Passes, SplitReport
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
Settled = Callable[[PosteriorSamples], int | None]  #: rounds made -> the fewest of them that suffice, if any do
_FIRST_BLOCK = 2 * FEWEST_ROUNDS


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
        search: Search | None = None,
    ) -> None:
        if not networks or passes < 1:
            raise HaltPipeline("ensemble: it needs at least one network and one pass; set network.members and .passes")
        _refuse_duplicates(networks)
        self.passes = passes
        self.sampling = sampling
        self.device = torch.device(device or "cpu")
        self._one_at_a_time = threading.Lock()  # masks and hooks live in the networks while they run
        gaussian = sampling is Sampling.MOMENTS
        self._members = tuple(Member(n, index, self.device, gaussian=gaussian) for index, n in enumerate(networks))
        engine = None if search is None else Engine(search)
        for member in self._members:
            member.use(engine)

    @classmethod
    def load(cls, release: Release, device: str | torch.device | None = None, search: Search | None = None) -> Ensemble:
        """The ensemble of a verified release, with every member's cut checked on its input size.

        `search` lets compiled back ends run it; without, plain PyTorch does. Raises HaltPipeline when weights do not fit
        the protocol's network.
        """
        asked = release.protocol.network
        networks = [_loaded(release, i) for i in range(len(release.members))]
        ensemble = cls(networks, asked.passes, device, asked.sampling, search)
        ensemble.check(release.protocol.preprocessing.size[3 - release.protocol.network.dimensions :])
        return ensemble

    def check(self, size: Sequence[int]) -> tuple[SplitReport, ...]:
        """Compare every member's way of working with its plain loop, on images of `size`; raises HaltPipeline."""
        with self._one_at_a_time:
            return tuple(member.check((1, *size)) for member in self._members)

    @property
    def members(self) -> int:
        """Number of networks."""
        return len(self._members)

    @property
    def split_report(self) -> tuple[SplitReport, ...]:
        """Per member whether its deterministic part runs once; empty before the first use."""
        return tuple(member.report for member in self._members if member.report is not None)

    @property
    def engine(self) -> str:
        """What runs the two pieces of the members, with versions; "plain loop" where nothing could be cut."""
        used = {f"{versions(r.prefix)}, {versions(r.suffix)}" if r.cut else "plain loop" for r in self.split_report}
        return "; ".join(sorted(used))

    def sample(self, parts: Tensor, case_key: str, passes: int | None = None) -> PosteriorSamples:
        """Log probabilities (M, T, P, C) of one case's `parts` (P, 1, *size).

        Pass t of member m has the same masks for every part and whatever T is. Raises DeferCase(UNCERTAINTY_INVALID)
        when a number is not finite.
        """
        return self._sample(parts, case_key, passes, None)[0]

    def examine(
        self, parts: Tensor, case_key: str, settled: Settled | None = None
    ) -> tuple[PosteriorSamples, Features]:
        """`sample` and `features` of one case, sharing what is deterministic in both where the precision is the same.

        Where sampling is adaptive, rounds of one pass per member are made until `settled`, shown the samples (M, r, P, C) of
        the rounds so far, names those that suffice, or the passes are used up, so that a look that stopped is bit for bit the
        beginning of one that did not; where it is off, one look (M, 1, P, C) without dropout.
        """
        if self.sampling is Sampling.OFF:
            return PosteriorSamples(self.without_dropout(parts)[:, None]), self.features(parts)
        ask = (settled or _never) if self.sampling is Sampling.ADAPTIVE else None
        samples, seen = self._sample(parts, case_key, None, ask, observe=self.device.type == "cpu")
        return samples, _as_features(seen) if seen else self.features(parts)

    def features(self, parts: Tensor) -> Features:
        """Features of the first member (P, F) per depth, float32 forward without dropout, averaged over space.

        Raises DeferCase(UNCERTAINTY_INVALID) when a number is not finite.
        """
        member = self._members[0]
        with self._one_at_a_time:
            seen = member.begin(parts, observe=True)[1] if self.device.type == "cpu" else {}
            if seen:
                return _as_features(seen)
            watch = FeatureWatch(member.network)
            member.deterministic(parts, watch)
        return _finite(watch.features())

    def without_dropout(self, parts: Tensor) -> NDArray[np.float64]:
        """Log probabilities (M, P, C) of the deterministic members: the baseline that MC dropout is compared with."""
        with self._one_at_a_time:
            logits = torch.stack([member.deterministic(parts) for member in self._members])
        return _log_probabilities(logits)

    @contextmanager
    def alone(self) -> Iterator[tuple[Member, ...]]:
        """The members, with nobody else at work on them meanwhile."""
        with self._one_at_a_time:
            yield self._members

    def _sample(
        self, parts: Tensor, case_key: str, passes: int | None, settled: Settled | None, *, observe: bool = False
    ) -> tuple[PosteriorSamples, Depths]:
        """Samples (M, T, P, C) and, where `observe` asks, the first member's features as far as they can be seen."""
        if parts.dim() < 4 or 0 in parts.shape or parts.shape[1] != 1:
            raise ValueError(f"parts have axes (P, 1, *size), got shape {tuple(parts.shape)}")
        numbers = range(self.passes if passes is None else passes)
        seeds = [[pass_seed(case_key, m, t) for t in numbers] for m in range(self.members)]
        with self._one_at_a_time:
            begun = [member.begin(parts, observe=observe and m == 0) for m, member in enumerate(self._members)]
            go, seen = [passes for passes, _ in begun], begun[0][1]
            if settled is not None:
                return _in_rounds(go, seeds, settled), seen
            made = torch.stack([make(seeds[m]) for m, make in enumerate(go)])
            return PosteriorSamples(_log_probabilities(made)), seen


def _never(_seen: PosteriorSamples) -> None:
    return None


def _in_rounds(begun: Sequence[Passes], seeds: Sequence[Sequence[int]], settled: Settled) -> PosteriorSamples:
    """Rounds of one pass per member, up to the first at which `settled`.

    They are drawn in blocks, each half as long as all before it, since passes drawn together cost less; rounds beyond the
    one that settles are dropped, so that how they were drawn shows nowhere.
    """
    budget = len(seeds[0])
    made = _drawn(begun, seeds, 0, min(_FIRST_BLOCK, budget))
    while (now := made.shape[1]) < budget:
        if (rounds := settled(PosteriorSamples(made))) is not None:
            return PosteriorSamples(made[:, :rounds])
        made = np.concatenate([made, _drawn(begun, seeds, now, min(now + now // 2, budget))], axis=1)
    rounds = settled(PosteriorSamples(made))
    return PosteriorSamples(made[:, :rounds])


def _drawn(begun: Sequence[Passes], seeds: Sequence[Sequence[int]], first: int, end: int) -> NDArray[np.float64]:
    """Log probabilities (M, end - first, P, C) of these passes of every member."""
    return _log_probabilities(torch.stack([go(seeds[m][first:end]) for m, go in enumerate(begun)]))


def _log_probabilities(logits: Tensor) -> NDArray[np.float64]:
    if not torch.isfinite(logits).all():
        raise DeferCase(Reason.UNCERTAINTY_INVALID, "a network's output is not finite; a clinician reads the case")
    log_p: NDArray[np.float64] = torch.log_softmax(logits.to("cpu", torch.float64), dim=-1).numpy()
    return log_p


def _as_features(seen: Depths) -> Features:
    return _finite({depth: values.to("cpu", torch.float64).numpy() for depth, values in seen.items()})


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
