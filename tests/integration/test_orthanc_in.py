from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from flows.bootstrap import House
from flows.pulling import ask_before_sealing, pull_once
from flows.receiving import take_file_in
from pipeline.dicom.attributes import is_uid
from pipeline.dicom.pacs import PacsSeries, PacsStudy
from pipeline.domain.announced import NOT_IMAGES
from pipeline.errors import RetryLater
from pipeline.fetching import ask_counts
from pipeline.intake import seal_quiet_studies
from pipeline.store import conservation, pull_rows
from pipeline.store.door_tables import pull, pull_cursor
from pipeline.store.tables import study_revision
from tests.dicom_files import small_slice
from tests.door_house import door_house, ledger, open_door
from tests.live_room import BEARER, TOKEN, live_room
from tests.orthanc import Orthanc, running_orthanc

pytestmark = [
    pytest.mark.dicom_tools,
    # pynetdicom's own client leaves the socket of a refused association to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def pacs(orthanc: Orthanc) -> Orthanc:
    orthanc.clear()
    return orthanc


def archive(orthanc: Orthanc, retrieve: str, **changes: Any) -> dict[str, Any]:
    if retrieve == "wado":
        node: dict[str, Any] = {"kind": "web", "url": orthanc.web}
    else:
        node = {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
    return {"archive": {"node": node, "retrieve": retrieve, "look_back_hours": 24.0 * 365 * 60} | changes}


def today(**changes: Any) -> dict[str, Any]:
    return {"StudyDate": f"{datetime.now(UTC):%Y%m%d}", "StudyTime": "080000", "PatientSex": "O", **changes}


def rows(house: House, table: Any) -> list[Any]:
    with house.database.read() as connection:
        return list(connection.execute(table.select()))


def take_in_bytes(house: House, folder: Path, data: bytes) -> None:
    path = folder / f"{len(ledger(house))}.dcm"
    path.write_bytes(data)
    take_file_in(house, path, source="folder")


def seal(house: House) -> dict[str, Any]:
    now = datetime.now(UTC)
    ask_before_sealing(house, quiet_since=None, now=now)
    seal_quiet_studies(house.database, list(house.protocols.values()), quiet=timedelta(0), now=now, force=True)
    return dict(max(rows(house, study_revision), key=lambda row: row.sealed_at).evidence)


def accepted_series() -> list[list[bytes]]:
    """Every accepted file of the real corpus, by the line of its manifest that names it."""
    if not REAL.is_dir():
        pytest.skip("the labelled images do not lie beside the repository")
    with (REAL / "manifest.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["expected"].startswith("accept")]
    places = [REAL / line["path"] for line in lines]
    return [
        [path.read_bytes() for path in sorted(place.rglob("*") if place.is_dir() else [place]) if path.is_file()]
        for place in places
    ]


def fill(orthanc: Orthanc, files: list[bytes]) -> set[str]:
    """Put files into the PACS; the SOP instance UIDs that it then holds (a few odd ones it does not take)."""
    taken = [orthanc.try_upload(data) for data in files]
    assert sum(taken) >= 0.95 * len(files)
    return _uids(orthanc)


def _uids(orthanc: Orthanc) -> set[str]:
    return {found["MainDicomTags"]["SOPInstanceUID"] for found in orthanc.get("/instances?expand")}


def push(house: House, orthanc: Orthanc) -> None:
    with open_door(house) as door:
        orthanc.know("SECONDREAD", door.port)
        orthanc.send("SECONDREAD", orthanc.get("/studies"))


def move(house: House, orthanc: Orthanc) -> None:
    with open_door(house) as door:
        orthanc.know("SECONDREAD", door.port)
        pull_once(house)


def fetch(house: House, _: Orthanc) -> None:
    pull_once(house)


def stow(house: House, orthanc: Orthanc) -> None:
    """The PACS itself pushes by STOW-RS to the web application."""
    with live_room(house) as address:
        remote = {"Url": f"{address}/dicom-web", "HttpHeaders": BEARER}
        httpx.put(f"{orthanc.web}/servers/secondread", json=remote, timeout=10).raise_for_status()
        for one in orthanc.get("/series"):  # one with an unreadable UID fails alone, and its bytes are kept
            httpx.post(f"{orthanc.web}/servers/secondread/stow", json={"Resources": [one]}, timeout=300)


WAYS: dict[str, tuple[str, Callable[[House, Orthanc], None]]] = {
    "push": ("get", push),
    "move": ("move", move),
    "get": ("get", fetch),
    "wado": ("wado", fetch),
    "stow": ("get", stow),
}


@pytest.fixture(scope="module")
def full_pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A PACS of its own that holds every accepted file of the real corpus."""
    files = [data for series in accepted_series() for data in series]
    with running_orthanc(tmp_path_factory.mktemp("full")) as running:
        fill(running, files)
        yield running


def _listed(orthanc: Orthanc) -> set[str]:
    """SOP instance UIDs of studies that can be listed by date, and whose UID the PACS does not give to two patients."""
    every = orthanc.get("/studies?expand")
    uses = Counter(found["MainDicomTags"]["StudyInstanceUID"] for found in every)
    studies = {
        found["ID"]
        for found in every
        if found["MainDicomTags"].get("StudyDate", "").isdigit()
        and uses[found["MainDicomTags"]["StudyInstanceUID"]] == 1
    }
    series = {
        found["ID"]
        for found in orthanc.get("/series?expand")
        if found["ParentStudy"] in studies and found["MainDicomTags"].get("Modality") not in NOT_IMAGES
    }
    instances = orthanc.get("/instances?expand")
    return {found["MainDicomTags"]["SOPInstanceUID"] for found in instances if found["ParentSeries"] in series}


@pytest.mark.real_data
@pytest.mark.parametrize("way", WAYS)
def test_every_accepted_real_series_comes_whole_by_each_way_in(way: str, full_pacs: Orthanc, tmp_path: Path) -> None:
    retrieve, bring = WAYS[way]
    held = {uid for uid in (_uids(full_pacs) if way in {"push", "stow"} else _listed(full_pacs)) if is_uid(uid)}
    every = {found["MainDicomTags"].get("Modality", "OT") for found in full_pacs.get("/series?expand")}
    with door_house(
        tmp_path, hospital=archive(full_pacs, retrieve, modalities=sorted(every)), door_token=SecretStr(TOKEN)
    ) as house:
        bring(house, full_pacs)
        came = {row.sop_instance_uid for row in ledger(house)}
        assert len(held) >= 200
        assert held - came == set(), "instances of the PACS that never came"
        assert Counter(row.verdict for row in ledger(house))["accepted"] >= 0.9 * len(held)
        with house.database.read() as connection:
            status = conservation.status(connection, datetime.now(UTC))
        assert status["instances"]["unaccounted"] == 0
        if way not in {"push", "stow"}:
            assert Counter(row.state for row in rows(house, pull))["FETCHED"] >= 30


@pytest.mark.parametrize("retrieve", ["get", "wado"])
def test_a_study_that_the_pacs_holds_more_of_is_incomplete_and_one_it_counts_alike_is_proven(
    retrieve: str, pacs: Orthanc, tmp_path: Path
) -> None:
    for number in range(1, 17):
        pacs.upload(small_slice(number, **today()))
    with door_house(tmp_path, hospital=archive(pacs, retrieve)) as house:
        for number in range(1, 16):
            take_in_bytes(house, tmp_path, small_slice(number, **today()))
        evidence = seal(house)
        assert (evidence["completeness"], evidence["kind"]) == ("CONTRADICTED", "expected_count")
        assert "1 image" in evidence["detail"]
        pull_once(house)
        evidence = seal(house)
        assert (evidence["completeness"], evidence["kind"]) == ("PROVEN", "expected_count")


def test_a_study_whose_patient_was_merged_at_the_pacs_is_an_identity_conflict(pacs: Orthanc, tmp_path: Path) -> None:
    pacs.upload(small_slice(1, **today(PatientID="SURVIVOR")))
    with door_house(tmp_path, hospital=archive(pacs, "get")) as house:
        take_in_bytes(house, tmp_path, small_slice(1, **today(PatientID="MERGED")))
        assert "IDENTITY_CONFLICT" in seal(house)["problems"]


def test_a_pacs_that_does_not_answer_leaves_the_headers_as_evidence(tmp_path: Path) -> None:
    node = {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": 1}
    with door_house(tmp_path, hospital={"archive": {"node": node, "retrieve": "get"}}) as house:
        for number in range(1, 17):
            take_in_bytes(house, tmp_path, small_slice(number))
        assert seal(house)["kind"] == "gap_check"


@pytest.mark.parametrize("node", [{"host": "no-such-host.invalid"}, {"host": "127.0.0.1", "tls": "absent"}])
def test_a_pacs_that_cannot_even_be_called_keeps_no_study_from_being_sealed(
    node: dict[str, Any], tmp_path: Path
) -> None:
    if "tls" in node:
        node = node | {"tls": dict.fromkeys(("certificate", "key", "authority"), "absent.pem")}
    called = {"kind": "dimse", "ae_title": "ORTHANC", "port": 1, **node}
    with door_house(tmp_path, hospital={"archive": {"node": called, "retrieve": "get"}}) as house:
        for number in range(1, 17):
            take_in_bytes(house, tmp_path, small_slice(number))
        assert seal(house)["kind"] == "gap_check"
        with pytest.raises(RetryLater, match="host name"):
            pull_once(house)


def test_a_pacs_that_talks_nonsense_keeps_no_study_from_being_sealed(tmp_path: Path) -> None:
    class Nonsense:
        def study(self, _: str) -> None:
            raise KeyError("something in a library")

    with door_house(tmp_path) as house:
        take_in_bytes(house, tmp_path, small_slice(1))
        pacs: Any = Nonsense()
        assert ask_counts(house.database, "pacs", pacs, quiet_since=None, now=datetime.now(UTC)) == 0
        assert seal(house)["completeness"] != "CONTRADICTED"


def test_runs_that_overlap_share_the_studies_and_a_dead_one_gives_its_study_back(tmp_path: Path) -> None:
    start, lease = datetime(2026, 3, 1, tzinfo=UTC), timedelta(minutes=30)
    with door_house(tmp_path) as house, house.database.transaction() as connection:
        for uid in ("1.2.3", "1.2.4"):
            pull_rows.want(connection, "pacs", uid, {f"{uid}.1": 5}, start)
        claimed = [pull_rows.claim_next(connection, "pacs", now=start, lease=lease) for _ in range(3)]
        assert {one and one.study_instance_uid for one in claimed} == {"1.2.3", "1.2.4", None}
        assert pull_rows.claim_next(connection, "pacs", now=start + lease, lease=lease) is not None


def test_a_study_that_does_not_come_is_tried_for_three_days_and_then_parked(tmp_path: Path) -> None:
    from pipeline.fetching import Source, fetch_due

    class Broken:
        def fetch(self, *_: Any) -> None:
            raise RetryLater("the PACS is being moved")

    source = Source(name="pacs", pacs=Broken(), modalities=("MR",), look_back=timedelta(days=1))  # type: ignore[arg-type]
    start = datetime(2026, 3, 1, tzinfo=UTC)
    with door_house(tmp_path) as house:
        with house.database.transaction() as connection:
            pull_rows.want(connection, "pacs", "1.2.3", {"1.2.3.4": 5}, start)
        moment, attempts = start, 0
        while rows(house, pull)[0].state == "WANTED":
            fetch_due(house.database, source, lambda _: None, now=lambda at=moment: at, random=Random(attempts))
            attempts, moment = attempts + 1, max(moment, rows(house, pull)[0].not_before)
            assert attempts < 1000
        (row,) = rows(house, pull)
        assert row.state == "PARKED"
        assert moment - start >= timedelta(hours=72)
        assert attempts > 72, "the longest wait between two attempts is an hour"
        assert "moved" in row.problem
        with house.database.transaction() as connection:
            assert pull_rows.want_parked_again(connection, moment) == 1


def test_the_cursor_moves_only_after_everything_listed_was_noted(tmp_path: Path) -> None:
    from pipeline.fetching import Source, look

    class HalfWay:
        def studies(self, *_: Any) -> list[PacsStudy]:
            return [PacsStudy(uid="1.2.3"), PacsStudy(uid="1.2.4")]

        def series(self, uid: str) -> list[PacsSeries]:
            if uid == "1.2.4":
                raise RetryLater("gone")
            return [PacsSeries(uid=f"{uid}.1", modality="MR", instances=3)]

    source = Source(name="pacs", pacs=HalfWay(), modalities=("MR",), look_back=timedelta(days=1))  # type: ignore[arg-type]
    with door_house(tmp_path) as house:
        with pytest.raises(RetryLater):
            look(house.database, source, now=datetime.now(UTC))
        assert rows(house, pull_cursor) == []
        assert [row.study_instance_uid for row in rows(house, pull)] == ["1.2.3"]
