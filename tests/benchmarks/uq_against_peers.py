"""The same weights and the same held-out images through torch-uncertainty and through us: where do the numbers agree?

    python -m tests.benchmarks.uq_against_peers RELEASE LABELS.csv [--split test] [--json]

RELEASE is a release's folder. Agreement is checked where both define a number: the deterministic ensemble's probabilities, its
metrics, and the mean of many MC-dropout passes (other masks, so within sampling error). The table compares the single network,
MC dropout, the ensemble, the ensemble with MC dropout and the routing order, all calibrated on the tune split.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flows.readers import read_dicom
from models.dataset import read_labels
from models.evaluate import evaluate
from models.networks import build_network
from models.preparation import PreparedImage, prepare_images, training_tensors
from models.release import Release
from models.sampling import Ensemble
from pipeline.domain.calibration import Binning, brier, ece, nll
from pipeline.domain.selective import augrc, aurc
from tests.peer_library import peer_methods, peer_metrics

Floats = NDArray[np.float64]
SYSTEMS = ("single", "dropout", "ensemble", "release", "route")
COLUMNS = ("augrc", "aurc", "nll", "auroc_failure")
_CHUNK = 32
_PASSES = 20
_METRIC_TOLERANCE = 1e-5
_PROBABILITY_TOLERANCE = 1e-4


def main() -> None:
    """Print the agreement and the table; exit with 1 where something that must agree does not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("release", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    release = Release.load(asked.release)
    labelled = read_labels(asked.labels, release.protocol)
    images = prepare_images(labelled, release.protocol, ("tune", asked.split), read_dicom)
    found = compare(release, images, asked.split)
    sys.stdout.write(json.dumps(found, indent=1) + "\n" if asked.json else _text(found))
    sys.exit(0 if all(line["agrees"] for line in found["agreement"]) else 1)


def compare(release: Release, images: dict[str, Sequence[PreparedImage]], split: str) -> dict[str, Any]:
    """Agreement with the other library, the table of systems, and how long each takes for the same looks."""
    parts, labels = training_tensors(images[split])
    networks = [_network(release, member) for member in range(len(release.members))]
    report = evaluate(release, images, split=split, novel=()).report
    agreement = [*_ensemble_agrees(networks, parts, labels.numpy()), _dropout_agrees(networks[0], parts)]
    systems = {name: report if name == "release" else report["baselines"][name] for name in SYSTEMS}
    table = {name: {c: one[c] for c in COLUMNS} | {"ece": one["ece"]["value"]} for name, one in systems.items()}
    return {"agreement": agreement, "systems": table, "augrc_ratio_single": report["augrc_ratio_single"]}


def _network(release: Release, member: int) -> nn.Module:
    network = build_network(release.protocol)
    network.load_state_dict(release.weights(member))
    return network.eval()


def _ensemble_agrees(networks: Sequence[nn.Module], parts: Tensor, labels: NDArray[np.int_]) -> list[dict[str, Any]]:
    """Their deep ensemble against ours without dropout: probabilities, then every metric of ours on their probabilities."""
    metrics = peer_metrics()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        wrapped = peer_methods().deep_ensembles([copy.deepcopy(n) for n in networks]).eval()
        logits = torch.cat([wrapped(chunk).reshape(len(networks), len(chunk), -1) for chunk in _chunks(parts)], dim=1)
    theirs = torch.softmax(logits.double(), dim=-1).mean(dim=0).numpy()
    ensemble = Ensemble(networks, _PASSES)
    ours = np.exp(np.concatenate([ensemble.without_dropout(chunk) for chunk in _chunks(parts)], axis=1)).mean(axis=0)
    found = [_line("ensemble probabilities", ours, theirs, _PROBABILITY_TOLERANCE)]
    failures, confidence = (theirs.argmax(axis=1) != labels).astype(np.float64), theirs.max(axis=1)
    pairs = {
        "Brier": (brier(theirs, labels), metrics.BrierScore(num_classes=theirs.shape[1])),
        "NLL": (nll(np.log(theirs), labels), metrics.CategoricalNLL()),
        "ECE, equal width": (
            ece(theirs, labels, binning=Binning.EQUAL_WIDTH),
            metrics.CalibrationError(task="multiclass", num_classes=theirs.shape[1], num_bins=15, norm="l1"),
        ),
        "AUGRC": (_as_theirs("augrc", failures, confidence), metrics.AUGRC()),
        "AURC": (_as_theirs("aurc", failures, confidence), metrics.AURC()),
    }
    tied = len(np.unique(confidence)) < len(confidence)  # theirs then depends on the order of rows, ours does not
    for name, (mine, metric) in pairs.items():
        if tied and name in {"AUGRC", "AURC"}:
            found.append(
                {"name": name, "difference": 0.0, "agrees": True, "detail": "not compared: confidences are tied"}
            )
            continue
        metric.update(torch.tensor(theirs), torch.tensor(labels))
        found.append(_line(name, np.array(mine), np.array(float(metric.compute())), _METRIC_TOLERANCE))
    return found


def _as_theirs(name: str, failures: Floats, confidence: Floats) -> float:
    """Our area without its first step, rescaled: they integrate from the first case on and divide by 1 - 1/n."""
    n = len(failures)
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(failures[order])
    first = failures[order][0] / n / (2 * n) if name == "augrc" else (hits[0] + hits[-1] / n) / (2 * n)
    whole = augrc(failures, confidence) if name == "augrc" else aurc(failures, confidence)
    return (whole - first) / (1 - 1 / n)


def _dropout_agrees(network: nn.Module, parts: Tensor) -> dict[str, Any]:
    """Their MC dropout against ours: other masks, so the means agree within four standard errors of their difference."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        wrapped = peer_methods().mc_dropout(copy.deepcopy(network), _PASSES, on_batch=False).eval()
        started = time.perf_counter()
        logits = torch.cat([wrapped(chunk).reshape(_PASSES, len(chunk), -1) for chunk in _chunks(parts)], dim=1)
    took = time.perf_counter() - started
    theirs = torch.softmax(logits.double(), dim=-1).numpy()
    ensemble = Ensemble([network], _PASSES)
    ensemble.sample(parts[:1], "first")
    started = time.perf_counter()
    drawn = [ensemble.sample(chunk, f"chunk {i}").log_probabilities[0] for i, chunk in enumerate(_chunks(parts))]
    ours_took = time.perf_counter() - started
    ours = np.exp(np.concatenate(drawn, axis=1))
    error = np.sqrt((ours.var(axis=0, ddof=1) + theirs.var(axis=0, ddof=1)) / _PASSES) + 1e-6
    z = np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) / error
    beyond = float((z > 4).mean())
    return {
        "name": "MC dropout, mean of passes",
        "difference": float(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max()),
        "agrees": beyond < 0.01,
        "detail": f"{100 * beyond:.2f} % of means beyond four standard errors; theirs took {took / ours_took:.1f} times as long",
    }


def _chunks(parts: Tensor) -> tuple[Tensor, ...]:
    return torch.split(parts, _CHUNK)


def _line(name: str, ours: Floats, theirs: Floats, tolerance: float) -> dict[str, Any]:
    difference = float(np.abs(ours - theirs).max())
    return {"name": name, "difference": difference, "agrees": difference <= tolerance, "detail": f"to {tolerance:g}"}


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{'agrees ' if one['agrees'] else 'DIFFERS'} {one['name']:<28} {one['difference']:.2e}  {one['detail']}"
        for one in found["agreement"]
    ]
    lines.append(f"{'':<10}" + "".join(f"{name:>15}" for name in (*COLUMNS, "ece")))
    for name, row in found["systems"].items():
        lines.append(f"{name:<10}" + "".join(f"{row[c]:>15.4f}" for c in (*COLUMNS, "ece")))
    ratio = found["augrc_ratio_single"]
    lines.append(f"AUGRC of the release / single: {ratio['estimate']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
