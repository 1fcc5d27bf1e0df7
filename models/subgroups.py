"""Groups of the judged images: how well each is served, and where a gain on the mean is paid for by one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.preparation import PreparedImage
from models.systems import Answers
from pipeline.domain import selective

COLUMNS = ("site", "scanner", "sex", "view", "age_band")
_DRAWS = 300
_FEWEST = 20  #: images of a group that a difference is taken of

Mask = NDArray[np.bool_]


def subgroups(
    answers: Answers, images: Sequence[PreparedImage], single: Answers | None = None, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy, finding recall and AUGRC of every value of `COLUMNS`, where the labels file has them.

    With `single`, the AUGRC less that of one deterministic network, with its interval over patients, and a verdict: "blocked"
    where it surely rises although it falls on the mean, "watch" where it rises and may be chance, "too few"
    where the group has too few images to tell, "ok" otherwise.
    """
    improves = single is not None and _augrc(answers) < _augrc(single)
    found = []
    for column in COLUMNS:
        values = np.array([image.row.extras.get(column, "") for image in images])
        for value in np.unique(values[values != ""]):
            chosen = values == value
            row = {"column": column, "value": str(value)} | _served(answers, images, chosen)
            if single is not None:
                row |= _against(answers, single, images, chosen, improves=improves, seed=seed)
            found.append(row)
    return found


def _augrc(answers: Answers) -> float:
    return selective.augrc(answers.failures, answers.confidence)


def _served(answers: Answers, images: Sequence[PreparedImage], chosen: Mask) -> dict[str, Any]:
    positive = chosen & answers.positive
    called = np.isin(answers.log_p.argmax(axis=1), answers.protocol.finding_indices)
    accuracy = selective.cluster_bootstrap(
        lambda i: 1.0 - float(answers.failures[chosen][i].mean()), _patients(images, chosen), seed=0, draws=_DRAWS
    )
    return {
        "n": int(chosen.sum()),
        "patients": len(set(_patients(images, chosen))),
        "accuracy": accuracy.estimate,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "findings": int(positive.sum()),
        "finding_recall": float(called[positive].mean()) if positive.any() else None,
        "augrc": selective.augrc(answers.failures[chosen], answers.confidence[chosen]),
    }


def _against(
    answers: Answers, single: Answers, images: Sequence[PreparedImage], chosen: Mask, *, improves: bool, seed: int
) -> dict[str, Any]:
    ours = (answers.failures[chosen], answers.confidence[chosen])
    theirs = (single.failures[chosen], single.confidence[chosen])
    found = selective.paired_difference(
        lambda i: selective.augrc(ours[0][i], ours[1][i]),
        lambda i: selective.augrc(theirs[0][i], theirs[1][i]),
        _patients(images, chosen),
        seed=seed,
        draws=_DRAWS,
    )
    return {
        "augrc_less_single": {"estimate": found.estimate, "low": found.low, "high": found.high},
        "verdict": _verdict(found, improves=improves, enough=int(chosen.sum()) >= _FEWEST),
    }


def _verdict(found: selective.Interval, *, improves: bool, enough: bool) -> str:
    if not enough:
        return "too few"
    if not improves or not found.estimate > 0.0:
        return "ok"
    return "blocked" if found.low > 0.0 else "watch"


def _patients(images: Sequence[PreparedImage], chosen: Mask) -> list[str]:
    return [image.row.patient for image, kept in zip(images, chosen, strict=True) if kept]
