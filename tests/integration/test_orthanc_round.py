"""The whole round for every accepted real study: from the PACS, through triage, back into the PACS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from highdicom.sr import srread
from pydicom import dcmread

from flows.bootstrap import House
from flows.delivering import deliver_once
from pipeline.intake import seal_quiet_studies
from pipeline.store import case_rows
from pipeline.store.door_tables import delivery
from pipeline.store.tables import study
from pipeline.triage import triage_case
from tests.door_house import door_house
from tests.integration.test_orthanc_in import accepted_series, fill, push
from tests.integration.test_orthanc_out import errors_of
from tests.orthanc import Orthanc, running_orthanc
from tests.pretend_scanner import KEY, PretendedRelease

pytestmark = [
    pytest.mark.dicom_tools,
    pytest.mark.real_data,
    # pynetdicom's own client leaves the socket of a refused association to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def full_pacs(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "full") as running:
        fill(running, [data for series in accepted_series() for data in series])
        yield running


def decide_all(house: House) -> Counter[str]:
    now = datetime.now(UTC)
    (protocol,) = house.protocols.values()
    seal_quiet_studies(house.database, [protocol], quiet=timedelta(0), now=now, force=True)
    with house.database.transaction() as connection:
        claimed = case_rows.claim_cases(
            connection, protocol=protocol.name, owner="test", limit=1000, lease=timedelta(hours=1), now=now
        )
    release = PretendedRelease(protocol, score=0.97)
    return Counter(
        str(
            triage_case(
                house.database,
                house.blobs,
                house.sandbox,
                release,
                one,
                protocol,
                audit_key=KEY,
                now=lambda: datetime.now(UTC),
            ).route
        )
        for one in claimed
    )


def rows(house: House, table: Any) -> list[Any]:
    with house.database.read() as connection:
        return list(connection.execute(table.select()))


def test_every_real_study_gets_one_report_that_a_validator_accepts(full_pacs: Orthanc, tmp_path: Path) -> None:
    node = {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": full_pacs.dicom_port}
    results = {"results": {"pacs": [{"name": "back", "node": node, "forms": ["sr", "sc"]}]}}
    with door_house(tmp_path, hospital=results) as house:
        push(house, full_pacs)
        routes = decide_all(house)
        assert sum(routes.values()) == len(rows(house, study)) > 30
        deliver_once(house)
        states = Counter((row.state, row.problem) for row in rows(house, delivery))
        assert set(states) == {("PROVEN", None)}, states
    found = {report["MainDicomTags"]["SeriesInstanceUID"]: report for report in full_pacs.get("/series?expand")}
    reports = [one for one in found.values() if one["MainDicomTags"].get("Modality") == "SR"]
    assert len(reports) == sum(routes.values())
    for report in reports:
        (instance,) = report["Instances"]
        content = httpx.get(f"{full_pacs.url}/instances/{instance}/file", timeout=30).content
        path = tmp_path / "report.dcm"
        path.write_bytes(content)
        uid = dcmread(BytesIO(content)).StudyInstanceUID
        ours = [line for line in errors_of(path) if "Illegal root for UID" not in line]  # the study's own, repeated
        assert ours == [], uid
        assert srread(path).content.get_image_measurement_groups()
