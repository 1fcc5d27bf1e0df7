from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from flows.releases import neighbours_of
from models.release import Release, write_release
from models.release_files import CERTIFICATION, sha256, verify_one, write_manifest
from pipeline.domain.neighbours import ScoredCases, interval
from pipeline.errors import HaltPipeline
from tests.unit.test_release import NOW, body, certificates

SCORES = np.linspace(0.0, 1.0, 200)  # as the certificates of that test counted
TRUTHS = SCORES > 0.4


def written(folder: Path, cases: ScoredCases | None) -> Release:
    content = body()
    return write_release(folder, content, certificates(content), created_at=NOW, certification=cases)


def test_the_nearest_are_those_with_the_smallest_distance() -> None:
    cases = ScoredCases.of([0.1, 0.5, 0.2, 0.9, 0.35], [False, True, False, True, True])
    found = cases.nearest(0.32, count=3)
    assert found is not None
    assert found.nearest == ((0.2, False), (0.35, True), (0.5, True))
    assert (found.count, found.with_finding, found.span, found.certified) == (3, 2, (0.2, 0.5), 5)


def test_patients_equally_far_away_are_all_taken_or_none() -> None:
    cases = ScoredCases.of([0.25, 0.75, 0.75, 0.75], [False, True, False, True])
    found = cases.nearest(0.5, count=1)
    assert found is not None
    assert (found.count, found.with_finding) == (4, 2)


def test_fewer_patients_than_asked_for_are_all_shown() -> None:
    found = ScoredCases.of([0.2, 0.4], [True, False]).nearest(0.9)
    assert found is not None
    assert found.count == found.certified == 2


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_an_undefined_score_has_no_neighbours(score: float) -> None:
    assert ScoredCases.of(SCORES, TRUTHS).nearest(score) is None
    assert ScoredCases.of([], []).nearest(0.5) is None


def test_cases_without_a_score_are_left_out() -> None:
    cases = ScoredCases.of([0.4, np.nan, 0.2, np.inf], [True, True, False, True])
    assert cases.scores.tolist() == [0.2, 0.4]
    assert cases.truths.tolist() == [False, True]


def test_the_order_of_the_patients_is_lost() -> None:
    rng = np.random.default_rng(5)
    scores, truths = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.5
    shuffled = rng.permutation(60)
    one, other = ScoredCases.of(scores, truths), ScoredCases.of(scores[shuffled], truths[shuffled])
    assert one.scores.tolist() == other.scores.tolist()
    assert one.truths.tolist() == other.truths.tolist()


@pytest.mark.parametrize(("events", "cases"), [(0, 20), (12, 20), (20, 20), (1, 3), (57, 300)])
def test_the_interval_is_the_exact_one(events: int, cases: int) -> None:
    asked = binomtest(events, cases).proportion_ci(0.95, method="exact")
    assert interval(events, cases) == pytest.approx((asked.low, asked.high), abs=1e-12)


def test_the_interval_covers_the_true_rate_near_a_score() -> None:
    """Scores that are calibrated by construction: the interval misses the mean of the neighbours' own rates rarely."""
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(400):
        scores = rng.random(150)
        found = ScoredCases.of(scores, rng.random(150) < scores).nearest(0.5)
        assert found is not None
        rate = float(np.mean([score for score, _ in found.nearest]))
        missed += not found.low <= rate <= found.high
    assert missed <= 32  # P(Binomial(400, 0.05) > 32) < 0.005, and the exact interval misses more rarely than that


def test_a_release_keeps_the_certification_cases_under_its_digest(tmp_path: Path) -> None:
    with_cases, without = written(tmp_path / "r", ScoredCases.of(SCORES, TRUTHS)), written(tmp_path / "o", None)
    assert with_cases.certification is not None
    assert with_cases.certification.scores.tolist() == SCORES.tolist()
    assert without.certification is None
    assert with_cases.digest != without.digest
    assert set(json.loads((tmp_path / "r" / "manifest.json").read_text())["files"]) - set(
        json.loads((tmp_path / "o" / "manifest.json").read_text())["files"]
    ) == {CERTIFICATION}


