"""The house keeps its plan: rings, file sizes, names, version floors."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "models", "flows")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST_FILE = 400


def lint_imports(folder):
    command = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [command, "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy_of_the_house(tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_only_downwards(copy_of_the_house):
    result = lint_imports(copy_of_the_house)

    assert result.returncode == 0, result.stdout


PLANTED = (
    ("pipeline/domain/volume.py", "torch"),
    ("pipeline/domain/case.py", "pipeline.protocol"),
    ("pipeline/intake.py", "sqlalchemy"),
    ("models/networks.py", "mlflow"),
    ("models/networks.py", "pipeline.store.tables"),
    ("pipeline/web/app.py", "models.networks"),
    ("pipeline/review.py", "pipeline.settings"),
    ("pipeline/review.py", "pipeline.triage"),
    ("flows/bootstrap.py", "pydicom"),
    ("models/train.py", "prefect"),
)


def test_every_forbidden_import_is_seen(copy_of_the_house):
    for room, planted in PLANTED:
        path = copy_of_the_house / room
        path.write_text(path.read_text() + f"\nimport {planted}\n")

    said = lint_imports(copy_of_the_house).stdout

    unseen = [(r, p) for r, p in PLANTED if f"{r.removesuffix('.py').replace('/', '.')} -> {p}" not in said]
    assert unseen == []


def test_every_file_holds_one_concept_of_readable_size():
    too_long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > LONGEST_FILE}

    assert too_long == {}


def test_no_file_is_a_grab_bag_and_no_name_stands_twice():
    names = [
        path.stem for path in SOURCES if path.stem not in {"__init__", "__main__"} and "migrations" not in path.parts
    ]

    assert not {"utils", "helpers", "common", "manager", "core", "misc"} & set(names)
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_every_module_opens_with_a_sentence_about_itself():
    silent = [p.name for p in SOURCES if p.stem != "__init__" and not p.read_text().startswith('"""')]

    assert silent == []


def test_no_machine_path_and_no_address_of_an_index_stands_in_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    texts = {
        name: (ROOT / name)
        for name in listed
        if name.endswith((".py", ".toml", ".txt", ".yaml", ".sh")) or name == "Makefile"
    }
    suspicious = re.compile(r"/home/\w|/Users/\w|/root/|extra-index|index-url|pythonhosted")

    found = [
        n for n, p in texts.items() if p.name != "test_house.py" and p.is_file() and suspicious.search(p.read_text())
    ]

    assert found == []


@pytest.mark.parametrize(
    ("package", "floor", "because"),
    [
        ("pydicom", "3.0.2", "path traversal through DICOMDIR"),
        ("torch", "2.10", "memory corruption in weights-only loading"),
        ("monai", "1.6.0", "pickle and zip-slip advisories"),
        ("mlflow", "3.11", "artifact overwrite and missing authorisation"),
        ("prefect", "3.7.5", "remote schema references"),
        ("starlette", "1.0.1", "poisoned Host header"),
        ("sqlalchemy", "2.0.38", "the tested line"),
    ],
)
def test_no_dependency_is_older_than_its_last_known_hole(package, floor, because):
    assert Version(version(package)) >= Version(floor), because


@pytest.mark.parametrize(
    ("package", "below", "because"),
    [
        ("fastapi", "0.151", "the Prefect server does not build"),
        ("sqlalchemy", "2.1", "scheduled Prefect runs are silently never created"),
    ],
)
def test_no_dependency_is_newer_than_what_works_together(package, below, because):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert Version(version(package)) < Version(below), because
    assert any(line.startswith(package) and f"<{below}" in line for line in declared)


def test_constraints_pin_exactly_and_carry_no_address():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]

    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", line) for line in lines)
    assert "torch==2.13.0" in lines
