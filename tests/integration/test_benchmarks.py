"""The benchmarks run and print what they promise; how fast anything is, is not asserted here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import run
from pipeline.dicom.reading_speed import pydicom_loop, rescaling_loop, write_series
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.domain.interleaved import as_text, ratios


def test_bench_prints_ratios_with_their_spread_and_baseline(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECONDREAD_ENGINE", "torch")
    assert run(["--home", str(tmp_path), "bench", "--small", "--members", "1", "--repetitions", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(set(row) >= {"name", "ratio", "spread", "baseline"} for row in rows)
    assert all(math.isfinite(row["ratio"]) and row["spread"][0] <= row["ratio"] <= row["spread"][1] for row in rows)
    names = " ".join(row["name"] for row in rows)
    for part in ("2-D", "3-D", "head", "last_stage", "every_block", "one deterministic forward", "JPEG 2000", "RLE"):
        assert part in names


def test_a_ratio_is_the_quotient_of_the_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two repetitions after the warm-up: base takes 2 and 4 seconds, the work 3 and 1."""
    moments = iter([0.0, 2.0, 2.0, 5.0, 5.0, 9.0, 9.0, 10.0])
    monkeypatch.setattr("pipeline.domain.interleaved.time.perf_counter", lambda: next(moments))
    (row,) = ratios(("base", lambda: None), [("work", lambda: None)], 2, {"work": 0.5})
    assert (row.ratio, row.low, row.high, row.reach) == (2.0 / 3.0, 0.25, 1.5, 0.5)
    assert "0.67x" in as_text([row])


def test_the_loops_that_reading_is_measured_against_read_the_same_voxels(tmp_path: Path) -> None:
    files = write_series(tmp_path / "series", 5, 64, None)
    ours = read_series_in_process(files).voxels
    assert (pydicom_loop(files) == ours).all()
    assert (rescaling_loop(files) == ours).all()


@pytest.mark.gpu
def test_the_gpu_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", "--small", "--json"], check=True, capture_output=True, text=True
    )
    rows = json.loads(done.stdout)
    assert len(rows) >= 6
    assert all(row["images_per_second"] > 0 for row in rows)