def test_cases_that_no_certificate_counted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HaltPipeline, match="more cases than its certificates counted"):
        written(tmp_path / "r", ScoredCases.of(SCORES, np.ones(200, dtype=bool)))
    with pytest.raises(HaltPipeline, match="more cases than its certificates counted"):
        written(tmp_path / "s", ScoredCases.of(np.linspace(0, 1, 201), np.zeros(201, dtype=bool)))


@pytest.mark.parametrize(
    "arrays",
    [
        {"scores": np.array([0.2, 0.1]), "truths": np.array([0, 1], dtype=np.uint8)},
        {"scores": np.array([0.2, 1.1]), "truths": np.array([0, 1], dtype=np.uint8)},
        {"scores": np.array([0.2, np.nan]), "truths": np.array([0, 1], dtype=np.uint8)},
        {"scores": np.array([0.2, 0.3]), "truths": np.array([0, 2], dtype=np.uint8)},
        {"scores": np.array([0.2]), "truths": np.array([0, 1], dtype=np.uint8)},
        {"scores": np.array([0.2])},
    ],
)
def test_arrays_that_are_no_scored_cases_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="score"):
        ScoredCases.from_arrays(arrays)


def house_with(folder: Path, cases: ScoredCases | None) -> tuple[SimpleNamespace, str]:
    """A home that keeps one release where the registry puts it."""
    release = written(folder / "draft", cases)
    (folder / "releases").mkdir()
    release.folder.rename(folder / "releases" / release.digest)
    return SimpleNamespace(settings=SimpleNamespace(home=folder)), release.digest


def test_the_room_asks_the_release_that_is_kept_in_the_home(tmp_path: Path) -> None:
    house, digest = house_with(tmp_path, ScoredCases.of(SCORES, TRUTHS))
    found = neighbours_of(house, digest, 0.4)
    assert found is not None
    # 79.6 lies between: the nearest 20 of i / 199 are i = 70 to 89, of which those above 0.4 (i > 79.6) are ten
    assert (found.count, found.with_finding) == (20, 10)
    assert found.span == pytest.approx((70 / 199, 89 / 199))
    assert neighbours_of(house, "0" * 64, 0.4) is None


def test_a_release_without_the_cases_shows_nothing(tmp_path: Path) -> None:
    house, digest = house_with(tmp_path, None)
    assert neighbours_of(house, digest, 0.4) is None


@pytest.mark.parametrize("changed", [CERTIFICATION, "manifest.json"])
def test_changed_cases_are_not_shown(tmp_path: Path, changed: str) -> None:
    house, digest = house_with(tmp_path, ScoredCases.of(SCORES, TRUTHS))
    folder = tmp_path / "releases" / digest
    other = written(tmp_path / "other", ScoredCases.of(SCORES, np.zeros(200, dtype=bool)))
    (folder / CERTIFICATION).write_bytes((other.folder / CERTIFICATION).read_bytes())
    if changed == "manifest.json":
        write_manifest(folder)
    assert neighbours_of(house, digest, 0.4) is None
    with pytest.raises(HaltPipeline):
        verify_one(folder, CERTIFICATION, digest)


def test_one_file_is_read_and_the_weights_are_not(tmp_path: Path) -> None:
    release = written(tmp_path / "r", ScoredCases.of(SCORES, TRUTHS))
    (release.folder / "members" / "00.safetensors").unlink()
    data = verify_one(release.folder, CERTIFICATION, release.digest)
    assert data is not None
    assert json.loads((release.folder / "manifest.json").read_text())["files"][CERTIFICATION] == sha256(data)


def test_asking_for_neighbours_loads_no_torch(tmp_path: Path) -> None:
    house, digest = house_with(tmp_path, ScoredCases.of(SCORES, TRUTHS))
    program = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as N; "
        "from flows.releases import neighbours_of; "
        f"house = N(settings=N(home=Path({str(house.settings.home)!r}))); "
        f"found = neighbours_of(house, {digest!r}, 0.4); "
        "print(found.count, sorted(m for m in ('torch', 'monai', 'mlflow') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "20 []"
