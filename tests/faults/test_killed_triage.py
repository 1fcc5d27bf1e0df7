"""A triage run that is killed half way: nothing is lost, nothing is decided twice, everything is decided."""

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from flows.bootstrap import open_house
from flows.promotion_flow import promote
from flows.receiving import take_in
from pipeline.dicom.phantoms import StreamEntry
from pipeline.store import audit_rows, conservation
from tests.small_house import (
    environment_of,
    register_small_release,
    settings_of,
    tiny_protocol_file,
    write_phantoms,
)

STUDIES = 12
PATIENCE_S = 300


@pytest.fixture
def base(tmp_path):
    """A house with a champion and a dozen studies taken in."""
    tiny_protocol_file(tmp_path, passes=100)
    write_phantoms(tmp_path / "phantoms", (StreamEntry(finding=True), StreamEntry(finding=False)) * (STUDIES // 2))
    with open_house(settings_of(tmp_path), create=True) as house:
        version = register_small_release(house, tmp_path / "phantoms" / "labels.csv")
        promote(house, next(iter(house.protocols.values())), version, actor="test", reason="for the test")
        take_in(house, tmp_path / "phantoms" / "stream", source="test")
    return tmp_path


def triage(base, **options):
    command = [sys.executable, "-c", "from flows.cli import main; main()", "triage", "--seal-now", "--json"]
    environment = environment_of(base, SECONDREAD_LEASE_SECONDS="3", SECONDREAD_CHUNK_SIZE="4")
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def state_of(base):
    with open_house(settings_of(base)) as house, house.database.read() as connection:
        return conservation.status(connection, datetime.now(UTC))


def wait_for_decisions(base, running, least):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        decided = sum(state_of(base)["cases"].values())
        if decided >= least:
            return decided
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.05)
    raise AssertionError("nothing was decided")


def test_a_killed_run_loses_nothing_and_the_next_one_decides_the_rest_once(base):
    first = triage(base)
    decided = wait_for_decisions(base, first, 3)
    first.send_signal(signal.SIGKILL)
    first.communicate()

    after_kill = state_of(base)
    assert after_kill["instances"]["unaccounted"] == 0
    assert sum(after_kill["cases"].values()) + after_kill["studies"]["unrouted"] == STUDIES
    assert after_kill["studies"]["unrouted"] > 0, "it was not killed half way"

    second = triage(base)
    out, err = second.communicate(timeout=PATIENCE_S)

    assert second.returncode == 0, err
    summary = json.loads(out)
    assert summary["decided"] == STUDIES - sum(after_kill["cases"].values()) <= STUDIES - decided
    state = state_of(base)
    assert state["instances"]["unaccounted"] == state["studies"]["unrouted"] == 0
    assert sum(state["cases"].values()) == state["studies"]["sealed"] == STUDIES
    with open_house(settings_of(base)) as house, house.database.read() as connection:
        assert list(audit_rows.verify_chain(connection)) == []
