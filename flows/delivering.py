"""Results on their way out: the destinations of hospital.yaml, opened and served once."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from random import Random
from typing import Any

from flows.bootstrap import House
from pipeline.domain.result import ResultForm
from pipeline.errors import HaltPipeline
from pipeline.hospital import FhirDestination, PacsDestination


def deliver_once(house: House, *, parked_too: bool = False) -> dict[str, Any]:
    """Send what is due to every destination. Raises HaltPipeline where there is none, RetryLater."""
    from pipeline.delivery import Post, deliver
    from pipeline.store import outbox_rows

    results = house.hospital.results
    if not results.destinations:
        name = house.settings.hospital_file.name
        raise HaltPipeline(f"no destination is named; write one under 'results' in {name} (see the README)")
    if parked_too:
        with house.database.transaction() as connection:
            outbox_rows.send_parked_again(connection, _now())
    post = Post(
        destinations=[_destination(house, found) for found in results.destinations],
        makers=makers(),
        version=version("secondread"),
        withhold=results.numbers == "after_read",
    )
    done = deliver(house.database, house.blobs, post, now=_now, random=Random())  # noqa: S311 - jitter, not a secret
    with house.database.read() as connection:
        return {**asdict(done), "states": outbox_rows.counts(connection)}


def makers() -> dict[ResultForm, Any]:
    """How a result becomes the object of each form."""
    from pipeline.dicom.result_sending import as_bytes
    from pipeline.dicom.secondary_capture import secondary_capture
    from pipeline.dicom.structured_report import structured_report
    from pipeline.fhir.bundle import bundle_bytes

    return {
        ResultForm.SR: lambda result: as_bytes(structured_report, result),
        ResultForm.SC: lambda result: as_bytes(secondary_capture, result),
        ResultForm.FHIR: bundle_bytes,
    }


def _destination(house: House, found: PacsDestination | FhirDestination) -> Any:
    from pipeline.delivery import Destination

    if isinstance(found, FhirDestination):
        return Destination(name=found.name, forms=found.forms, send=partial(_send_fhir, found))
    return Destination(name=found.name, forms=found.forms, send=partial(_send_dicom, house, found))


def _send_dicom(house: House, destination: PacsDestination, _form: ResultForm, content: bytes) -> dict[str, str]:
    from pipeline.dicom.pacs import open_pacs
    from pipeline.dicom.result_sending import send_to_pacs

    return send_to_pacs(open_pacs(destination.node, own_title=house.hospital.reception.ae_title), content)


def _send_fhir(destination: FhirDestination, _form: ResultForm, content: bytes) -> dict[str, str]:
    from pipeline.fhir.sending import put_in_folder, put_on_server

    if destination.folder is not None:
        return asdict(put_in_folder(destination.folder, content))
    return asdict(put_on_server(str(destination.url), destination.token(), content, destination.seconds))


def _now() -> datetime:
    return datetime.now(UTC)
