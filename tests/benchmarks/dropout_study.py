"""Where dropout should act, at which rate, and how many members and passes are worth their cost: quality against cost.

    python -m tests.benchmarks.dropout_study LABELS.csv --out FOLDER [--size 64] [--epochs 12] [--members 3]

Trains the slice protocol's network, smaller and shorter, once per placement, rate and member, and reads every M and T
off the same samples. Quality is measured on the tune split, on which the defaults are chosen, and reported for the test split.
Cost is the measured time of one look in units of one deterministic forward of one member, interleaved in the same
process. The folder keeps what was trained: a second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from flows.readers import read_dicom
from models.dataset import read_labels
from models.networks import build_network
from models.preparation import prepare_images, training_tensors
from models.sampling import Ensemble
from models.train import train_member
from pipeline.domain.calibration import apply_temperature, ece, fit_temperature, nll
from pipeline.domain.selective import augrc, failure_auroc
from pipeline.errors import HaltPipeline
from pipeline.protocol import TriageProtocol, load_protocol

Floats = NDArray[np.float64]
Data = dict[str, tuple[Tensor, Tensor]]
SETTINGS = tuple((place, rate) for place in ("head", "last_stage", "every_block") for rate in (0.1, 0.3))
PASSES = (1, 5, 20, 50)
SPLITS = ("tune", "test")
_SEED = 11
_CHUNK = 32
_REPEATS = 7
_COLOURS = {"head": "#0072b2", "last_stage": "#d55e00", "every_block": "#009e73"}
_MARKS = {0.1: "o", 0.3: "^"}


def main() -> None:
    """Run the study, or what is left of it, and write study.json and study.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("labels", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--members", type=int, default=3)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data = _data(asked.labels, _protocol("head", 0.1, asked.size, asked.epochs))
    rows = [row for place, rate in SETTINGS for row in _setting(asked, data, place, rate)]
    (asked.out / "study.json").write_text(json.dumps(rows, indent=1))
    draw(rows, asked.out / "study.png")


def _protocol(placement: str, rate: float, size: int, epochs: int) -> TriageProtocol:
    content = load_protocol("brain-tumour-slice").model_dump(mode="json")
    content["network"]["dropout"] = {"placement": placement, "rate": rate}
    content["preprocessing"]["size"] = [1, size, size]
    content["training"] |= {"epochs": epochs, "patience": epochs}
    return TriageProtocol.model_validate(content)


def _data(labels: Path, protocol: TriageProtocol) -> Data:
    images = prepare_images(read_labels(labels, protocol), protocol, ("train", *SPLITS), read_dicom)
    return {split: training_tensors(found) for split, found in images.items()}


def _setting(asked: argparse.Namespace, data: Data, placement: str, rate: float) -> list[dict[str, Any]]:
    """Every M and T of one placement and rate."""
    protocol = _protocol(placement, rate, asked.size, asked.epochs)
    networks = [_trained(asked.out, data, protocol, member) for member in range(asked.members)]
    samples = {split: _samples(networks, data[split][0]) for split in SPLITS}
    rows = []
    for members in range(1, asked.members + 1):
        ensemble = Ensemble(networks[:members], PASSES[-1])
        for passes in (0, *PASSES):
            quality = {s: _quality(samples, data, s, members, passes) for s in SPLITS}
            if None in quality.values():
                continue
            cost = _cost(ensemble, networks[0], data["tune"][0][:1], passes)
            rows.append(
                {"placement": placement, "rate": rate, "members": members, "passes": passes, "cost": cost} | quality
            )
            print(json.dumps(rows[-1]), flush=True)  # noqa: T201
    return rows


def _trained(folder: Path, data: Data, protocol: TriageProtocol, member: int) -> torch.nn.Module:
    dropout = protocol.network.dropout
    path = folder / f"{dropout.placement.value}-{dropout.rate}-{member}.safetensors"
    if not path.exists():
        trained = train_member(protocol, *data["train"], *data["tune"], member=member, seed=_SEED, threads=1)
        safetensors.torch.save_file(trained.weights, path)
    network = build_network(protocol)
    network.load_state_dict(safetensors.torch.load_file(path))
    return network


def _samples(networks: Sequence[torch.nn.Module], images: Tensor) -> tuple[Floats, Floats]:
    """Log probabilities without dropout (M, N, C) and of the passes (M, T, N, C)."""
    ensemble = Ensemble(networks, PASSES[-1])
    chunks = torch.split(images, _CHUNK)
    certain = np.concatenate([ensemble.without_dropout(chunk) for chunk in chunks], axis=1)
    drawn = [ensemble.sample(chunk, f"chunk {i}").log_probabilities for i, chunk in enumerate(chunks)]
    return certain, np.concatenate(drawn, axis=2)


def _quality(
    samples: dict[str, tuple[Floats, Floats]], data: Data, split: str, members: int, passes: int
) -> dict[str, float] | None:
    """Measures of one split after one temperature from tune; 0 passes are the members without dropout."""
    tuned, judged = (_pooled(samples[name], members, passes) for name in ("tune", split))
    labels = data[split][1].numpy()
    try:
        log_p = apply_temperature(judged, fit_temperature(tuned, data["tune"][1].numpy()))
    except HaltPipeline:
        return None
    failures = (log_p.argmax(axis=1) != labels).astype(np.float64)
    confidence = log_p.max(axis=1)
    return {
        "augrc": augrc(failures, confidence),
        "nll": nll(log_p, labels),
        "ece": ece(np.exp(log_p), labels),
        "auroc_failure": failure_auroc(failures, confidence),
        "accuracy": 1.0 - float(failures.mean()),
    }


def _pooled(found: tuple[Floats, Floats], members: int, passes: int) -> Floats:
    chosen = found[0][:members, None] if passes == 0 else found[1][:members, :passes]
    return np.asarray(logsumexp(chosen, axis=(0, 1)) - np.log(chosen.shape[0] * chosen.shape[1]))


def _cost(ensemble: Ensemble, network: torch.nn.Module, image: Tensor, passes: int) -> float:
    """Median time of one look at one image in units of one deterministic forward of one member, run in turn."""
    eager = network.eval()

    @torch.inference_mode()
    def forward() -> None:
        eager(image)

    def look() -> None:
        if passes == 0:
            ensemble.without_dropout(image)
        else:
            ensemble.sample(image, "cost", passes)

    look()
    pairs = [(_seconds(look), _seconds(forward)) for _ in range(_REPEATS)]
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One picture: AUGRC on tune and on test against cost; colour the placement, mark the rate, size the members."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, 2)
    for place, split in zip(axes, SPLITS, strict=True):
        for placement, rate in SETTINGS:
            for members in sorted({row["members"] for row in rows}):
                _line(place, [r for r in rows if _is(r, placement, rate, members)], split)
        _dress(place, rows, split)
    figure.legend(handles=_legend(axes[0]), frameon=False, fontsize=8, loc="outside right center")
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _is(row: dict[str, Any], placement: str, rate: float, members: int) -> bool:
    return (row["placement"], row["rate"], row["members"]) == (placement, rate, members)


def _line(place: Any, rows: Sequence[dict[str, Any]], split: str) -> None:
    if not rows:
        return
    colour, mark = _COLOURS[rows[0]["placement"]], _MARKS[rows[0]["rate"]]
    cost, value = [r["cost"] for r in rows], [1000 * r[split]["augrc"] for r in rows]
    size = 10 + 22 * rows[0]["members"]
    place.plot(cost, value, color=colour, linewidth=0.7, alpha=0.45)
    place.scatter(cost, value, s=size, color=colour, marker=mark, alpha=0.75, linewidths=0)


def _dress(place: Any, rows: Sequence[dict[str, Any]], split: str) -> None:
    single = 1000 * one_network(rows, split)
    place.axhline(single, color="#777777", linestyle="--", linewidth=1, zorder=0)
    place.annotate(
        "one network without dropout, median",
        (0.99, single),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7,
    )
    place.set_xscale("log")
    place.set_yscale("log")
    place.yaxis.set_major_formatter("{x:g}")
    place.yaxis.set_minor_formatter("{x:g}")
    place.tick_params(which="both", labelsize=8)
    place.set_title(f"{split} split", fontsize=10)
    place.set_xlabel("cost of one look, in deterministic forwards of one member")
    place.set_ylabel("AUGRC x 1000 (lower is better)")
    place.grid(alpha=0.25)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)


def one_network(rows: Sequence[dict[str, Any]], split: str) -> float:
    """AUGRC of one network without dropout at test time: the median over settings, since a mean follows a spoilt one."""
    return statistics.median(r[split]["augrc"] for r in rows if r["members"] == 1 and r["passes"] == 0)


def _legend(place: Any) -> list[Any]:
    handles = [
        place.scatter([], [], s=40, color=_COLOURS[placement], marker=_MARKS[rate], label=f"{placement} {rate}")
        for placement, rate in SETTINGS
    ]
    return [*handles, *(place.scatter([], [], s=10 + 22 * m, color="#999999", label=f"M = {m}") for m in (1, 2, 3))]


if __name__ == "__main__":
    main()
