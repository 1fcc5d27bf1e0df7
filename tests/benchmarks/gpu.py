"""The engine on CUDA devices: images per second, share of the bf16 roofline, utilisation, one worker per device.

    python -m tests.benchmarks.gpu [--small] [--json]

The roofline is this device's own bf16 matrix product, measured in the same run; arithmetic is counted by torch. Compared
are the plain loop in float32 and the engine (autocast to bf16), same networks, same passes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from monai.networks.nets import DenseNet121
from torch.utils.flop_counter import FlopCounterMode

from models.backend_choice import Search
from models.dropout_placement import place_dropout
from models.sampling import Ensemble
from pipeline.protocol import Dropout

MEMBERS, PASSES, BATCH = 2, 50, 64
PLACEMENTS = ("head", "last_stage", "every_block")


def main() -> None:
    """Print the rows of every device; exit with 2 where there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("no CUDA device here: run this where there is one\n")
        sys.exit(2)
    found = every_device(asked.small)
    sys.stdout.write(json.dumps(found, indent=1) + "\n" if asked.json else as_text(found))


def every_device(small: bool) -> list[dict[str, Any]]:
    """The rows of all devices at once, one process each: what one of them loses beside the others shows in its rows."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(torch.cuda.device_count()) as pool:
        return [
            row
            for rows in pool.starmap(one_device, [(k, small) for k in range(torch.cuda.device_count())])
            for row in rows
        ]


def one_device(index: int, small: bool) -> list[dict[str, Any]]:
    """Rows of one device, 2-D and 3-D, each placement."""
    torch.cuda.set_device(index)
    peak = roofline(2048 if small else 8192)
    passes, rows = 10 if small else PASSES, []
    for dimensions, side in ((2, 64 if small else 224), (3, 32 if small else 96)):
        parts = torch.randn(4 if small else BATCH // (1 if dimensions == 2 else 8), 1, *(side,) * dimensions)
        rows += [measured(index, placement, parts, peak=peak, passes=passes) for placement in PLACEMENTS]
    return rows


def measured(index: int, placement: str, parts: torch.Tensor, *, peak: float, passes: int) -> dict[str, Any]:
    """One row: the engine's images per second and what the plain loop and the roofline make of it."""
    networks, dimensions = [], parts.dim() - 2
    for _ in range(MEMBERS):
        network = DenseNet121(dimensions, 1, 2).eval()
        place_dropout(network, Dropout.model_validate({"placement": placement, "rate": 0.2}), dimensions)
        networks.append(network)
    engine = Ensemble(networks, passes, f"cuda:{index}", search=Search())
    engine.check(parts.shape[2:])
    member = engine._members[0]
    shown = parts.to(f"cuda:{index}")
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        member.network(shown)
    seconds = median_seconds(lambda: engine.sample(parts, "case"))
    plain = median_seconds(lambda: [one.plain_passes(shown, range(3)) for one in engine._members]) / 3 * passes
    return {
        "device": torch.cuda.get_device_name(index),
        "name": f"DenseNet121 {dimensions}-D, dropout in {placement}, {MEMBERS} x {passes} passes",
        "engine": engine.engine,
        "images_per_second": len(parts) / seconds,
        "against_the_plain_loop": seconds / plain,
        "share_of_roofline_of_one_forward_per_member": counted.get_total_flops() * MEMBERS / seconds / peak,
        "utilisation": utilisation(index),
        "peak_memory_mb": torch.cuda.max_memory_allocated(index) / 2**20,
    }


def roofline(side: int) -> float:
    """Operations per second of this device's bf16 matrix product."""
    one, other = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: one @ other, repetitions=20)


def median_seconds(work: Callable[[], object], repetitions: int = 5) -> float:
    """The median time of `work` with the device idle before and after."""
    taken = []
    for _ in range(repetitions + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def utilisation(index: int) -> int | None:
    """Percent of the last second in which the device was busy, where the driver's library says it."""
    try:
        return int(torch.cuda.utilization(index))
    except (ImportError, RuntimeError):
        return None


def as_text(rows: list[dict[str, Any]]) -> str:
    """One line per row."""
    return "".join(
        f"{row['images_per_second']:10.1f} images/s, {row['against_the_plain_loop']:.3f}x the plain loop, "
        f"{row['share_of_roofline_of_one_forward_per_member']:.1%} of the bf16 roofline, "
        f"{row['peak_memory_mb']:.0f} MB  {row['name']} on {row['device']} by {row['engine']}\n"
        for row in rows
    )


if __name__ == "__main__":
    main()
