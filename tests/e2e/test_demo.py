"""The demo as a newcomer runs it; a small plan in every run, the whole one where slow tests are wanted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.bootstrap import open_house
from flows.demo_story import Outcome, Story
from pipeline.dicom.phantoms import Defect
from pipeline.domain.case import Route
from pipeline.settings import Settings
from pipeline.store import account_rows, audit_rows
from tests.small_house import tiny_protocol_file

LONGEST_S = 1500
TRUTHS = {"finding", "no_finding", "unusable", "foreign"}


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SECONDREAD_"))}
    return kept | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}


SMALL = """
import sys
from pathlib import Path
from flows.demo import run_demo
from pipeline.dicom.phantoms import PhantomPlan
if __name__ == "__main__":
    home, protocol = map(Path, sys.argv[1:])
    sys.exit(run_demo(home, seed=7, as_json=True, serve=False, plan=PhantomPlan.small(), protocol=str(protocol)))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    base = tmp_path_factory.mktemp("demo")
    (base / "small.py").write_text(SMALL)
    done = subprocess.run(
        [sys.executable, base / "small.py", base / "home", tiny_protocol_file(base)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_S,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    return SimpleNamespace(home=base / "home", story=json.loads(done.stdout), tiny=base / "tiny.yaml")


def test_the_json_has_the_promised_keys(small):
    story = small.story

    assert set(story["routes"]) == {route.value for route in Route}
    assert all(set(counts) == TRUTHS for counts in story["routes"].values())
    assert {"alpha", "delta", "positives", "misses", "certified", "sentence"} <= set(story["certificate"])
    assert set(story["deferral"]) == {"auc_all", "auc_kept_half"}
    assert {"instances", "studies", "cases"} <= set(story["conservation"])
    assert {"generate", "train", "promote", "ingest", "triage", "evaluate"} <= set(story["seconds"])


def test_every_study_has_one_route_and_every_image_is_accounted_for(small):
    counted = sum(sum(counts.values()) for counts in small.story["routes"].values())

    assert counted == small.story["conservation"]["studies"]["sealed"] == 4 + len(Defect)
    assert small.story["conservation"]["studies"]["unrouted"] == 0
    assert small.story["conservation"]["instances"]["unaccounted"] == 0


def test_no_broken_study_is_routine_and_no_promise_broke(small):
    assert small.story["broken_promises"] == []
    assert small.story["routes"]["ROUTINE"]["unusable"] == 0
    assert small.story["routes"]["ROUTINE"]["foreign"] == 0
    assert small.story["routes"]["OUT_OF_SCOPE"]["foreign"] >= 3


def test_what_was_printed_opens_the_house(small):
    settings = Settings(home=small.home, protocols=str(small.tiny))
    with open_house(settings) as house, house.database.read() as connection:
        assert list(audit_rows.verify_chain(connection)) == []
        stored = account_rows.find_for_sign_in(connection, small.story["account"]["name"])
    assert account_rows.password_matches(stored, small.story["account"]["password"])
    assert (small.home / "report" / "report.html").exists()


def a_story(**outcome):
    study = SimpleNamespace(
        defect="blank", truth="unusable", allowed_routes=("REVIEW",), expected_reasons=("UNREADABLE",)
    )
    decision = {"route": "REVIEW", "reasons": ["UNREADABLE"]} | outcome
    fine = {"instances": {"unaccounted": 0}, "studies": {"unrouted": 0}}
    return Story(
        home=Path("h"),
        seconds={},
        trained={},
        report={},
        status=fine,
        outcomes=[Outcome(study=study, decision=decision if outcome.get("route") != "none" else None)],
        reader="r",
        password="p",
    )


def test_a_broken_study_in_routine_breaks_the_promise():
    assert a_story().broken_promises == []
    assert "went to ROUTINE" in a_story(route="ROUTINE").broken_promises[0]
    assert "never decided" in a_story(route="none").broken_promises[0]
    assert "has the reasons UNCERTAIN" in a_story(reasons=["UNCERTAIN"]).broken_promises[0]


@pytest.mark.slow
def test_the_whole_demo_certifies_a_useful_share_and_gains_from_deferral(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "demo", "--json", "--home", tmp_path / "home"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    story = json.loads(done.stdout)

    assert story["certificate"]["certified"] is True
    assert story["routes"]["ROUTINE"]["no_finding"] >= 5
    assert story["routes"]["PRIORITY"]["finding"] >= 10
    assert story["deferral"]["auc_kept_half"] >= story["deferral"]["auc_all"] >= 0.9
