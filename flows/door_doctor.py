"""The door looked at: does everybody outside answer, know us, trust us, and tell the same time as we do."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from flows.bootstrap import House
from flows.check import Check, amiss, note, well
from pipeline.errors import RetryLater, SecondreadError
from pipeline.hospital import Archive, DicomNode, DicomWeb, FhirDestination, Reception, Tls

MOST_CLOCK_DIFFERENCE = timedelta(seconds=60)
CERTIFICATE_DAYS = 30
_NOWHERE = "2.25.0"
_MOVE_DESTINATION_UNKNOWN = "A801"


def examine_door(house: House) -> list[Check]:
    """Every check of the door that hospital.yaml makes possible."""
    hospital = house.hospital
    checks = [_peers(hospital.reception), _clock_of_the_trail(house)]
    if hospital.reception.tls is not None:
        checks.append(_certificate("reception TLS", hospital.reception.tls))
    if hospital.archive is not None:
        checks += _archive(house, hospital.archive)
    for destination in hospital.results.destinations:
        checks += _destination(house, destination)
    return [*checks, _deliveries(house), _pulls(house), *_reconciled(house)]


def _peers(reception: Reception) -> Check:
    if not reception.peers:
        return note("reception", "nobody may send yet", "name your scanners and PACS under reception: peers")
    titles = ", ".join(peer.ae_title for peer in reception.peers)
    if reception.bind not in {"127.0.0.1", "::1", "localhost"} and reception.tls is None:
        return note("reception", f"{titles}; open to the network without TLS", "give it tls, or a protected network")
    return well("reception", f"{reception.ae_title} on {reception.bind}:{reception.port} for {titles}")


def _clock_of_the_trail(house: House) -> Check:
    """Whether our clock went back behind what was written down already."""
    from pipeline.store import audit_rows

    with house.database.read() as connection:
        newest = audit_rows.newest_moment(connection)
    now = datetime.now(UTC)
    if newest is not None and newest > now + MOST_CLOCK_DIFFERENCE:
        return amiss("clock", "our clock is behind the newest entry of the audit trail", "set the clock by NTP")
    return well("clock", "not behind the audit trail")


def _certificate(name: str, tls: Tls) -> Check:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key)
        ends = _ends(tls)
    except (OSError, ssl.SSLError, ValueError) as error:
        return amiss(name, f"the certificate cannot be used ({type(error).__name__})", "mend the files under tls")
    left = ends - datetime.now(UTC)
    if left < timedelta(0):
        return amiss(name, f"the certificate ended on {ends:%Y-%m-%d}", "renew it")
    if left < timedelta(days=CERTIFICATE_DAYS):
        return note(name, f"the certificate ends on {ends:%Y-%m-%d}", "renew it in time")
    return well(name, f"the certificate holds until {ends:%Y-%m-%d}")


def _ends(tls: Tls) -> datetime:
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(tls.certificate.read_bytes()).not_valid_after_utc


def _archive(house: House, archive: Archive) -> Iterator[Check]:
    from flows.pulling import pacs_of

    pacs, name, now = pacs_of(house, archive), archive.node.name, datetime.now(UTC)
    answers = _asked(f"{name}: echo", pacs.echo, "it answers", _cure(archive.node))
    yield answers
    if answers.state == "amiss":
        return
    yield _asked(f"{name}: find", lambda: pacs.studies(now, now), "it lists studies", "allow our title to query there")
    if archive.retrieve == "move":
        yield _move(house, pacs, name)
    if isinstance(archive.node, DicomWeb):
        yield _clock(name, archive.node.url)
    if archive.node.kind == "dimse" and archive.node.tls is not None:
        yield _certificate(f"{name}: TLS", archive.node.tls)


def _move(house: House, pacs: Any, name: str) -> Check:
    """A C-MOVE of a study that does not exist: some PACS say then whether they know us, others fail in any case."""
    title = house.hospital.reception.ae_title
    cure = f"add {title} with our host and port to the PACS' known nodes"
    try:
        pacs.fetch(_NOWHERE, lambda _: None)
    except RetryLater as problem:
        if _MOVE_DESTINATION_UNKNOWN in str(problem):
            return amiss(f"{name}: move", "the PACS does not know where we are", cure)
        return note(f"{name}: move", f"not shown by asking for nothing: {problem}", f"{cure}, then pull a study")
    return well(f"{name}: move", f"the PACS knows {title}")


def _destination(house: House, destination: Any) -> Iterator[Check]:
    from pipeline.dicom.pacs import open_pacs

    name = f"results: {destination.name}"
    if isinstance(destination, FhirDestination):
        yield from _fhir(name, destination)
        return
    pacs = open_pacs(destination.node, own_title=house.hospital.reception.ae_title)
    yield _asked(f"{name}: echo", pacs.echo, "it answers", _cure(destination.node))
    if isinstance(destination.node, DicomWeb):
        yield _clock(name, destination.node.url)


def _fhir(name: str, destination: FhirDestination) -> Iterator[Check]:
    import os

    if destination.folder is not None:
        folder = destination.folder
        usable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
        yield (
            well(name, "the folder can be written")
            if usable
            else amiss(name, "the folder is absent or cannot be written", "make it, writable for this user")
        )
        return
    yield _clock(name, f"{destination.url}/metadata")


def _clock(name: str, url: str) -> Check:
    """Our clock against the Date that an HTTP server sends with every answer (RFC 9110 section 6.6.1)."""
    import httpx

    try:
        sent = httpx.get(url, timeout=5.0, follow_redirects=False).headers.get("date", "")
        difference = abs(parsedate_to_datetime(sent) - datetime.now(UTC))
    except httpx.HTTPError as error:
        return amiss(f"{name}: clock", f"it does not answer ({type(error).__name__})", "check its address")
    except (ValueError, TypeError):
        return note(f"{name}: clock", "it does not tell its time", "compare both clocks by hand")
    if difference > MOST_CLOCK_DIFFERENCE:
        return amiss(f"{name}: clock", f"its clock differs by {difference.total_seconds():.0f} s", "set both by NTP")
    return well(f"{name}: clock", "within a minute of ours")


def _asked(name: str, ask: Callable[[], object], good: str, cure: str) -> Check:
    try:
        ask()
    except SecondreadError as problem:
        said, _, hint = str(problem).partition(";")
        return amiss(name, said, hint.strip() or cure)
    except Exception as error:  # noqa: BLE001 - a broken part is what this command is there to show
        return amiss(name, f"unexpected {type(error).__name__}", cure)
    return well(name, good)


def _cure(node: DicomNode | DicomWeb) -> str:
    if isinstance(node, DicomWeb):
        return f"check {node.url} and our token"
    return f"check that {node.ae_title} listens on {node.host}:{node.port} and knows our AE title"


def _deliveries(house: House) -> Check:
    from pipeline.store import outbox_rows

    with house.database.read() as connection:
        found = outbox_rows.counts(connection)
    if found["parked"]:
        return amiss(
            "deliveries",
            f"{found['parked']} results were given up after three days",
            "run `secondread deliver --parked`",
        )
    return well("deliveries", f"{found['proven']} proven, {found['waiting']} waiting")


def _pulls(house: House) -> Check:
    from pipeline.store import pull_rows

    with house.database.read() as connection:
        found = pull_rows.counts(connection)
    if found["parked"]:
        return amiss(
            "pulls", f"{found['parked']} studies did not come within three days", "run `secondread pull --parked`"
        )
    return well("pulls", f"{found['fetched']} fetched, {found['wanted']} waiting")


def _reconciled(house: House) -> Iterator[Check]:
    """What the last comparison with the PACS found missing."""
    from pipeline.store import reconciliation_rows

    if house.hospital.archive is None:
        return
    with house.database.read() as connection:
        found = reconciliation_rows.newest(connection)
    if found is None:
        yield note("reconciled", "never compared with the PACS", "run `secondread reconcile`, or `secondread deploy`")
        return
    lost = f"{found['missing_studies']} studies and {found['missing_instances']} instances of others never came"
    if found["missing_studies"] or found["missing_instances"]:
        yield amiss("reconciled", lost, "run `secondread reconcile` for their names, and `secondread pull`")
        return
    yield well("reconciled", f"{found['studies']} studies compared, none missing")
