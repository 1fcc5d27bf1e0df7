"""A release whose sampling is adaptive: fixed on tune, certified as it is deployed, refused when anything of it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from models import release_files
from models.fitting import fit_release
from models.looks import Judge, judge_of, look
from models.preparation import group_cases, one_case_each
from models.release import Release
from models.sampling import Ensemble
from pipeline.errors import HaltPipeline
from pipeline.protocol import Aggregate, Aggregation, Calibration, TriageProtocol
from pipeline.web import words
from pipeline.web.answer import certified_limits
from tests.unit.test_fitting import images, members, protocol

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def asking(**network: object) -> TriageProtocol:
    content = protocol().model_dump(mode="json")
    return TriageProtocol.model_validate(content | {"network": content["network"] | network})


def adaptive() -> TriageProtocol:
    return asking(sampling="adaptive", passes=12)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return fit_release(adaptive(), members(), images(), folder=tmp_path_factory.mktemp("a") / "release", created_at=NOW)


def test_the_rule_lives_in_the_release_and_in_what_its_certificates_depend_on(release: Release) -> None:
    loaded = Release.load(release.folder, release.digest)
    assert loaded.stopping is not None
    assert loaded.stopping.budget == 12
    assert 1 <= len(loaded.stopping.thresholds) <= 2
    assert loaded.policy.sampling == "adaptive"
    assert set(loaded.certificates["routine"].dependencies) >= {"stopping"}


def test_passes_are_saved_and_the_certificate_counts_the_stopped_scores(release: Release) -> None:
    judge, ensemble = judge_of(release), Ensemble.load(release)
    cases = one_case_each(group_cases(images()["certify"], release.protocol))
    judged = [judge.judge_or_none(ensemble, case.parts, case.key, case.series) for case in cases]
    made = [one.passes for one in judged]
    assert min(made) < max(made) == 12
    scores = np.array([one.route_score for one in judged])
    gated = np.array([one.novelty_p <= release.policy.novelty_level for one in judged])
    positive = np.array([case.target in release.protocol.finding_indices for case in cases])
    certain = np.array([one.mutual_information <= release.policy.mutual_information_limit for one in judged])
    for rung in release.certificates["routine"].rungs:
        assert rung.k == int(((scores <= rung.threshold) & ~gated & certain & positive).sum())


def test_a_look_cut_short_afterwards_is_the_look_that_stopped(release: Release) -> None:
    judge, ensemble = judge_of(release), Ensemble.load(release)
    stops = set()
    for case in group_cases(images()["tune"], release.protocol):
        stopped = look(ensemble, case.parts, case.key, judge)
        shortened = judge.shortened(look(ensemble, case.parts, case.key))
        np.testing.assert_array_equal(stopped.samples.log_probabilities, shortened.samples.log_probabilities)
        stops.add(stopped.samples.passes)
    assert min(stops) < 12


@pytest.mark.parametrize(("key", "value"), [("budget", 24), ("error", 0.2), ("thresholds", [0.5]), ("gone", None)])
def test_another_budget_or_rule_beside_the_same_certificates_is_refused(
    release: Release, tmp_path: Path, key: str, value: object
) -> None:
    changed = tmp_path / "changed"
    for path in sorted(release.folder.rglob("*")):
        if path.is_file():
            (changed / path.relative_to(release.folder)).parent.mkdir(parents=True, exist_ok=True)
            (changed / path.relative_to(release.folder)).write_bytes(path.read_bytes())
    meta = json.loads((changed / "release.json").read_text())
    meta["stopping"] = None if key == "gone" else meta["stopping"] | {key: value}
    (changed / "release.json").write_text(json.dumps(meta))
    (changed / "manifest.json").unlink()
    release_files.write_manifest(changed)
    with pytest.raises(HaltPipeline, match="stopping"):
        Release.load(changed)


def test_sampling_that_is_off_is_certified_with_one_look(tmp_path: Path) -> None:
    off = asking(sampling="off")
    found = fit_release(off, members(), images(), folder=tmp_path / "off", created_at=NOW)
    case = group_cases(images()["tune"], off)[0]
    summary, _ = judge_of(found).summaries(look(Ensemble.load(found), case.parts, case.key, judge_of(found)))
    assert (summary.passes, summary.budget, summary.stop, summary.mi_dropout) == (1, 1, "off", 0.0)
    assert (found.policy.sampling, found.stopping) == ("off", None)


def test_shared_calibration_makes_the_entropy_parts_those_of_the_calibrated_pool(tmp_path: Path) -> None:
    shared = protocol().model_copy(update={"calibration": Calibration.SHARED})
    found = fit_release(shared, members(), images(), folder=tmp_path / "shared", created_at=NOW)
    case = group_cases(images()["tune"], shared)[0]
    summary, _ = judge_of(found).summaries(look(Ensemble.load(found), case.parts, case.key, judge_of(found)))
    p = np.array(summary.probabilities)
    assert summary.predictive_entropy == pytest.approx(float(-(p * np.log(p)).sum()))


def test_the_highest_slice_speaks_for_the_study_where_the_protocol_says_so(tmp_path: Path) -> None:
    highest = protocol().model_copy(update={"aggregation": Aggregation(slices=Aggregate.HIGHEST)})
    found = fit_release(highest, members(), images(), folder=tmp_path / "highest", created_at=NOW)
    case = group_cases(images()["tune"], highest)[1]
    seen = look(Ensemble.load(found), case.parts, case.key)
    summary, _ = judge_of(found).summaries(seen)
    p = np.exp(seen.samples.log_probabilities)  # (members, passes, two slices, classes), and class 1 is the finding
    chosen = np.where((p[:, :, 0, 1] >= p[:, :, 1, 1])[..., None], p[:, :, 0], p[:, :, 1])
    sharpened = chosen.mean(axis=(0, 1)) ** (1.0 / found.temperature)
    assert found.protocol.finding_indices == (1,)
    assert summary.probabilities == pytest.approx(sharpened / sharpened.sum())
    assert summary.probabilities != pytest.approx(judge_of_mean(found).summaries(seen)[0].probabilities, rel=1e-6)


def judge_of_mean(release: Release) -> Judge:
    return replace(judge_of(release), protocol=release.protocol.model_copy(update={"aggregation": Aggregation()}))


@pytest.mark.parametrize(
    "asked",
    [
        {"limits": {"strata": "sex"}},
        {"limits": {"strata": "scanner"}},
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(tmp_path: Path, asked: dict[str, dict[str, object]]) -> None:
    content = protocol().model_dump(mode="json")
    content |= {section: content[section] | changes for section, changes in asked.items()}
    setting = next(f"{section}.{name}" for section, changes in asked.items() for name in changes)
    with pytest.raises(HaltPipeline, match=setting):
        fit_release(TriageProtocol.model_validate(content), members(), images(), folder=tmp_path / "r", created_at=NOW)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_sides_share_delta_as_the_protocol_says(tmp_path: Path, share: float) -> None:
    content = protocol().model_dump(mode="json")
    content |= {"limits": content["limits"] | {"delta": 0.2, "priority_share_of_delta": share}}
    asked = TriageProtocol.model_validate(content)
    found = fit_release(asked, members(), images(), folder=tmp_path / "r", created_at=NOW)
    assert found.certificates["priority"].delta == pytest.approx(0.2 * share)
    assert found.certificates["routine"].delta == pytest.approx(0.2 * (1 - share))
    answer = SimpleNamespace(policy={"routine_below": 0.1, "priority_above": 0.9, "certificate_expires": "2027-11-24"})
    said = certified_limits(answer, asked)  # type: ignore[arg-type]
    assert [words.percent(1 - 0.2 * (1 - share)) in said[0], words.percent(1 - 0.2 * share) in said[1]] == [True, True]
