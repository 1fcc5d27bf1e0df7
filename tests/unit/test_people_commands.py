import json

import pytest

from flows import cli
from flows.bootstrap import open_house
from pipeline.settings import Settings


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDREAD_HOME", str(tmp_path / "home"))
    open_house(Settings(home=tmp_path / "home"), create=True).close()
    return tmp_path / "home"


def printed(capsys, *arguments):
    assert cli.run(["people", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_first_administrator_is_made_from_the_command_line(home, capsys):
    made = printed(capsys, "add", "ada", "--role", "admin")

    assert len(made["password"]) == 20
    (person,) = printed(capsys, "list")
    assert (person["name"], person["role"], person["disabled"]) == ("ada", "admin", False)
    assert made["password"].encode() not in (home / "secondread.db").read_bytes()


def test_a_service_is_made_without_a_password(capsys):
    assert printed(capsys, "add", "board", "--role", "service")["password"] == ""


def test_somebody_is_shut_out_let_in_and_given_a_new_password(capsys):
    first = printed(capsys, "add", "dr.okafor")["password"]
    assert cli.run(["people", "disable", "dr.okafor"]) == 0
    capsys.readouterr()
    assert printed(capsys, "list")[0]["disabled"] is True
    assert cli.run(["people", "enable", "dr.okafor"]) == 0
    capsys.readouterr()
    assert printed(capsys, "list")[0]["disabled"] is False
    assert printed(capsys, "reset", "dr.okafor", "--second-factor")["password"] != first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("disable", "nobody"), "no account named 'nobody'"),
        (("add", "x", "--role", "god"), "no role named 'god'"),
        (("reset", "nobody"), "no account named 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_one_line(capsys, arguments, words):
    assert cli.run(["people", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_last_administrator_is_not_shut_out_from_here_either(capsys):
    printed(capsys, "add", "ada", "--role", "admin")
    assert cli.run(["people", "disable", "ada"]) == 2
    assert "last administrator" in capsys.readouterr().err


def test_the_table_is_for_people(capsys):
    printed(capsys, "add", "ada", "--role", "admin")
    assert cli.run(["people", "list"]) == 0
    assert "ada" in capsys.readouterr().out
