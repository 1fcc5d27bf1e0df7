"""No engine runs here: the files are held against the compose schema and against the promises made about them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.hospital import load_hospital
from pipeline.settings import Settings

DOCKER = Path(__file__).parents[2] / "docker"
OURS = ("prefect", "mlflow", "init", "worker", "intake", "receiver", "reading-room")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def targets():
    return re.findall(r"^FROM .* AS (\S+)$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)


def schema_check(path):
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "-o", "json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_compose_file_keeps_the_compose_schema():
    result = schema_check(DOCKER / "compose.yaml")

    assert json.loads(result.stdout)["status"] == "ok", result.stdout


def test_the_schema_check_sees_a_misspelt_key(compose, tmp_path):
    broken = dict(compose, services={"postgres": {"imagine": "postgres:15"}})
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(broken))

    assert schema_check(tmp_path / "compose.yaml").returncode != 0


def test_every_service_builds_a_target_that_exists(compose, targets):
    built = {name: service["build"]["target"] for name, service in compose["services"].items() if "build" in service}

    assert set(built) == set(OURS)
    assert set(built.values()) <= set(targets)


@pytest.mark.parametrize("name", OURS)
def test_every_process_of_ours_is_unprivileged_on_a_read_only_file_system(compose, name):
    service = compose["services"][name]

    assert service["read_only"] is True
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_image_switches_to_an_unprivileged_user_before_any_entry_point():
    lines = (DOCKER / "Dockerfile").read_text().splitlines()

    first_entry = next(i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT"))

    assert "USER 10001:10001" in lines[:first_entry]
    assert not any(line.startswith("USER") for line in lines[first_entry:])


def test_every_long_running_process_has_a_health_check(compose):
    stages = re.split(r"^FROM .* AS ", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    checked = {stage.split()[0] for stage in stages[1:] if "HEALTHCHECK" in stage}

    assert {"worker", "receiver", "reading-room", "mlflow", "prefect"} <= checked
    assert "healthcheck" in compose["services"]["postgres"]


def test_no_password_stands_in_the_files_and_no_port_is_open_to_the_network(compose):
    text = (DOCKER / "compose.yaml").read_text()

    passwords = re.findall(r"://secondread:(.*?)@", text) + re.findall(r"POSTGRES_PASSWORD: \"(.*)\"", text)

    assert passwords == ["${POSTGRES_PASSWORD:?set it in .env}"] * 4
    assert re.search(r"^POSTGRES_PASSWORD=$", (DOCKER / "env.example").read_text(), flags=re.MULTILINE)
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_every_setting_and_secret_is_one_that_is_read(compose):
    services = compose["services"].values()
    given = {name for service in services for name in service.get("environment", {}) if name.startswith("SECONDREAD_")}
    read = {f"SECONDREAD_{field}".upper() for field in Settings.model_fields}

    assert {"SECONDREAD_HOSPITAL", "SECONDREAD_RESERVE_MB", "SECONDREAD_HOME"} <= given <= read
    assert {name.upper() for name in compose["secrets"]} == {"SECONDREAD_DOOR_TOKEN"} <= read


def test_every_variable_of_the_compose_file_stands_in_the_example_with_its_default():
    used = dict(re.findall(r"\$\{(\w+):-(.*?)\}", (DOCKER / "compose.yaml").read_text()))

    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / "env.example").read_text(), flags=re.MULTILINE))

    assert used == {name: value for name, value in example.items() if name != "POSTGRES_PASSWORD"}


@pytest.mark.parametrize("name", ["worker", "receiver", "reading-room"])
def test_who_speaks_with_the_hospital_reads_its_file_and_cannot_change_it(compose, name):
    service = compose["services"][name]

    assert service["environment"]["SECONDREAD_HOSPITAL"] == "/etc/secondread/hospital.yaml"
    assert "${HOSPITAL_FOLDER:-./hospital}:/etc/secondread:ro" in service["volumes"]


def test_only_the_reading_room_holds_the_token_of_the_door_and_no_variable_does(compose):
    holders = [name for name, service in compose["services"].items() if "secrets" in service]

    assert holders == ["reading-room"]
    assert "DOOR_TOKEN" not in str([service.get("environment") for service in compose["services"].values()])


def test_the_receiver_is_published_where_the_example_of_the_hospital_listens(compose):
    reception = load_hospital(DOCKER / "hospital.example.yaml").reception
    stage = (DOCKER / "Dockerfile").read_text().split("AS receiver")[1].split("FROM")[0]

    assert compose["services"]["receiver"]["ports"] == [f"127.0.0.1:{reception.port}:{reception.port}"]
    assert reception.bind == "0.0.0.0"
    assert stage.count(str(reception.port)) == 2
    assert 'CMD ["receive"]' in stage
