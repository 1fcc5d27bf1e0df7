from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from models.promotion import gate
from models.release import Release, ReleaseBody, write_release
from pipeline.domain.certificate import certify
from pipeline.domain.novelty import NoveltyReference
from tests.slice_protocol import slice_protocol

TODAY = date(2026, 11, 23)
METRICS = {"tune_accuracy": 0.9, "tune_nll": 0.3}


def make_release(folder: Path, metrics: Mapping[str, float]) -> Release:
    generator = torch.Generator().manual_seed(0)
    features = np.random.default_rng(0).normal(size=(20, 3))
    body = ReleaseBody(
        protocol=slice_protocol(),
        members=tuple(save({"w": torch.randn(3, generator=generator)}) for _ in range(3)),
        novelty=NoveltyReference.fit({"histogram": features[:10]}, {"histogram": features[10:]}),
        temperature=1.0,
        mutual_information_limit=0.1,
        data={"tune": "bb", "certify": "cc"},
    )
    certificates = {
        side: certify(
            [0.1, 0.9],
            [False, True],
            [0.2, 0.8],
            [False, True],
            ["a", "b"],
            tune_patients=["c", "d"],
            alpha=0.05,
            delta=0.05,
            side=side,
            made_on=TODAY,
            expires_on=date(2027, 11, 23),
            dependencies=body.dependencies,
        )
        for side in ("routine", "priority")
    }
    return write_release(folder, body, certificates, created_at=datetime(2026, 11, 23, tzinfo=UTC), metrics=metrics)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make_release(tmp_path_factory.mktemp("p") / "release", METRICS)


def test_a_sound_release_passes_and_every_check_says_why(release: Release) -> None:
    result = gate(release, today=TODAY)
    assert result.passed
    assert [check.name for check in result.checks] == [
        "digest",
        "certificate_priority",
        "certificate_routine",
        "metrics",
    ]
    assert result.failures == ()
    assert release.certificates["routine"].sentence() in {check.reason for check in result.checks}


@pytest.mark.parametrize("today", [date(2026, 11, 22), date(2027, 11, 24)])
def test_a_certificate_outside_its_days_stops_the_release(release: Release, today: date) -> None:
    result = gate(release, today=today)
    assert not result.passed
    assert len(result.failures) == 2
    assert "certify the release again" in result.failures[0]


def test_the_last_day_of_a_certificate_still_counts(release: Release) -> None:
    assert gate(release, today=date(2027, 11, 23)).passed


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_stops_the_release(release: Release, value: float) -> None:
    result = gate(release, METRICS | {"test_auc": value}, today=TODAY)
    assert result.failures == ("metrics: test_auc is not a finite number; evaluate the release on another split",)


@pytest.mark.parametrize("name", METRICS)
def test_a_missing_metric_stops_the_release(release: Release, name: str) -> None:
    fewer = {key: value for key, value in METRICS.items() if key != name}
    assert gate(release, fewer, today=TODAY).failures[0].startswith(f"metrics: {name} is missing")


def test_a_release_changed_on_disk_stops_and_the_other_checks_are_told(tmp_path: Path) -> None:
    release = make_release(tmp_path / "r", METRICS)
    release.members[0].write_bytes(save({"w": torch.zeros(3)}))
    result = gate(release, today=TODAY)
    assert len(result.checks) == 4
    assert [check.name for check in result.checks if not check.passed] == ["digest"]
    assert "was changed after it was written" in result.failures[0]


def test_a_release_without_its_own_metrics_stops(tmp_path: Path) -> None:
    assert not gate(make_release(tmp_path / "r", {}), today=TODAY).passed


def test_a_release_without_certificates_stops(release: Release) -> None:
    assert not gate(replace(release, certificates={}), today=TODAY).passed
