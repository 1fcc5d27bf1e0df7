"""What the novelty detectors look at, per detector: statistics of the images and depths of the network."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from models.sampling import Ensemble, Features
from pipeline.domain.novelty import intensity_histogram

HISTOGRAM = "histogram"


def case_features(ensemble: Ensemble, parts: Tensor) -> Features:
    """The features of every part (P, F) per detector, from a forward pass without dropout."""
    return with_statistics(ensemble.features(parts), parts)


def with_statistics(features: Features, parts: Tensor) -> Features:
    """`features` of the network and the statistics of the images `parts` (P, 1, *size) themselves."""
    return {HISTOGRAM: np.stack([intensity_histogram(part.numpy()) for part in parts])} | features
