"""The PACS is slow, drops in the middle, answers half or not at all: nothing is scored on a fragment, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.bootstrap import House
from flows.delivering import deliver_once
from flows.pulling import ask_before_sealing, pull_once
from pipeline.errors import RejectInstance, RetryLater
from pipeline.intake import seal_quiet_studies
from pipeline.store import conservation
from pipeline.store.door_tables import delivery, pull
from pipeline.store.tables import outbox, study_revision
from tests.dicom_files import small_slice
from tests.door_house import door_house, ledger, open_door
from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.integration.test_orthanc_out import bring, decide, objects_of
from tests.integration.test_receiver import associated, echo, send
from tests.orthanc import Orthanc, running_orthanc

pytestmark = [
    pytest.mark.dicom_tools,
    # pynetdicom's own client leaves the socket of a refused association to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TODAY = {"StudyDate": f"{datetime.now(UTC):%Y%m%d}", "StudyTime": "080000"}
SLICES = 16

FAULTS = [
    (Fault.REFUSE, 0),
    (Fault.RESET, 600),
    (Fault.RESET, 20_000),
    (Fault.CLOSE, 9_000),
    (Fault.SILENT, 0),
    (Fault.HALF_OPEN, 12_000),
    (Fault.SLOW, 6_000),
    (Fault.LATE, 0),
    (Fault.DROP_REQUEST, 700),
]

QUICK = {
    ("get", Fault.RESET, 20_000),
    ("get", Fault.HALF_OPEN, 12_000),
    ("get", Fault.SILENT, 0),
    ("wado", Fault.SLOW, 6_000),
    ("wado", Fault.CLOSE, 9_000),
}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def pacs(orthanc: Orthanc) -> Orthanc:
    orthanc.clear()
    for number in range(1, SLICES + 1):
        orthanc.upload(small_slice(number, study="1.2.826.0.1.3680043.10.7", **TODAY))
    return orthanc


def archive(port: int, way: str) -> dict[str, Any]:
    if way == "wado":
        node: dict[str, Any] = {"kind": "web", "url": f"http://127.0.0.1:{port}/dicom-web", "seconds": 1.5}
    else:
        node = {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port, "seconds": 1.5}
    return {"archive": {"node": node, "retrieve": way}}


def warm(house: House) -> None:
    """Start the child that inspects, which takes longer than these tests let a peer wait."""
    with suppress(RejectInstance):
        house.sandbox.inspect(house.settings.home / "secret.key")


def try_to_pull(house: House) -> None:
    try:
        pull_once(house)
    except RetryLater:
        return


def seal(house: House) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    ask_before_sealing(house, quiet_since=None, now=now)
    seal_quiet_studies(house.database, list(house.protocols.values()), quiet=timedelta(0), now=now, force=True)
    with house.database.read() as connection:
        return [dict(row.evidence) for row in connection.execute(study_revision.select())]


def _ways_and_faults() -> list[Any]:
    """Every fault on both ways, those of `QUICK` in the ordinary suite."""
    return [
        pytest.param(way, fault, after, marks=() if (way, fault, after) in QUICK else pytest.mark.slow)
        for way in ("get", "wado")
        for fault, after in FAULTS
    ]


@pytest.mark.parametrize(("way", "fault", "after"), _ways_and_faults())
def test_a_pull_over_a_bad_network_ends_and_is_whole_when_the_network_is_mended(
    way: str, fault: Fault, after: int, pacs: Orthanc, tmp_path: Path
) -> None:
    target = pacs.http_port if way == "wado" else pacs.dicom_port
    with fault_proxy(target) as proxy, door_house(tmp_path, hospital=archive(proxy.port, way)) as house:
        warm(house)
        proxy.fault, proxy.after = fault, after
        try_to_pull(house)
        came = len({row.sop_instance_uid for row in ledger(house)})
        proxy.fault = Fault.NONE
        for evidence in seal(house):
            assert evidence["completeness"] == "PROVEN" if came == SLICES else "CONTRADICTED"
        with house.database.transaction() as connection:
            connection.execute(pull.update().values(not_before=datetime(2026, 1, 1, tzinfo=UTC)))
        pull_once(house)
        assert len({row.sop_instance_uid for row in ledger(house)}) == SLICES
        with house.database.read() as connection:
            assert {row.state for row in connection.execute(pull.select())} == {"FETCHED"}
            assert conservation.status(connection, datetime.now(UTC))["instances"]["unaccounted"] == 0


@pytest.mark.parametrize(
    ("fault", "after"), [(Fault.RESET, 20), (Fault.RESET, 400), (Fault.DROP_REQUEST, 3_000), (Fault.HALF_OPEN, 380)]
)
def test_a_result_over_a_bad_network_is_there_once_in_the_end(
    fault: Fault, after: int, pacs: Orthanc, tmp_path: Path
) -> None:
    with fault_proxy(pacs.dicom_port) as proxy:
        node = {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": proxy.port, "seconds": 1.5}
        results = {"results": {"pacs": [{"name": "back", "node": node}]}}
        with door_house(tmp_path, hospital=results) as house:
            bring(house, pacs)
            decide(house, 0.97)
            for _ in range(3):
                proxy.fault, proxy.after = fault, after
                deliver_once(house)
                _make_due(house)
            proxy.fault = Fault.NONE
            deliver_once(house)
            with house.database.read() as connection:
                assert [row.state for row in connection.execute(delivery.select())] == ["PROVEN"]
                assert all(row.delivered_at for row in connection.execute(outbox.select()))
        assert len(objects_of(pacs, "SR")) == 1


def _make_due(house: House) -> None:
    with house.database.transaction() as connection:
        connection.execute(delivery.update().values(not_before=datetime(2026, 1, 1, tzinfo=UTC)))


@pytest.mark.parametrize("after", [100, 2_000, 5_000, 9_000, 20_000])
def test_a_sender_cut_off_anywhere_finds_its_confirmed_objects_and_loses_no_other(after: int, tmp_path: Path) -> None:
    with door_house(tmp_path) as house, open_door(house) as door, fault_proxy(door.port) as proxy:
        proxy.fault, proxy.after = Fault.DROP_REQUEST, after
        confirmed = _send_until_cut(proxy)
        assert len(ledger(house)) >= confirmed
        assert {row.verdict for row in ledger(house)} <= {"accepted"}, "no fragment of an object was kept as one"
        proxy.fault = Fault.NONE
        assert _send_until_cut(proxy) == 5
        assert sorted(row.verdict for row in ledger(house)).count("accepted") == 5
        assert echo(door) == 0x0000


def _send_until_cut(proxy: FaultProxy) -> int:
    association = associated(proxy)  # type: ignore[arg-type]
    confirmed = 0
    for number in range(1, 6):
        if not association.is_established:
            break
        try:
            confirmed += send(association, small_slice(number)) == [0x0000]
        except (RuntimeError, AttributeError):
            break
    association.release() if association.is_established else association.abort()
    return confirmed
