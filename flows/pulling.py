"""Asking the PACS: studies fetched on schedule, and counts before a study is sealed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from flows.bootstrap import House
from pipeline.errors import HaltPipeline
from pipeline.hospital import Archive


def archive_of(house: House) -> Archive:
    """The PACS of hospital.yaml. Raises HaltPipeline where none is named."""
    if house.hospital.archive is None:
        path = house.settings.hospital_file
        raise HaltPipeline(f"no PACS is named; write it under 'archive' in {path.name} (see the README)")
    return house.hospital.archive


def pacs_of(house: House, archive: Archive) -> Any:
    """The PACS, spoken to under our own title; nothing is connected yet."""
    from pipeline.dicom.pacs import open_pacs

    retrieve = "get" if archive.retrieve == "wado" else archive.retrieve
    return open_pacs(archive.node, own_title=house.hospital.reception.ae_title, retrieve=retrieve)


def source_of(house: House, archive: Archive) -> Any:
    """The PACS with what is fetched of it."""
    from pipeline.fetching import Source

    return Source(
        name=archive.node.name,
        pacs=pacs_of(house, archive),
        modalities=archive.modalities,
        look_back=timedelta(hours=archive.look_back_hours),
    )


def pull_once(house: House, *, parked_too: bool = False) -> dict[str, Any]:
    """Look at the PACS' list once and fetch what is due. Raises HaltPipeline, RetryLater when it does not answer."""
    from pipeline.fetching import fetch_due, look
    from pipeline.intake import accept_stream
    from pipeline.store import pull_rows

    source = source_of(house, archive_of(house))
    now = _now()
    if parked_too:
        with house.database.transaction() as connection:
            pull_rows.want_parked_again(connection, now)

    def take(content: Any) -> None:
        accept_stream(
            house.database,
            house.blobs,
            house.sandbox,
            content,
            source=f"pull:{source.name}",
            pseudonym_key=house.keys.pseudonym,
            now=_now(),
        )

    listed, wanted = look(house.database, source, now=now)
    done = fetch_due(house.database, source, take, now=_now, random=Random())  # noqa: S311 - jitter, not a secret
    with house.database.read() as connection:
        return {"listed": listed, "wanted": wanted, **done, "waiting": pull_rows.counts(connection)["wanted"]}


def ask_before_sealing(house: House, *, quiet_since: datetime | None, now: datetime) -> None:
    """Ask the PACS for counts of what is about to be sealed, where there is one and it should be asked."""
    archive = house.hospital.archive
    if archive is None or not archive.ask_counts:
        return
    from pipeline.fetching import ask_counts

    ask_counts(house.database, archive.node.name, pacs_of(house, archive), quiet_since=quiet_since, now=now)


def _now() -> datetime:
    return datetime.now(UTC)
