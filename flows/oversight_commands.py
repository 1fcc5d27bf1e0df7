"""Commands of who is in charge: notify, stop, rearm."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from flows.bootstrap import House, open_house
from flows.console import say, show_facts, show_json
from pipeline.errors import NotAllowed
from pipeline.settings import read_settings
from pipeline.store.account_rows import Account

app = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
As = Annotated[str, typer.Option("--as", help="The account that does it; its password is asked for.")]
FromInput = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]


@app.command()
def notify(
    parked_too: Annotated[bool, typer.Option("--parked", help="Also what was given up after three days.")] = False,
    as_json: AsJson = False,
) -> int:
    """Escalate overdue cases and send notices by webhook and mail; exit code 1 when something was not sent."""
    with open_house(read_settings()) as house:
        from flows.notifying import notify_once

        done = notify_once(house, parked_too=parked_too)
    if as_json:
        show_json(done)
    else:
        show_facts("notices", {**done, **done["states"]} | {"states": None})
    return 1 if done["states"]["waiting"] or done["states"]["parked"] else 0


@app.command()
def stop(
    reason: Annotated[str, typer.Argument(help="Why, without any patient's data.")],
    name: As,
    from_input: FromInput = False,
) -> None:
    """Stop automation: from the next decision on every new case goes to readers."""
    with open_house(read_settings()) as house:
        from pipeline.oversight import stop as enter

        person = _proven(house, name, from_input=from_input)
        enter(house.database, person, reason, now=datetime.now(UTC))
    say("Automation is stopped. Every new case goes to readers; arming again takes two people.")


@app.command()
def rearm(
    reason: Annotated[str, typer.Argument(help="Why, without any patient's data.")],
    name: As,
    from_input: FromInput = False,
) -> int:
    """Ask to arm automation again; the second person's request does it. Exit code 1 while a second one is missing."""
    with open_house(read_settings()) as house:
        from pipeline.oversight import ask_to_rearm

        person = _proven(house, name, from_input=from_input, alone=False)
        done = ask_to_rearm(house.database, person, reason, now=datetime.now(UTC))
    if done.armed:
        say(f"Automation is armed again, by {' and '.join(done.people)}.")
        return 0
    say("Noted. A second person has to ask too.")
    return 1


def _proven(house: House, name: str, *, from_input: bool, alone: bool = True) -> Account:
    """The account of that name, whose password was given. Raises NotAllowed, which never says what was wrong.

    Unless a password `alone` is enough, an account with a second factor has to come to the reading room.
    """
    password = sys.stdin.readline().rstrip("\n") if from_input else typer.prompt("Password", hide_input=True)
    from pipeline.store import account_rows, audit_rows

    now = datetime.now(UTC)
    with house.database.read() as connection:
        stored = account_rows.find_for_sign_in(connection, name)
    locked = stored is not None and stored.locked_until is not None and stored.locked_until > now
    right = account_rows.password_matches(stored, password)
    if stored is not None and right and not locked and not stored.disabled:
        if stored.second_factor and not alone:
            raise NotAllowed("this account has a second factor; sign in to the reading room and ask there")
        return stored.account
    if stored is not None and not locked:
        with house.database.transaction() as connection:
            failures = account_rows.record_failure(connection, account_id=stored.account.id, now=now)
            what = {"failures": failures}
            audit_rows.append(connection, at=now, actor=stored.account.name, event="sign_in.refused", payload=what)
    raise NotAllowed("the name or the password is wrong, or the account is locked or closed")
