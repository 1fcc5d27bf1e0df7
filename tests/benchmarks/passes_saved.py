"""What adaptive sampling saves on held-out images: passes and time against the whole budget, and whether any route changes.

    python -m tests.benchmarks.passes_saved RELEASE LABELS.csv [--split test]

RELEASE is the folder of a release with adaptive sampling. Every image is looked at twice with the same seeds, adaptively and
with the whole budget, in turn. Routes are judged at the thresholds that the stopping rule expects, so that the comparison says
something also where nothing is certified.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.readers import read_dicom
from models.dataset import read_labels
from models.looks import Judge, judge_of, look
from models.preparation import PreparedImage, prepare_images
from models.release import Release
from models.sampling import Ensemble
from models.summary import one_case
from pipeline.domain.guards import is_certain, is_familiar
from pipeline.domain.uncertainty import decompose
from pipeline.protocol import Sampling


def main() -> None:
    """Print what is saved, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("release", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--split", default="test")
    asked = parser.parse_args()
    release = Release.load(asked.release)
    images = prepare_images(read_labels(asked.labels, release.protocol), release.protocol, (asked.split,), read_dicom)[
        asked.split
    ]
    sys.stdout.write(json.dumps(saved(release, images), indent=1) + "\n")


def saved(release: Release, images: Sequence[PreparedImage]) -> dict[str, Any]:
    """Passes and time of adaptive sampling as shares of the whole budget's, and the routes that differ."""
    judge = judge_of(release)
    whole = replace(judge, stopping=None)
    adaptive, fixed = Ensemble.load(release), Ensemble.load(release)
    fixed.sampling = Sampling.FIXED
    made, seconds, changed = [], np.zeros(2), 0
    for image in images:
        started = time.perf_counter()
        short = look(adaptive, image.parts, image.key, judge)
        middle = time.perf_counter()
        full = look(fixed, image.parts, image.key, whole)
        seconds += (middle - started, time.perf_counter() - middle)
        made.append(short.samples.passes)
        changed += _route(judge, release, short) != _route(judge, release, full)
    budget = release.protocol.network.passes
    return {
        "images": len(images),
        "passes_share": float(np.mean(made)) / budget,
        "time_share": float(seconds[0] / seconds[1]),
        "stopped_early": float(np.mean(np.array(made) < budget)),
        "routes_changed": int(changed),
        "thresholds": list(judge.stopping.thresholds) if judge.stopping else [],
    }


def _route(judge: Judge, release: Release, found: Any) -> tuple[bool, ...]:
    """On which side of every expected threshold the image lies, and whether a gate stops it."""
    case = one_case(found.samples, release.protocol, release.temperature)
    parts = decompose(case)
    score = float(np.exp(parts.log_mean[0, list(release.protocol.finding_indices)]).sum())
    novelty = release.novelty.p_values(found.features).combined
    certain = is_certain(float(parts.mutual_information[0]), release.policy.mutual_information_limit)
    gated = not (certain and is_familiar(novelty, release.policy.novelty_level))
    thresholds = judge.stopping.thresholds if judge.stopping else ()
    return (gated, *((score > t) and not gated for t in thresholds))


if __name__ == "__main__":
    main()
