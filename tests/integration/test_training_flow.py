"""The training flow: members as tasks in processes of their own, a certified release in the registry, in one command."""

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest import mock

import pytest

from flows import cli
from flows.bootstrap import open_house
from pipeline.errors import HaltPipeline
from pipeline.store import alias_rows
from tests.small_house import environment_of, settings_of, tiny_protocol_file, write_phantoms

MODEL = "secondread-brain-tumour-mr"


def secondread(base, *arguments):
    """A command in this process: the heavy libraries are loaded once."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, environment_of(base), clear=True), redirect_stdout(out), redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def secondread_by_itself(base, *arguments):
    return subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *map(str, arguments)],
        env=environment_of(base),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@pytest.fixture(scope="module", autouse=True)
def environment_as_it_was():
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    place = tmp_path_factory.mktemp("training")
    tiny_protocol_file(place)
    write_phantoms(place / "phantoms", ())
    open_house(settings_of(place), create=True).close()
    return place


@pytest.fixture(scope="module")
def labels(base):
    return base / "phantoms" / "labels.csv"


@pytest.fixture(scope="module")
def trained(base, labels):
    done = secondread_by_itself(base, "train", base / "tiny.yaml", labels, "--json")
    assert done.returncode in {0, 1}, done.stderr
    return SimpleNamespace(code=done.returncode, summary=json.loads(done.stdout), progress=done.stderr)


def test_training_prints_the_promised_keys_and_says_when_nothing_is_certified(trained):
    assert {"release", "digest", "certificate", "metrics"} <= set(trained.summary)
    assert trained.summary["certificate"]["certified"] is False
    assert trained.code == 1
    assert "not 8 %" in trained.summary["certificate"]["sentence"]


def test_progress_is_shown_for_every_member_and_stays_off_standard_output(trained):
    for stage in ("prepare", "train member 1/2", "train member 2/2", "calibrate", "certify"):
        assert stage in trained.progress


def test_the_release_is_the_challenger_in_mlflow_and_in_our_own_history(base, trained):
    with open_house(settings_of(base)) as house:
        registered = house.registry.resolve(MODEL, "challenger")
        with house.database.read() as connection:
            ours = alias_rows.current_alias(connection, MODEL, "challenger")

    assert registered.version == ours.version == trained.summary["release"]
    assert registered.digest == ours.release_digest == trained.summary["digest"]


def test_mlflow_holds_parameters_data_digests_and_every_epoch_of_every_member(base, trained):
    from mlflow.tracking import MlflowClient

    with open_house(settings_of(base)) as house:
        run_id = house.registry.resolve(MODEL, "challenger").run_id
        client = MlflowClient(tracking_uri=house.settings.mlflow)
    run = client.get_run(run_id)

    assert run.data.params["network.members"] == "2"
    assert {"data.train", "data.tune", "data.certify"} <= set(run.data.tags)
    assert len(client.get_metric_history(run_id, "member01.tune_nll")) >= 2


def test_the_same_seed_gives_the_same_release_digest_but_for_its_date(base, trained, labels):
    again = secondread_by_itself(base, "train", base / "tiny.yaml", labels, "--json")

    with open_house(settings_of(base)) as house:
        first = house.registry.download(MODEL, trained.summary["release"])
        second = house.registry.download(MODEL, json.loads(again.stdout)["release"])

    assert first.member_digests == second.member_digests
    assert first.temperature == second.temperature


def test_predict_writes_the_promised_columns(base, trained, labels):
    out = base / "predictions.csv"

    done = secondread(base, "predict", "challenger", labels, "--out", out)

    assert done.returncode == 0, done.stderr
    header = out.read_text().splitlines()[0]
    assert header == (
        "path,label,patient,split,p_no_tumour,p_tumour,predictive_entropy,expected_entropy,mi_dropout,mi_member,"
        "novelty_p,route_score,passes,budget,stop"
    )
    assert len(out.read_text().splitlines()) == 1 + 22


def test_evaluate_writes_the_report_with_its_pictures(base, trained, labels):
    few = labels.with_name("test.csv")
    with labels.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    with few.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)

    done = secondread(base, "evaluate", trained.summary["release"], few, "--report", base / "report", "--json")

    assert done.returncode == 0, done.stderr
    assert {path.name for path in (base / "report").iterdir()} >= {"report.json", "report.html", "referral.png"}
    report = json.loads(done.stdout)
    assert {"n", "accuracy", "auc", "nll", "brier", "ece", "aurc", "augrc", "referral", "baselines"} <= set(report)


def test_models_can_be_listed_shown_promoted_and_their_history_told(base, trained):
    listed = json.loads(secondread(base, "models", "list", "--json").stdout)
    assert trained.summary["release"] in {row["version"] for row in listed}
    shown = json.loads(secondread(base, "models", "show", trained.summary["release"], "--json").stdout)
    assert shown["digest"] == trained.summary["digest"]

    moved = secondread(base, "models", "promote", trained.summary["release"], "--as", "anna", "--json")

    assert moved.returncode == 0, moved.stderr
    history = json.loads(secondread(base, "models", "history", "--json").stdout)
    assert (history[-1]["alias"], history[-1]["actor"]) == ("champion", "anna")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "brain-tumour-mr", "nowhere.csv"), "no such labels file"),
        (("train", "liver", "nowhere.csv"), "no protocol named"),
        (("evaluate", "99", "nowhere.csv", "--report", "r"), "no version or alias '99'"),
        (("predict", "champion", "nowhere.csv", "--out", "x.xlsx"), ".csv or .parquet"),
        (("models", "promote", "99"), "no version or alias '99'"),
        (("replay", "nothing"), "no decision"),
    ],
)
def test_what_is_not_there_is_one_line_with_the_cure(base, trained, arguments, said):
    done = secondread(base, *arguments)

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("secondread: ")
    assert "Traceback" not in done.stderr


def test_a_training_process_that_is_killed_is_one_line_naming_memory(base, tmp_path):
    from flows.member_training import member_trainer

    (protocol,) = settings_protocols(base)
    with member_trainer(
        protocol, tmp_path / "absent", seed=1, device="cpu", workers=1, on_epoch=lambda *_: None
    ) as trainer:
        list(trainer._pool.map(abs, [1]))
        for process in list(trainer._pool._processes.values()):
            process.kill()
        with pytest.raises(HaltPipeline, match="memory"):
            trainer.train(0)


def settings_protocols(base):
    with open_house(settings_of(base)) as house:
        return list(house.protocols.values())
