"""Prefect's server with the pinned libraries: it builds, and nothing it starts sends statistics."""

import os
import subprocess
import sys
import time
from pathlib import Path

from flows.environment import prepare_environment


def run_with_house_environment(program, home):
    return subprocess.run(
        [sys.executable, "-c", program],
        env={name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        | {"SECONDREAD_HOME": str(home), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_server_application_builds_with_the_pinned_libraries(tmp_path):
    program = (
        "from pathlib import Path; from flows.environment import prepare_environment;"
        f"prepare_environment(Path({str(tmp_path)!r}));"
        "from prefect.server.api.server import create_app; app = create_app(ephemeral=True);"
        "print(sum(1 for route in app.routes))"
    )

    built = run_with_house_environment(program, tmp_path)

    assert built.returncode == 0, built.stderr[-2000:]
    assert int(built.stdout.split()[-1]) > 0


def test_prefect_sends_no_statistics_and_keeps_its_files_in_the_home(tmp_path):
    program = (
        "from pathlib import Path; from flows.environment import prepare_environment;"
        f"prepare_environment(Path({str(tmp_path)!r}));"
        "from prefect.settings import get_current_settings; s = get_current_settings();"
        "print(s.server.analytics_enabled, s.home, s.results.default_serializer)"
    )

    told = run_with_house_environment(program, tmp_path)

    assert told.stdout.split() == ["False", str(tmp_path / "prefect"), "json"], told.stderr[-2000:]


def test_what_the_user_set_stays_but_telemetry_is_off(tmp_path, monkeypatch):
    for name in ("PREFECT_LOGGING_LEVEL", "DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_HOME"):
        monkeypatch.setenv(name, "true")

    prepare_environment(tmp_path)

    assert os.environ["PREFECT_LOGGING_LEVEL"] == "true"
    assert os.environ["PREFECT_HOME"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_the_embedded_server_leaves_when_its_owner_is_killed(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from flows import prefect_server as s;"
        f"child = s._start(Path({str(tmp_path)!r}), 0); print(child.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        server = int(owner.stdout.readline())
        assert is_running(server)
        owner.kill()
    end = time.monotonic() + 60
    while is_running(server) and time.monotonic() < end:
        time.sleep(0.1)

    assert not is_running(server)


def is_running(process):
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
