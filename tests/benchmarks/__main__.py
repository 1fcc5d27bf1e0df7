"""`make bench`: every figure is a ratio against a baseline timed in the same run, repetitions interleaved, medians.

Only ratios travel between machines; a wide spread says that this one was busy.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
import torch

from models.networks import build_network
from models.sampling import Ensemble
from pipeline.dicom.phantoms import PhantomPlan, generate_phantoms
from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.protocol import load_protocol

REPETITIONS = 7
Work = Callable[[], object]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        series = one_series(Path(folder))
        rows = [*sampling_rows(), *reading_rows(series)]
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    for row in rows:
        sys.stdout.write(
            f"{row['ratio']:8.2f}x  [{row['spread'][0]:.2f} to {row['spread'][1]:.2f}]  {row['name']}, against {row['baseline']}\n"
        )


def sampling_rows() -> list[dict]:
    rows = []
    for name in ("brain-tumour-mr", "brain-tumour-slice"):
        protocol = load_protocol(name)
        networks = [build_network(protocol).eval() for _ in range(protocol.network.members)]
        ensemble = Ensemble(networks, protocol.network.passes)
        size = protocol.preprocessing.size[3 - protocol.network.dimensions :]
        parts = torch.randn(8 if protocol.network.dimensions == 2 else 1, 1, *size)
        count = f"{protocol.network.members} members x {protocol.network.passes} passes"
        loop = naive_loop(networks, parts, protocol.network.passes)
        engine = lambda e=ensemble, p=parts: e.sample(p, "case")  # noqa: E731
        forwards = deterministic(networks, parts)
        rows.append(ratio(f"{name}: {count}, cut at the first dropout", engine, "the plain loop", loop))
        rows.append(ratio(f"{name}: {count}, cut at the first dropout", engine, "one forward per member", forwards))
    return rows


def naive_loop(networks: list[torch.nn.Module], parts: torch.Tensor, passes: int) -> Work:
    def run() -> None:
        with torch.inference_mode():
            for network in networks:
                for module in network.modules():
                    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                        module.train()
                for _ in range(passes):
                    network(parts)
                network.eval()

    return run


def deterministic(networks: list[torch.nn.Module], parts: torch.Tensor) -> Work:
    def run() -> None:
        with torch.inference_mode():
            for network in networks:
                network(parts)

    return run


def one_series(folder: Path) -> list[Path]:
    study = generate_phantoms(folder, PhantomPlan.small(), seed=1)[0]
    files = sorted(Path(study.folder).rglob("*.dcm"))
    series = {pydicom.dcmread(f, stop_before_pixels=True).SeriesInstanceUID: [] for f in files}
    for f in files:
        series[pydicom.dcmread(f, stop_before_pixels=True).SeriesInstanceUID].append(f)
    return max(series.values(), key=len)


def reading_rows(series: list[Path]) -> list[dict]:
    import hashlib

    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in series]
    plain = lambda: [pydicom.dcmread(path).pixel_array.astype("float32") for path in series]  # noqa: E731
    ours = lambda: read_series_in_process(series, digests)  # noqa: E731
    name = f"{len(series)} slices, digests verified, to a sorted volume"
    with Sandbox() as sandbox:
        limited = lambda: sandbox.read_series(series, digests)  # noqa: E731
        return [
            ratio(name, ours, "a plain pydicom loop", plain),
            ratio(f"{name} in the limited child", limited, "the same in process", ours),
        ]


def ratio(name: str, work: Work, baseline: str, base: Work) -> dict:
    work(), base()
    pairs = [(timed(work), timed(base)) for _ in range(REPETITIONS)]
    ratios = sorted(a / b for a, b in pairs)
    return {"name": name, "ratio": statistics.median(ratios), "spread": [ratios[0], ratios[-1]], "baseline": baseline}


def timed(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
