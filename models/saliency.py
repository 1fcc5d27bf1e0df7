"""Maps of where an ensemble's answer about one case is sensitive, and of where its members and passes differ about that.

Each look (member m, pass t) attributes the log-odds of any finding to the voxels as gradient times input, which for a
linear network adds up to the log-odds exactly. Input zero is the foreground's mean intensity, so that is the baseline.
The saliency is the size of the mean over looks: averaging over noise steadies gradients, in the input (SmoothGrad, Smilkov
et al. 2017, arXiv:1706.03825) as in the weights (NoiseGrad, Bykov et al. 2022, arXiv:2106.10185), and dropout is such a
noise. The uncertainty is the standard deviation over looks (Bykov et al. 2020, arXiv:2006.09000). The passes are those
that triage sampled. That a map depends on the weights at all is tested as Adebayo et al. 2018 (arXiv:1810.03292) ask;
that it is right about a case is not known, and no decision reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from models.member import Member
from models.resampling import grid_affine
from models.sampling import Ensemble
from models.seeded_dropout import pass_seed, passes_seeded
from pipeline.domain.drawn_map import DrawnMap, MapKind
from pipeline.domain.volume import Volume
from pipeline.protocol import Sampling, TriageProtocol

LOOKS = 4  #: of each member; the first of the passes that were sampled
_BLUR = 1.0  #: standard deviation, voxels of the network's grid
_ROWS = {"cpu": 8, "cuda": 64}  #: parts that go through the network together
_SHOWN_SHARE = (0.5, 99.5)  #: percentiles of the input between black and white

Floats = NDArray[np.float64]
OutOfTime = Callable[[], bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribution:
    """Saliency and uncertainty (P, *size) of a case's parts, neither below zero."""

    saliency: Floats
    uncertainty: Floats


def attribute(
    ensemble: Ensemble,
    parts: Tensor,
    case_key: str,
    findings: Sequence[int],
    *,
    looks: int = LOOKS,
    out_of_time: OutOfTime = lambda: False,
) -> Attribution:
    """What the score for any of `findings` owes to each voxel of `parts` (P, 1, *size).

    A part of several counts by its share of their probability of a finding. Nothing of the ensemble is changed. Raises
    TimeoutError once `out_of_time`, ValueError when a number is not finite or nothing is sensitive anywhere.
    """
    total, squares, count = np.zeros(parts[:, 0].shape), np.zeros(parts[:, 0].shape), 0
    with ensemble.alone() as members:
        for member, seed in ((m, s) for m in members for s in _seeds(ensemble, case_key, m.index, looks)):
            if out_of_time():
                raise TimeoutError("drawing the maps took too long")
            found = _smooth(_one_look(member, parts, seed, findings))
            total, squares, count = total + found, squares + found**2, count + 1
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    if not (np.isfinite(mean).all() and np.isfinite(spread).all() and mean.any()):
        raise ValueError("the attribution is not finite, or zero everywhere")
    return Attribution(saliency=np.abs(mean), uncertainty=spread)


def _seeds(ensemble: Ensemble, case_key: str, member: int, looks: int) -> list[int | None]:
    """The seeds of a member's first passes; without dropout there is one look."""
    if ensemble.sampling is Sampling.OFF:
        return [None]
    return [pass_seed(case_key, member, number) for number in range(min(looks, ensemble.passes))]


def _one_look(member: Member, parts: Tensor, seed: int | None, findings: Sequence[int]) -> Floats:
    """Gradient times input (P, *size) of one pass, each part weighed by its share of the probability of a finding."""
    products, chances = [], []
    for chunk in torch.split(parts, _ROWS.get(member.device.type, _ROWS["cpu"])):
        with torch.enable_grad(), passes_seeded(member.dropouts, () if seed is None else (seed,)):
            shown = chunk.detach().to(member.device, copy=True).requires_grad_()
            odds = log_odds(member.network(shown).float(), findings)
            (slope,) = torch.autograd.grad(odds.sum(), shown)  # a row depends on its own part alone
        products.append((slope * shown).detach().to("cpu", torch.float64)[:, 0])
        chances.append(torch.sigmoid(odds.detach()).to("cpu", torch.float64))
    chance = torch.cat(chances)
    share = chance / chance.sum() if len(chance) > 1 else torch.ones(1, dtype=torch.float64)
    product = torch.cat(products)
    found: Floats = (product * share.reshape(-1, *(1 for _ in product.shape[1:]))).numpy()
    return found


def log_odds(logits: Tensor, findings: Sequence[int]) -> Tensor:
    """Log-odds (P,) of any of `findings` from logits (P, C)."""
    others = [index for index in range(logits.shape[1]) if index not in findings]
    return torch.logsumexp(logits[:, list(findings)], dim=1) - torch.logsumexp(logits[:, others], dim=1)


def _smooth(values: Floats) -> Floats:
    """Each part blurred a little within itself; what it adds up to stays."""
    smoothed: Floats = gaussian_filter(values, sigma=(0.0, *(_BLUR for _ in values.shape[1:])), mode="reflect")
    return smoothed


def draw(
    protocol: TriageProtocol, volumes: Sequence[Volume], each: Sequence[Tensor], found: Attribution
) -> tuple[DrawnMap, ...]:
    """The maps of each volume, whose prepared parts are `each`, in the order of `found`."""
    scale = float(max(found.saliency.max(), found.uncertainty.max()))
    ends = np.cumsum([len(parts) for parts in each])[:-1]
    pieces = zip(np.split(found.saliency, ends), np.split(found.uncertainty, ends), strict=True)
    maps: list[DrawnMap] = []
    for series, (volume, parts, (saliency, uncertainty)) in enumerate(zip(volumes, each, pieces, strict=True)):
        affine = grid_affine(volume, protocol.preprocessing, protocol.network.dimensions)
        pictures = {
            MapKind.SALIENCY: (_bytes(saliency, 0.0, scale), scale),
            MapKind.UNCERTAINTY: (_bytes(uncertainty, 0.0, scale), scale),
            MapKind.INPUT: _seen(parts),
        }
        for kind, (values, full) in pictures.items():
            flat = values.reshape(-1, *values.shape[-2:])  # one 3-D part, or slices
            maps.append(DrawnMap(kind=kind, series=series, values=flat, affine=affine, full_scale=full))
    return tuple(maps)


def _seen(parts: Tensor) -> tuple[NDArray[np.uint8], float]:
    """The parts as the network saw them, between their darkest and their brightest; and how far these lie apart."""
    values = parts[:, 0].numpy().astype(np.float64)
    low, high = (float(np.percentile(values, share)) for share in _SHOWN_SHARE)
    return _bytes(values, low, max(high, low + 1e-6)), max(high - low, 1e-6)


def _bytes(values: Floats, low: float, high: float) -> NDArray[np.uint8]:
    return np.clip(np.rint(255.0 * (values - low) / (high - low)), 0, 255).astype(np.uint8)
