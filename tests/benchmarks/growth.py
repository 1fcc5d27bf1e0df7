"""The whole triage from a folder of DICOM to routed rows, for more and more studies: what one study costs, and where.

    python -m tests.benchmarks.growth HOME [--studies 100 1000 10000] [--json]

HOME is a house with a champion, as `secondread demo --home HOME` leaves it; it is copied, never changed. Every size runs
in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KEPT = ("mlflow.db", "mlflow-artifacts", "releases", "secondread.db", "secret.key", "engine.json")


def main() -> None:
    """Measure each size in a child process and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--studies", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--one", action="store_true", help="measure the one size here and print JSON")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        sys.stdout.write(json.dumps(measured(asked.home, asked.studies[0])) + "\n")
        return
    found = [in_its_own_process(asked.home, studies) for studies in asked.studies]
    sys.stdout.write(json.dumps(found, indent=1) + "\n" if asked.json else as_text(found))


def in_its_own_process(home: Path, studies: int) -> dict[str, Any]:
    """One row."""
    command = [sys.executable, "-m", "tests.benchmarks.growth", str(home), "--studies", str(studies), "--one"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measured(template: Path, studies: int) -> dict[str, Any]:
    """Generate, take in, triage; seconds per study of each stage, and this process' peak of memory."""
    from flows.bootstrap import open_house
    from flows.prefect_server import prefect_server
    from flows.receiving import take_in
    from flows.triage_flow import run_triage
    from pipeline.dicom.phantom_plan import PhantomPlan, StreamEntry
    from pipeline.dicom.phantoms import generate_phantoms
    from pipeline.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        for name in KEPT:
            source = template / name
            if source.exists():
                shutil.copytree(source, home / name) if source.is_dir() else shutil.copy(source, home / name)
        (home / "blobs").mkdir()
        stream = tuple(StreamEntry(finding=number % 2 == 0) for number in range(studies))
        generate_phantoms(Path(folder) / "sent", PhantomPlan(splits=(), stream=stream), seed=studies)
        with open_house(Settings(home=home), create=True) as house:
            started = time.perf_counter()
            take_in(house, Path(folder) / "sent", source="growth")
            taken = time.perf_counter() - started
            with prefect_server(home):
                started = time.perf_counter()
                summary = run_triage(house, seal_now=True)
                triaged = time.perf_counter() - started
    stages = {stage: spent / studies for stage, spent in summary["seconds"].items()}
    return {
        "studies": studies,
        "decided": summary["decided"],
        "taking_in_per_study": taken / studies,
        "triage_per_study": triaged / studies,
        "stages_per_study": stages,
        "flow_over_analysis": triaged / max(summary["seconds"].get("analysis", 0.0), 1e-9),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "routes": summary["routes"],
    }


def as_text(rows: list[dict[str, Any]]) -> str:
    """One line per size, and the stages of it."""
    lines = []
    for row in rows:
        lines.append(
            f"{row['studies']:>6} studies: {row['taking_in_per_study'] * 1e3:.0f} ms to take in, "
            f"{row['triage_per_study'] * 1e3:.0f} ms to triage each, {row['flow_over_analysis']:.2f}x the analysis alone, "
            f"peak {row['peak_mb']:.0f} MB"
        )
        whole = row["stages_per_study"]["all"]
        shares = ", ".join(
            f"{stage} {spent / whole:.1%}" for stage, spent in row["stages_per_study"].items() if stage != "all"
        )
        lines.append(f"        {shares}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
