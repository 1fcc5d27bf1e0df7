"""Commands of the registry: list, show, promote, rollback, history."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.bootstrap import open_house
from flows.console import say, show_facts, show_json, show_table
from pipeline.settings import read_settings

app = typer.Typer(no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
ProtocolName = Annotated[str | None, typer.Option("--protocol", help="The protocol; default the only active one.")]
Actor = Annotated[str, typer.Option("--as", help="Who is doing this; stands in the history.")]
Why = Annotated[str, typer.Option("--reason", help="Why; stands in the history.")]


@app.command(name="list")
def list_releases(as_json: AsJson = False) -> None:
    """Every release in the registry, newest first."""
    with open_house(read_settings()) as house:
        rows = [_row(release) for release in house.registry.list()]
    if as_json:
        show_json(rows)
        return
    columns = ("model", "version", "aliases", "digest", "created")
    show_table(
        "releases", columns, [(r["model"], r["version"], r["aliases"], r["digest"][:12], r["created"]) for r in rows]
    )


@app.command()
def show(
    release: Annotated[str, typer.Argument(help="A version, an alias or a folder.")] = "champion",
    protocol: ProtocolName = None,
    as_json: AsJson = False,
) -> None:
    """One release: digest, certificates, thresholds, metrics."""
    from flows.releases import describe, find_release

    with open_house(read_settings()) as house:
        facts = describe(find_release(house, release, protocol))
    if as_json:
        show_json(facts)
        return
    show_facts(f"release {release}", {name: facts[name] for name in ("model", "digest", "temperature", "metrics")})
    for certificate in facts["certificates"].values():
        say(certificate["sentence"])


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="A version or an alias.")] = "challenger",
    actor: Actor = "unnamed",
    reason: Why = "",
    protocol: ProtocolName = None,
    as_json: AsJson = False,
) -> int:
    """Make a release the champion, if the gate lets it through; exit code 1 when the gate refuses."""
    with open_house(read_settings()) as house:
        from flows.promotion_flow import promote as run

        outcome = run(house, house.only_protocol(protocol), version, actor=actor, reason=reason)
    return _report(outcome, as_json=as_json)


@app.command()
def rollback(actor: Actor = "unnamed", reason: Why = "", protocol: ProtocolName = None, as_json: AsJson = False) -> int:
    """Make the previous champion the champion again."""
    with open_house(read_settings()) as house:
        from flows.promotion_flow import roll_back as run

        outcome = run(house, house.only_protocol(protocol), actor=actor, reason=reason)
    return _report(outcome, as_json=as_json)


@app.command()
def history(protocol: ProtocolName = None, as_json: AsJson = False) -> None:
    """Which release was champion, challenger or shadow when, who moved it and why."""
    from flows.releases import alias_history

    with open_house(read_settings()) as house:
        rows = alias_history(house, house.only_protocol(protocol))
    if as_json:
        show_json(rows)
        return
    columns = ("at", "alias", "version", "release_digest", "actor", "reason")
    show_table("history", columns, [[str(row[column])[:40] for column in columns] for row in rows])


def _report(outcome: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        show_json(outcome)
    else:
        for line in outcome["findings"]:
            say(f"- {line}")
        say(outcome["sentence"])
    return 0 if outcome["moved"] else 1


def _row(release: Any) -> dict[str, Any]:
    return {
        "model": release.model,
        "version": release.version,
        "aliases": list(release.aliases),
        "digest": release.digest,
        "created": release.created_at.isoformat(timespec="seconds"),
    }
