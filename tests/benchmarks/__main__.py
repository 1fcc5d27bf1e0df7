"""`make bench`: every figure is a ratio against a baseline timed in the same run, repetitions interleaved, medians.

    python -m tests.benchmarks [--members 2] [--repetitions 5] [--device-threads 1] [--small] [--out build/bench]

Only ratios travel between machines; a wide spread says that this one was busy. The rows are printed as they are found and
written as JSON beside.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from models.backend_choice import Search
from models.sampling_speed import sampling_rows
from pipeline.dicom.reading_speed import reading_rows
from pipeline.domain.interleaved import Row, as_text
from tests.benchmarks.reading_peers import peer_readers
from tests.benchmarks.sampling_peers import peer_samplers


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []

    def told(row: Row) -> None:
        rows.append(row)
        sys.stdout.write(as_text([row]))
        sys.stdout.flush()
        (asked.out / "bench.json").write_text(json.dumps([one.as_dict() for one in rows], indent=1) + "\n", "utf-8")

    for row in reading_rows(repetitions=asked.repetitions, small=asked.small, peers=peer_readers):
        told(row)
    search = Search(memory=asked.out / "engine.json")
    given = {"members": asked.members, "repetitions": asked.repetitions, "small": asked.small}
    for row in sampling_rows(search, **given, peers=peer_samplers):
        told(row)


if __name__ == "__main__":
    main()
