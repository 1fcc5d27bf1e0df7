"""Commands about the house itself: init, doctor, status, audit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from flows.bootstrap import open_house
from flows.console import say, show_facts, show_json, show_table
from pipeline.settings import read_settings

app = typer.Typer()
audit = typer.Typer(no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def init(
    user: Annotated[str | None, typer.Option(help="Name of the first account; its password is printed once.")] = None,
    role: Annotated[str, typer.Option(help="Role of that account.")] = "reader",
    specialty: Annotated[list[str] | None, typer.Option(help="What it reads; repeatable; default everything.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create the home: database, blobs, key and the first account; also brings an older home up to date."""
    from flows.accounts import make_account

    settings = read_settings()
    with open_house(settings, create=True) as house:
        facts: dict[str, str] = {"home": str(house.settings.home)}
        if user is not None:
            facts |= {"user": user, "password": make_account(house, user, role=role, specialties=specialty)}
    if as_json:
        show_json(facts)
        return
    show_facts("The house is ready", facts)
    if user is None:
        say("Next: `secondread init --user NAME` makes an account for the reading room; `secondread doctor` checks.")


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option(help="Only what takes no time: no child, no chain, no registry.")] = False,
    as_json: AsJson = False,
) -> int:
    """Check everything this house needs and name the cure of what is amiss."""
    from flows.doctor import examine

    checks = examine(read_settings(), quick=quick)
    if as_json:
        show_json([{"check": c.name, "state": c.state, "detail": c.detail, "cure": c.cure} for c in checks])
    else:
        show_table("doctor", ("check", "state", "what", "cure"), [(c.name, c.state, c.detail, c.cure) for c in checks])
    return 1 if any(c.state == "amiss" for c in checks) else 0


@app.command()
def status(as_json: AsJson = False) -> int:
    """Counts by state, conservation, age of the queue; exit code 1 when something is unaccounted for or stopped."""
    from pipeline.store import conservation

    with open_house(read_settings()) as house, house.database.read() as connection:
        state = conservation.status(connection, datetime.now(UTC))
    if as_json:
        show_json(state)
    else:
        show_facts("status", _flat(state))
    return 1 if state["instances"]["unaccounted"] or state["safe_state"] else 0


@audit.command()
def verify(as_json: AsJson = False) -> int:
    """Recompute the hash chain of the audit trail; exit code 1 when it does not hold."""
    from pipeline.store import audit_rows

    with open_house(read_settings()) as house:
        problems = audit_rows.verify_trail(house.database)
    if as_json:
        show_json({"intact": not problems, "problems": problems})
    elif problems:
        show_table("audit trail", ("problem",), [(problem,) for problem in problems])
    else:
        say("The audit trail is intact.")
    return 1 if problems else 0


def _flat(state: dict[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            flat |= {f"{name}: {key}": inner for key, inner in _flat(value).items()}
        else:
            flat[name] = value
    return flat
