"""The README is held against the code: what it promises exists, and what exists is told."""

import re
from itertools import takewhile
from pathlib import Path

import pytest
import typer.main

from flows.cli import app
from pipeline.domain.case import Route
from pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands():
    found = []
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found.extend(f"{name} {sub}" for sub in inner) if inner else found.append(name)
    return found


def told_commands():
    told = []
    for cell in re.findall(r"^\| (`secondread .*?) \|", README, flags=re.MULTILINE):
        for quoted in re.findall(r"`([^`]+)`", cell):
            words = quoted.removeprefix("secondread ").split()
            group = [f"{words[0]} {sub}" for sub in words[1].split("/")] if len(words) > 1 and "/" in words[1] else None
            told.extend(group or [" ".join(takewhile(lambda word: re.fullmatch("[a-z]+", word), words))])
    return told


def test_every_command_is_told():
    assert sorted(set(commands()) - set(told_commands())) == []


def test_every_told_command_exists():
    assert sorted(set(told_commands()) - set(commands())) == []


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_told(field):
    assert f"`SECONDREAD_{field.upper()}`" in README


@pytest.mark.parametrize("route", Route)
def test_every_route_is_told(route):
    assert f"`{route}`" in README


def test_every_file_that_is_pointed_to_is_there():
    pointed = re.findall(r"`((?:pipeline|models|flows|docker)/[\w./-]+)`", README) + re.findall(
        r"\]\(((?:tests|docker)/[^)]+)\)", README
    )

    assert [name for name in pointed if not (ROOT / name).exists()] == []


def test_no_page_calls_a_patient_healthy():
    assert not re.search(r"\b(normal|negative|cleared|healthy)\b", README, flags=re.IGNORECASE)
