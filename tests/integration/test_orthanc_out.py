from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from highdicom.sr import srread
from pydicom import dcmread

from flows.bootstrap import House
from flows.delivering import deliver_once
from pipeline.intake import seal_quiet_studies
from pipeline.store import case_rows, conservation
from pipeline.store.door_tables import delivery
from pipeline.store.tables import instance, outbox, study
from pipeline.triage import triage_case
from tests.dicom_files import small_slice
from tests.door_house import door_house, ledger, open_door
from tests.orthanc import Orthanc, need, running_orthanc
from tests.pretend_scanner import KEY, PretendedRelease

pytestmark = [
    pytest.mark.dicom_tools,
    # pynetdicom's own client leaves the socket of a refused association to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STUDY = "1.2.826.0.1.3680043.10.7"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def pacs(orthanc: Orthanc) -> Orthanc:
    orthanc.clear()
    return orthanc


def node(pacs: Orthanc, kind: str) -> dict[str, Any]:
    if kind == "web":
        return {"kind": "web", "url": pacs.web}
    return {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": pacs.dicom_port}


def results(pacs: Orthanc, kind: str, *forms: str, **more: Any) -> dict[str, Any]:
    return {"results": {"pacs": [{"name": "back", "node": node(pacs, kind), "forms": forms}], **more}}


def files() -> list[bytes]:
    person = {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100", "PatientSex": "M"}
    when = {"StudyDate": "20260301", "StudyTime": "081500", "AccessionNumber": "A1", "StudyID": "7"}
    return [small_slice(n, study=STUDY, PatientBirthDate="19700102", **person, **when) for n in range(1, 17)]


def bring(house: House, pacs: Orthanc) -> None:
    with open_door(house) as door:
        pacs.know("SECONDREAD", door.port)
        pacs.send("SECONDREAD", pacs.get("/studies"))


def decide(house: House, score: float) -> str:
    now = datetime.now(UTC)
    (protocol,) = house.protocols.values()
    seal_quiet_studies(house.database, [protocol], quiet=timedelta(0), now=now, force=True)
    with house.database.transaction() as connection:
        (claimed,) = case_rows.claim_cases(
            connection, protocol=protocol.name, owner="test", limit=5, lease=timedelta(minutes=5), now=now
        )
    release = PretendedRelease(protocol, score=score)
    decision = triage_case(
        house.database,
        house.blobs,
        house.sandbox,
        release,
        claimed,
        protocol,
        audit_key=KEY,
        now=lambda: datetime.now(UTC),
    )
    return str(decision.route)


def series_of(pacs: Orthanc, modality: str) -> list[dict[str, Any]]:
    found = DICOMwebClient(pacs.web).search_for_series(STUDY)
    return [series for series in found if series["00080060"]["Value"] == [modality]]


def objects_of(pacs: Orthanc, modality: str) -> list[bytes]:
    ids = [found["ID"] for found in pacs.get("/series?expand") if found["MainDicomTags"]["Modality"] == modality]
    instances = [one for found in ids for one in pacs.get(f"/series/{found}")["Instances"]]
    return [httpx.get(f"{pacs.url}/instances/{one}/file", timeout=30).content for one in instances]


def errors_of(path: Path) -> list[str]:
    done = subprocess.run([need("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Error") and "Laterality" not in line]


@pytest.mark.parametrize("kind", ["dimse", "web"])
def test_the_whole_round_ends_with_one_report_in_the_same_study(kind: str, pacs: Orthanc, tmp_path: Path) -> None:
    for data in files():
        pacs.upload(data)
    with door_house(tmp_path, hospital=results(pacs, kind, "sr", "sc")) as house:
        bring(house, pacs)
        assert len(ledger(house)) == 16
        assert decide(house, 0.97) == "PRIORITY"
        done = deliver_once(house)
        assert done["states"] == {"waiting": 0, "proven": 2, "parked": 0, "overtaken": 0}
        (report,) = objects_of(pacs, "SR")
        path = tmp_path / "report.dcm"
        path.write_bytes(report)
        assert errors_of(path) == []
        dumped = subprocess.run([need("dsrdump"), str(path)], capture_output=True, text=True, check=True)
        assert "Route of the study" in dumped.stdout
        assert "Müller^Jörg" in dumped.stdout
        read = srread(path)
        assert read.content.get_image_measurement_groups()
        assert len(series_of(pacs, "SR")) == len(series_of(pacs, "OT")) == 1
        assert len(pacs.get("/studies")) == len(pacs.get("/patients")) == 1

        with house.database.transaction() as connection:  # the proof was lost
            connection.execute(delivery.update().values(state="WAITING", proof=None, proven_at=None))
            connection.execute(outbox.update().values(delivered_at=None))
        deliver_once(house)
        assert len(objects_of(pacs, "SR")) == len(objects_of(pacs, "OT")) == 1


def test_what_the_pacs_sends_back_to_us_neither_reopens_nor_counts_as_an_image(pacs: Orthanc, tmp_path: Path) -> None:
    for data in files():
        pacs.upload(data)
    archive = {"archive": {"node": node(pacs, "dimse"), "retrieve": "get"}}
    with door_house(tmp_path, hospital=results(pacs, "dimse", "sr", "sc") | archive) as house:
        bring(house, pacs)
        decide(house, 0.97)
        deliver_once(house)
        bring(house, pacs)
        reasons = [row.reason for row in ledger(house) if row.reason]
        assert sorted(reasons) == ["own_result", "own_result"]
        with house.database.read() as connection:
            assert [row.state for row in connection.execute(study.select())] == ["SEALED"]
            assert conservation.status(connection, datetime.now(UTC))["instances"]["unaccounted"] == 0
            assert connection.execute(instance.select()).all()


def test_a_late_image_makes_a_successor_that_names_its_predecessor(pacs: Orthanc, tmp_path: Path) -> None:
    held = files()
    for data in held[:15]:
        pacs.upload(data)
    with door_house(tmp_path, hospital=results(pacs, "dimse", "sr")) as house:
        bring(house, pacs)
        decide(house, 0.03)
        deliver_once(house)
        pacs.upload(held[15])
        bring(house, pacs)
        assert decide(house, 0.03) == "REVIEW"
        deliver_once(house)
    reports = [dcmread(BytesIO(data)) for data in objects_of(pacs, "SR")]
    assert len(reports) == 2
    (successor,) = [report for report in reports if "PredecessorDocumentsSequence" in report]
    assert "LATE_DATA" in str(successor)


def test_a_study_that_was_not_analysed_says_so_and_nothing_else(pacs: Orthanc, tmp_path: Path) -> None:
    for data in files()[:3]:
        pacs.upload(data)
    with door_house(tmp_path, hospital=results(pacs, "dimse", "sr")) as house:
        bring(house, pacs)
        assert decide(house, 0.97) == "REVIEW"
        deliver_once(house)
    (report,) = (dcmread(BytesIO(data)) for data in objects_of(pacs, "SR"))
    text = str(report)
    assert "111245" in text
    assert "NOT_PERFORMED" in text
    assert "NO_SERIES" in text
    assert "Probability" not in text


def test_a_fhir_bundle_lands_in_a_folder_beside_the_report(pacs: Orthanc, tmp_path: Path) -> None:
    for data in files():
        pacs.upload(data)
    (tmp_path / "ehr").mkdir()
    fhir = {"fhir": [{"name": "ehr", "folder": str(tmp_path / "ehr")}]}
    with door_house(tmp_path, hospital=results(pacs, "dimse", "sr", **fhir)) as house:
        bring(house, pacs)
        decide(house, 0.97)
        assert deliver_once(house)["proven"] == 2
        (bundle,) = (tmp_path / "ehr").iterdir()
        content = json.loads(bundle.read_bytes())
    kinds = {entry["resource"]["resourceType"] for entry in content["entry"]}
    assert {"DiagnosticReport", "Observation", "Task", "Device", "Provenance"} <= kinds
    assert "0.97" not in bundle.read_text(), "a clinician still reads the case"
