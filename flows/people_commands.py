"""Commands about who may come into the reading room: people add, list, disable, enable, reset."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from flows.bootstrap import House, open_house
from flows.console import say, show_facts, show_json, show_table
from pipeline.settings import read_settings

app = typer.Typer(no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Name = Annotated[str, typer.Argument(help="Name of the account.")]
ACTOR = "command line"


@app.command()
def add(
    name: Name,
    role: Annotated[
        str, typer.Option(help="viewer, reader, adjudicator, lead, data_scientist, admin or service.")
    ] = "reader",
    specialty: Annotated[list[str] | None, typer.Option(help="What it reads; repeatable; default everything.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an account; its password is printed once."""
    from flows.accounts import make_account

    with open_house(read_settings()) as house:
        password = make_account(house, name, role=role, specialties=specialty, actor=ACTOR)
    facts = {"user": name, "role": role, "password": password}
    if as_json:
        show_json(facts)
    else:
        show_facts("The account is made", {key: value for key, value in facts.items() if value})


@app.command("list")
def list_people(as_json: AsJson = False) -> None:
    """Everybody who may come in, and who was shut out."""
    from pipeline.store import people_rows

    with open_house(read_settings()) as house, house.database.read() as connection:
        people = people_rows.list_people(connection)
    rows: list[dict[str, Any]] = [
        {
            "name": person.name,
            "role": person.role.value,
            "specialties": list(person.specialties),
            "second_factor": person.second_factor,
            "disabled": person.disabled,
            "signed_in_at": None if person.signed_in_at is None else person.signed_in_at.isoformat(),
        }
        for person in people
    ]
    if as_json:
        show_json(rows)
    else:
        show_table("people", ("name", "role", "specialties", "second factor", "shut out", "signed in"), map(_row, rows))


def _row(person: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(", ".join(value) if isinstance(value, list) else value or "" for value in person.values())


@app.command()
def disable(name: Name) -> None:
    """Shut an account out at once."""
    _set_disabled(name, disabled=True)
    say(f"{name} is shut out; every session has ended.")


@app.command()
def enable(name: Name) -> None:
    """Let an account in again."""
    _set_disabled(name, disabled=False)
    say(f"{name} may come in again.")


@app.command()
def reset(
    name: Name,
    second_factor: Annotated[bool, typer.Option("--second-factor", help="Remove the second factor too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give an account a new password, printed once."""
    from pipeline import membership

    now = datetime.now(UTC)
    with open_house(read_settings()) as house:
        account_id = _id_of(house, name)
        password = membership.reset_password(house.database, actor=ACTOR, account_id=account_id, now=now)
        if second_factor:
            membership.remove_second_factor(house.database, actor=ACTOR, account_id=account_id, now=now)
    facts = {"user": name, "password": password}
    if as_json:
        show_json(facts)
    else:
        show_facts("The password is new", facts)


def _id_of(house: House, name: str) -> str:
    from pipeline.store import people_rows

    with house.database.read() as connection:
        return people_rows.person_named(connection, name).id


def _set_disabled(name: str, *, disabled: bool) -> None:
    from pipeline import membership

    with open_house(read_settings()) as house:
        membership.set_disabled(house.database, ACTOR, _id_of(house, name), disabled=disabled, now=datetime.now(UTC))
