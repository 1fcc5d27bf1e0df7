import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import typer

from flows import cli
from flows.bootstrap import open_house
from pipeline.errors import HaltPipeline
from pipeline.settings import Settings

COMMANDS = (
    *("init", "doctor", "status", "audit", "models", "demo"),
    *("ingest", "triage", "watch", "replay", "export"),
    *("receive", "pull", "deliver", "reconcile"),
    *("train", "evaluate", "predict", "plan", "whatif"),
    *("serve", "people", "deploy", "work", "bench"),
    *("stop", "rearm", "notify"),
)
HEAVY = ("torch", "monai", "prefect", "mlflow", "fastapi")


@pytest.fixture(autouse=True)
def environment_as_it_was(monkeypatch):
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDREAD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ready(home):
    open_house(Settings(home=home), create=True).close()
    return home


def printed(capsys, *arguments, code=0):
    assert cli.run(list(arguments)) == code
    return json.loads(capsys.readouterr().out)


def complaint(capsys, *arguments):
    assert cli.run(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


def test_every_command_of_the_plan_is_there_and_no_stub_of_a_later_one():
    group = typer.main.get_command(cli.app)

    assert sorted(group.commands) == sorted(COMMANDS)
    assert sorted(group.commands["models"].commands) == ["history", "list", "promote", "rollback", "show"]


def test_every_command_explains_itself(capsys):
    for command in COMMANDS:
        assert cli.run([command, "--help"]) == 0
        assert "Usage: secondread" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["status", "--json"], 0),
        (["doctor", "--quick"], 0),
        (["ingest", "--json", "."], 0),
        (["audit", "verify"], 0),
        (["export", "--all", "--out", "out"], 0),
        (["receive", "--seconds", "0.1"], 0),
        (["pull"], 2),  # nobody is named to fetch from or to send to
        (["deliver"], 2),
        (["reconcile"], 2),
    ],
)
def test_light_commands_load_no_heavy_library(ready, tmp_path, arguments, code):
    (tmp_path / "empty").mkdir()
    (ready / "hospital.yaml").write_text("reception: {port: 0}")
    program = (
        "import sys; from flows import cli; code = cli.run(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], code, file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr.strip().endswith(f"[] {code}"), done.stderr


def test_a_command_without_a_home_names_the_cure(home, capsys):
    assert "secondread init" in complaint(capsys, "status")


def test_a_setting_that_makes_no_sense_is_named(home, capsys, monkeypatch):
    monkeypatch.setenv("SECONDREAD_CHUNK_SIZE", "many")

    assert "SECONDREAD_CHUNK_SIZE" in complaint(capsys, "status")


def test_a_wrong_option_is_one_line(capsys):
    assert "No such option" in complaint(capsys, "status", "--colour")


def test_an_unexpected_error_names_its_type_and_the_way_to_the_traceback(ready, capsys, monkeypatch):
    def break_down():
        raise ZeroDivisionError("JANE^DOE")

    monkeypatch.setattr("flows.house_commands.read_settings", break_down)

    said = complaint(capsys, "status")

    assert "ZeroDivisionError" in said
    assert "--debug" in said
    assert "JANE" not in said


def test_debug_lets_the_traceback_through(ready, monkeypatch):
    def break_down():
        raise ZeroDivisionError

    monkeypatch.setattr("flows.house_commands.read_settings", break_down)

    with pytest.raises(ZeroDivisionError):
        cli.run(["--debug", "status"])


def test_init_makes_a_home_once_and_keeps_its_key(home, capsys):
    printed(capsys, "init", "--json")
    key = (home / "secret.key").read_bytes()
    printed(capsys, "init", "--json")

    assert (home / "secret.key").read_bytes() == key
    assert (home / "secret.key").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700


def test_bench_makes_no_home_and_init_makes_a_private_one_after_it(home, capsys, monkeypatch):
    from monai.networks.nets import DenseNet

    from models.sampling_speed import Setting

    def a_small_network(*given):
        return DenseNet(*given, init_features=4, growth_rate=4, block_config=(1, 1, 1, 1))

    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr("models.sampling_speed.DenseNet121", a_small_network)
    monkeypatch.setattr("models.sampling_speed.SETTINGS", (Setting("head", 5, 0.7),))
    monkeypatch.setattr("pipeline.dicom.reading_speed.reading_rows", lambda **_: [])
    rows = printed(capsys, "bench", "--small", "--members", "1", "--repetitions", "1", "--json")

    assert len(rows) == 6
    assert not home.exists()
    printed(capsys, "init", "--json")
    assert home.stat().st_mode & 0o777 == 0o700


def test_init_makes_an_account_whose_password_is_printed_once(home, capsys):
    made = printed(capsys, "init", "--user", "anna", "--json")

    assert made["user"] == "anna"
    assert len(made["password"]) >= 12
    assert made["password"].encode() not in (home / "secondread.db").read_bytes()


def test_init_refuses_a_second_account_of_one_name(home, capsys):
    cli.run(["init", "--user", "anna"])
    capsys.readouterr()

    complaint(capsys, "init", "--user", "anna")


def test_a_house_with_a_lost_key_is_not_opened_with_a_new_one(ready, capsys):
    (ready / "secret.key").unlink()

    assert "restore" in complaint(capsys, "init")


def test_a_key_that_others_can_read_stops_every_command(ready, capsys):
    (ready / "secret.key").chmod(0o644)

    assert "chmod 600" in complaint(capsys, "status")


def test_a_key_that_was_cut_stops_every_command(ready, capsys):
    (ready / "secret.key").write_bytes(b"short")
    (ready / "secret.key").chmod(0o600)

    assert "32 bytes" in complaint(capsys, "status")


def test_keys_are_of_one_house_and_one_purpose(tmp_path):
    with (
        open_house(Settings(home=tmp_path / "a"), create=True) as one,
        open_house(Settings(home=tmp_path / "b"), create=True) as other,
    ):
        keys = [key for house in (one, other) for key in asdict(house.keys).values()]

    assert len(set(keys)) == len(keys) == 10
    assert {len(key) for key in keys} == {32}


def test_two_protocols_of_one_name_are_refused(tmp_path):
    settings = Settings(home=tmp_path, protocols="brain-tumour-mr,brain-tumour-mr")

    with pytest.raises(HaltPipeline, match="two protocols"):
        open_house(settings, create=True)


def test_status_of_an_empty_house_has_the_promised_keys(ready, capsys):
    state = printed(capsys, "status", "--json")

    assert {"accepted", "quarantined", "duplicate", "unaccounted"} <= set(state["instances"])
    assert {"sealed", "unrouted"} <= set(state["studies"])
    assert state["cases"] == {"PRIORITY": 0, "ROUTINE": 0, "REVIEW": 0, "OUT_OF_SCOPE": 0}
    assert {"oldest_wait_s", "safe_state", "release"} <= set(state)


def test_ingest_of_a_path_that_is_not_there_names_it(ready, capsys):
    assert "nowhere: no such file" in complaint(capsys, "ingest", "nowhere")


def test_ingest_gives_one_object_per_file_and_says_that_something_needs_a_person(ready, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("no image")

    (row,) = printed(capsys, "ingest", str(tmp_path / "note.txt"), "--json", code=1)

    assert row == {"path": str(tmp_path / "note.txt"), "verdict": "quarantined", "reason": "not_dicom", "study": None}


def test_the_audit_trail_is_verified_and_a_break_is_told(ready, capsys):
    cli.run(["init", "--user", "anna"])
    capsys.readouterr()

    assert printed(capsys, "audit", "verify", "--json") == {"intact": True, "problems": []}


def test_a_home_given_on_the_command_line_wins(ready, tmp_path, capsys):
    assert str(tmp_path / "elsewhere") in complaint(capsys, "--home", str(tmp_path / "elsewhere"), "status")


def test_the_demo_refuses_a_folder_with_something_in_it(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")

    assert "not empty" in complaint(capsys, "demo", "--home", str(tmp_path))


def test_watch_takes_what_has_settled_once_and_leaves_the_file(ready, tmp_path, capsys):
    drop = tmp_path / "drop"
    drop.mkdir()
    (drop / "note.txt").write_text("no image")

    assert cli.run(["watch", str(drop), "--rounds", "2", "--every", "0.1", "--settle", "0"]) == 0

    assert capsys.readouterr().out.count("1 files taken in, 1 of them to quarantine") == 1
    assert (drop / "note.txt").exists()


def test_the_doctor_names_what_is_amiss_and_its_cure(home, capsys):
    checks = printed(capsys, "doctor", "--json", code=1)

    absent = next(check for check in checks if check["check"] == "home")
    assert absent["state"] == "amiss"
    assert "secondread init" in absent["cure"]


def test_the_doctor_finds_a_new_house_well_but_for_its_champion(ready, capsys):
    checks = {check["check"]: check for check in printed(capsys, "doctor", "--json", code=0)}

    assert {name for name, check in checks.items() if check["state"] != "well"} <= {"registry", "disk", "reception"}
    assert "no champion" in checks["registry"]["detail"]
    assert checks["sandbox"]["state"] == "well"
