"""The command line: every room of the house behind one command, `secondread`.

Exit codes: 0 done, 1 done but something needs a person, 2 could not run. Errors are one line on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from flows import (
    door_commands,
    export_commands,
    house_commands,
    oversight_commands,
    people_commands,
    planning_commands,
    registry_commands,
    release_commands,
    service_commands,
    speed_commands,
    study_commands,
    whatif_commands,
)
from pipeline.errors import SecondreadError
from pipeline.logs import log_to

COULD_NOT_RUN = 2
_DEBUG = "SECONDREAD_DEBUG"

app = typer.Typer(
    name="secondread",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Uncertainty-aware triage for medical imaging: it knows when to ask for a second read.",
)
for commands in (
    house_commands,
    study_commands,
    door_commands,
    export_commands,
    release_commands,
    planning_commands,
    whatif_commands,
    service_commands,
    oversight_commands,
    speed_commands,
):
    app.registered_commands.extend(commands.app.registered_commands)
app.add_typer(registry_commands.app, name="models", help="The registry: list, show, promote, roll back, history.")
app.add_typer(people_commands.app, name="people", help="Who may come into the reading room.")
app.add_typer(house_commands.audit, name="audit", help="The audit trail.")


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"secondread {version('secondread')}\n")
        raise typer.Exit


@app.callback()
def _options(
    home: Annotated[Path | None, typer.Option(help="The home to work in; default SECONDREAD_HOME.")] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an unexpected error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if home is not None:
        os.environ["SECONDREAD_HOME"] = str(home.expanduser().absolute())
    if debug:
        os.environ[_DEBUG] = "1"


def main() -> None:
    """The console script."""
    log_to(sys.stderr, level=logging.WARNING)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; whatever goes wrong becomes one line on standard error."""
    os.environ.pop(_DEBUG, None)
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="secondread", standalone_mode=False)
    except SecondreadError as error:
        return _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return _complain("stopped; nothing is lost, the same command takes up where it was")
    except Exception as error:
        if callable(text := getattr(error, "format_message", None)):  # a usage error, from whichever click typer holds
            return _complain(str(text()))
        if os.environ.get(_DEBUG):
            raise
        return _complain(f"unexpected {type(error).__name__}; run `secondread --debug ...` for the traceback")
    return code if isinstance(code, int) else 0


def _complain(text: str) -> int:
    sys.stderr.write(f"secondread: {' '.join(text.split())}\n")
    return COULD_NOT_RUN
