"""What the novelty detectors look at, per detector: statistics of the images, depths of the network, what it says."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from models.sampling import Ensemble, Features
from pipeline.domain.detectors import Kind
from pipeline.domain.novelty import intensity_histogram, pixel_statistics
from pipeline.domain.uncertainty import PosteriorSamples, decompose

HISTOGRAM = "histogram"
PIXELS = "pixels"
ENTROPY = f"entropy.{Kind.VALUE}"


def case_features(ensemble: Ensemble, parts: Tensor) -> Features:
    """The features of every part (P, F) per detector that has something to fit, from a forward without dropout."""
    return _statistics(parts) | _per_kind(ensemble.features(parts))


def look_features(features: Features, parts: Tensor, samples: PosteriorSamples) -> Features:
    """`features` of the network, statistics of the images `parts` (P, 1, *size), and the entropy of their `samples`."""
    entropy = decompose(samples).predictive_entropy[:, None]
    return _statistics(parts) | _per_kind(features) | {ENTROPY: entropy}


def _statistics(parts: Tensor) -> Features:
    images = [part[0].numpy() for part in parts]
    return {
        HISTOGRAM: np.stack([intensity_histogram(image) for image in images]),
        PIXELS: np.stack([pixel_statistics(image) for image in images]),
    }


def _per_kind(features: Features) -> Features:
    """Each depth once for every kind of distance that is taken there."""
    kinds = ("", f".{Kind.DIRECTION}", f".{Kind.NEIGHBOURS}")
    return {f"{depth}{kind}": rows for depth, rows in features.items() for kind in kinds}
