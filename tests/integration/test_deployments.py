"""The scheduled triage for real: a server, a cron deployment, a worker that executes one run."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from flows.bootstrap import open_house
from pipeline.settings import Settings

PATIENCE_S = 240


def secondread(*arguments, environment, **options):
    return subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        **options,
    )


def asked(address, path, body=None):
    request = Request(
        address + path, data=json.dumps(body or {}).encode(), headers={"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def eventually(look):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(1)
    raise AssertionError("it did not happen")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("deployments")


@pytest.fixture(scope="module")
def environment(place):
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SECONDREAD_"))},
        "SECONDREAD_HOME": str(place / "home"),
        "PREFECT_HOME": str(place / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONPATH": str(Path.cwd()),
    }


@pytest.fixture(scope="module")
def server(place, environment):
    port = free_port()
    log = (place / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}/api"

    def healthy():
        assert process.poll() is None, (place / "server.log").read_text()[-2000:]
        try:
            return urlopen(f"{address}/health", timeout=2).status == 200
        except OSError:
            return False

    eventually(healthy)
    yield address
    stop(process)
    log.close()


@pytest.fixture(scope="module")
def deployed(server, environment, place):
    open_house(Settings(home=place / "home"), create=True).close()
    done = secondread(
        "deploy", "--cron", "*/5 * * * *", "--json", environment=environment | {"PREFECT_API_URL": server}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_cron_deployment_gets_its_runs_scheduled(server, deployed):
    def scheduled():
        return asked(server, "/flow_runs/filter", {"deployments": {"id": {"any_": [deployed["id"]]}}})

    runs = eventually(scheduled)

    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    assert all(run["auto_scheduled"] for run in runs)
    assert all(int(run["expected_start_time"][14:16]) % 5 == 0 for run in runs)


def test_a_hospital_with_a_pacs_and_destinations_gets_its_flows_scheduled(server, deployed, environment, place):
    node = {"kind": "dimse", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    hospital = {"archive": {"node": node, "retrieve": "get"}, "results": {"pacs": [{"name": "back", "node": node}]}}
    (place / "home" / "hospital.yaml").write_text(json.dumps(hospital))
    done = secondread("deploy", "--json", environment=environment | {"PREFECT_API_URL": server})
    (place / "home" / "hospital.yaml").unlink()
    assert done.returncode == 0, done.stderr
    assert {"pull", "deliver", "reconcile"} <= set(json.loads(done.stdout))
    for name in ("pull", "deliver", "reconcile"):
        found = json.loads(urlopen(f"{server}/deployments/name/{name}/scheduled", timeout=20).read())
        assert [schedule["active"] for schedule in found["schedules"]] == [True]


def test_no_parameter_of_a_scheduled_run_can_hold_patient_data(server, deployed):
    deployment = json.loads(urlopen(f"{server}/deployments/{deployed['id']}", timeout=20).read())

    assert set(deployment["parameter_openapi_schema"]["properties"]) == {"wait", "seal_now"}


def test_a_worker_executes_a_run_to_its_end(server, deployed, environment, place):
    run = asked(server, f"/deployments/{deployed['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    log = (place / "worker.log").open("w")
    worker = subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", "work"],
        env=environment | {"PREFECT_API_URL": server},
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=place,
    )

    def finished():
        assert worker.poll() is None, (place / "worker.log").read_text()[-2000:]
        state = json.loads(urlopen(f"{server}/flow_runs/{run['id']}", timeout=20).read())["state"]
        return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED"} else None

    try:
        state = eventually(finished)
    finally:
        stop(worker)
        log.close()

    assert state["type"] == "COMPLETED", state
    artifacts = asked(server, "/artifacts/filter", {})
    assert {"triage-report", "triage-reasons"} <= {artifact["key"] for artifact in artifacts}


def test_deploying_again_changes_the_schedule_and_makes_no_second_deployment(server, deployed, environment):
    again = secondread("deploy", "--cron", "0 * * * *", "--json", environment=environment | {"PREFECT_API_URL": server})

    assert json.loads(again.stdout)["id"] == deployed["id"]
    deployment = json.loads(urlopen(f"{server}/deployments/{deployed['id']}", timeout=20).read())
    assert [schedule["schedule"]["cron"] for schedule in deployment["schedules"]] == ["0 * * * *"]


def test_a_schedule_that_is_no_cron_expression_is_one_line(server, deployed, environment):
    done = secondread("deploy", "--cron", "every monday", environment=environment | {"PREFECT_API_URL": server})

    assert done.returncode == 2
    assert "not a cron expression" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_does_not_answer_is_one_line(environment, deployed):
    address = f"http://127.0.0.1:{free_port()}/api"

    done = secondread("deploy", environment=environment | {"PREFECT_API_URL": address})

    assert done.returncode == 2
    assert "PREFECT_API_URL" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_worker_without_a_server_starts_its_own_and_schedules_triage(environment, tmp_path):
    open_house(Settings(home=tmp_path / "home"), create=True).close()
    alone = environment | {"SECONDREAD_HOME": str(tmp_path / "home"), "PREFECT_HOME": str(tmp_path / "prefect")}
    worker = subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", "work"],
        env=alone,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def scheduled():
        assert worker.poll() is None
        try:
            with closing(sqlite3.connect(f"file:{tmp_path}/prefect/prefect.db?mode=ro", uri=True)) as database:
                return database.execute("SELECT count(*) FROM flow_run WHERE auto_scheduled").fetchone()[0]
        except sqlite3.OperationalError:
            return 0

    try:
        assert eventually(scheduled) > 0
    finally:
        stop(worker)
