"""Commands that keep running or schedule: serve, deploy, work, demo."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.bootstrap import House, open_house
from flows.console import say, show_facts, show_json
from flows.releases import certificate_sentences, neighbours_of
from pipeline.settings import read_settings

app = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default SECONDREAD_BIND.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default SECONDREAD_PORT.")] = None,
) -> None:
    """Open the reading room."""
    with open_house(read_settings()) as house:
        open_room(house, host=host or house.settings.bind, port=house.settings.port if port is None else port)


@app.command()
def deploy(
    cron: Annotated[str, typer.Option(help="When triage runs.")] = "*/5 * * * *", as_json: AsJson = False
) -> None:
    """Register the scheduled deployments in Prefect, triage and the door's; PREFECT_API_URL names the server."""
    with open_house(read_settings()) as house:
        from flows.deployments import deploy as register

        made = register(house.settings.home, cron, house.hospital)
    if as_json:
        show_json(made)
    else:
        show_facts("deployed", made)


@app.command()
def work() -> None:
    """Run a worker for the scheduled deployments, with a Prefect server of its own when PREFECT_API_URL is unset."""
    with open_house(read_settings()) as house:
        from flows.deployments import work as run

        run(house.settings.home, house.hospital)


@app.command()
def demo(
    home: Annotated[Path | None, typer.Option(help="Where to build it; default a new temporary folder.")] = None,
    serve_room: Annotated[bool, typer.Option("--serve", help="Open the reading room at the end.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the generated patients and the training.")] = 7,
    as_json: AsJson = False,
) -> int:
    """The whole story on generated patients: train, certify, promote, triage; exit code 1 if a safety promise broke."""
    from flows.demo import run_demo

    return run_demo(home, seed=seed, as_json=as_json, serve=serve_room)


def open_room(house: House, *, host: str, port: int) -> None:
    """Serve the reading room until stopped."""
    import uvicorn

    say(f"The reading room is at http://{host}:{port} (stop with Ctrl-C)")
    uvicorn.run(
        room(house),
        host=host,
        port=port,
        log_config=None,  # its records go the way of ours, which shows no traceback and no foreign text
        log_level="warning",
        timeout_graceful_shutdown=5,  # pages that listen for changes would keep it open
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is the other end of the socket: a header that says otherwise is anybody's word
    )


def room(house: House) -> Any:
    """The reading room of this house as an ASGI application."""
    from pipeline.web.app import LOCAL_HOSTS, create_app
    from pipeline.web.room import RoomKeys

    return create_app(
        database=house.database,
        blobs=house.blobs,
        sandbox=house.sandbox,
        protocols=house.protocols,
        session_key=house.keys.session,
        now=lambda: datetime.now(UTC),
        allowed_hosts=(*LOCAL_HOSTS, *house.settings.host_names),
        https=house.settings.https,
        lease=timedelta(minutes=house.settings.claim_minutes),
        certificates=partial(certificate_sentences, house),
        neighbours=partial(neighbours_of, house),
        door=_door(house),
        rules=house.reading_room,
        keys=RoomKeys(audit=house.keys.audit, pseudonym=house.keys.pseudonym, sealing=house.keys.sealing),
    )


def _door(house: House) -> Any:
    """The way in for other systems, or None where no token was agreed with any."""
    from pipeline.web.door import Door

    token = house.settings.door_token
    if token is None:
        return None
    return Door(
        token=token.get_secret_value(),
        pseudonym_key=house.keys.pseudonym,
        sandbox=house.sandbox,
        spool=house.settings.home,
        retrieve_from=_archive(house),
    )


def _archive(house: House) -> str | None:
    """Where images can be fetched: the archive's DICOMweb address or AE title, or None where there is none."""
    archive = house.hospital.archive
    if archive is None:
        return None
    return archive.node.url if archive.node.kind == "web" else archive.node.ae_title
