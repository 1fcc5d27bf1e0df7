from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from sqlalchemy import update

from pipeline.dicom.sandbox import Sandbox
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.prior_rows import priors_of
from pipeline.store.tables import case, identity, study
from tests.reading_room_cases import Clock, Desk, Wanted, add_case, make_room, mr_series, seat, visitor

OLD = Wanted(age=timedelta(days=400))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def room(database: Database, blobs: BlobStore, sandbox: Sandbox) -> Any:
    return make_room(database, blobs, sandbox, Clock())


@pytest.fixture
def desk(room: Any, database: Database) -> Desk:
    return seat(room, database)


def on_day(day: str, **more: Any) -> list[bytes]:
    made = []
    for one in mr_series(**more):
        dataset = pydicom.dcmread(io.BytesIO(one))
        dataset.StudyDate = day
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        made.append(buffer.getvalue())
    return made


def amend(database: Database, case_id: str, table: Any, **values: Any) -> None:
    with database.transaction() as connection:
        owner = case.select().where(case.c.id == case_id)
        study_id = connection.execute(owner).one().study_id
        key = table.c.id if table is study else table.c.study_id
        connection.execute(update(table).where(key == study_id).values(**values))


def revisions(database: Database, case_id: str) -> list[str | None]:
    with database.read() as connection:
        return [prior.study_date for prior in priors_of(connection, case_id)]


def test_a_run_of_images_is_that_part_of_the_whole(desk: Desk, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted(), files=mr_series(slices=6))
    home = f"/cases/{case_id}/series/0"
    whole = np.frombuffer(desk.get(f"{home}/pixels").content, dtype="<u2").reshape(6, 16, 16)
    run = np.frombuffer(desk.get(f"{home}/pixels?from=2&to=5").content, dtype="<u2").reshape(3, 16, 16)
    assert (run == whole[2:5]).all()
    assert run[0, 3, 4] == 2034
    one = np.frombuffer(desk.get(f"{home}/slices/5/pixels").content, dtype="<u2").reshape(16, 16)
    assert one[15, 15] == 5165
    assert desk.get(f"{home}/slices/0/pixels").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("pixels?from=3&to=3", 404),
        ("pixels?from=2&to=1", 404),
        ("pixels?from=0&to=4", 404),
        ("pixels?from=3", 404),
        ("pixels?from=-1&to=2", 422),
        ("pixels?from=a&to=2", 422),
        ("pixels?to=99999999999999999999", 422),
        ("slices/3/pixels", 404),
        ("slices/-1/pixels", 422),
        ("slices/1e3/pixels", 422),
    ],
)
def test_what_lies_outside_a_series_is_refused_without_insides(
    desk: Desk, database: Database, blobs: BlobStore, asked: str, status: int
) -> None:
    case_id = add_case(database, blobs, Wanted())
    answer = desk.get(f"/cases/{case_id}/series/0/{asked}")
    assert answer.status_code == status
    for inside in ("Traceback", "pydantic", "numpy", "99999999", "/pixels"):
        assert inside not in answer.text


def test_a_volume_tells_its_place_and_three_planes(desk: Desk, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted())
    about = desk.get(f"/cases/{case_id}/series/0").json()
    assert about["pixel_mm"] == [1.0, 1.0]
    assert about["affine"] == [[0.0, 0.0, 1.0, -8.0], [0.0, 1.0, 0.0, -8.0], [5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    assert [plane["name"] for plane in about["planes"]] == ["axial", "coronal", "sagittal"]


def test_images_that_form_no_volume_have_no_planes(desk: Desk, database: Database, blobs: BlobStore) -> None:
    case_id = add_case(database, blobs, Wanted(), files=mr_series(slices=6, missing=[3]))
    about = desk.get(f"/cases/{case_id}/series/0").json()
    assert (about["affine"], about["planes"], about["pixel_mm"]) == (None, [], [1.0, 1.0])


def test_earlier_studies_of_the_patient_are_offered_newest_first(
    desk: Desk, database: Database, blobs: BlobStore
) -> None:
    add_case(database, blobs, OLD, files=on_day("20240105", description="OLDEST"))
    add_case(database, blobs, OLD, files=on_day("20250601", slices=4, description="OLD"))
    case_id = add_case(database, blobs, Wanted(), files=on_day("20260313"))
    add_case(database, blobs, Wanted(), files=on_day("20260401"))  # a later one
    priors = desk.get(f"/cases/{case_id}/priors").json()["priors"]
    told = [(prior["words"], prior["images"]) for prior in priors]
    assert told == [("MR · MR head · 2025-06-01", 4), ("MR · MR head · 2024-01-05", 3)]
    home = f"/cases/{case_id}/priors/{priors[0]['prior']}/series"
    (series,) = desk.get(home).json()["series"]
    assert (series["words"], series["images"]) == ("3: OLD", 4)
    assert desk.get(f"{home}/0").json()["depth"] == 4
    one = np.frombuffer(desk.get(f"{home}/0/slices/3/pixels").content, dtype="<u2")
    assert one[16 * 2 + 1] == 3021
    assert len(desk.get(f"{home}/0/pixels?from=1&to=3").content) == 2 * 2 * 16 * 16


def test_no_study_of_another_patient_is_offered_or_shown(desk: Desk, database: Database, blobs: BlobStore) -> None:
    stranger = add_case(database, blobs, OLD, files=on_day("20250601"))
    amend(database, stranger, study, patient_pseudonym="somebody else")
    case_id = add_case(database, blobs, Wanted(), files=on_day("20260313"))
    assert desk.get(f"/cases/{case_id}/priors").json() == {"priors": []}
    with database.read() as connection:
        revision = connection.execute(case.select().where(case.c.id == stranger)).one().revision_id
        own = connection.execute(case.select().where(case.c.id == case_id)).one().revision_id
    for prior in (revision, own, stranger, "0", "%27"):
        for path in ("series", "series/0", "series/0/pixels", "series/0/slices/0/pixels"):
            assert desk.get(f"/cases/{case_id}/priors/{prior}/{path}").status_code == 404


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (study, {"identity_conflict": True}),
        (study, {"revision": 0}),  # nothing of it is sealed
        (identity, {"patient_birth_date": "19991231"}),
        (identity, {"patient_sex": "M"}),
        (identity, {"study_date": "20270101"}),
    ],
)
def test_a_study_in_doubt_is_not_offered(
    database: Database, blobs: BlobStore, table: Any, values: dict[str, Any]
) -> None:
    doubtful = add_case(database, blobs, OLD, files=on_day("20250601"))
    case_id = add_case(database, blobs, Wanted(), files=on_day("20260313"))
    assert revisions(database, case_id) == ["20250601"]
    amend(database, doubtful, table, **values)
    assert revisions(database, case_id) == []


def test_beside_a_study_with_two_identities_nothing_is_offered(database: Database, blobs: BlobStore) -> None:
    add_case(database, blobs, OLD, files=on_day("20250601"))
    case_id = add_case(database, blobs, Wanted(), files=on_day("20260313"))
    amend(database, case_id, study, identity_conflict=True)
    assert revisions(database, case_id) == []


def test_without_dates_the_order_of_arrival_decides(database: Database, blobs: BlobStore) -> None:
    first = add_case(database, blobs, OLD, files=mr_series())
    second = add_case(database, blobs, Wanted(), files=mr_series())
    for one in (first, second):
        amend(database, one, identity, study_date=None, study_time=None)
    assert revisions(database, first) == []
    assert revisions(database, second) == [None]


def test_images_and_priors_are_closed_to_who_may_not_see_cases(room: Any, database: Database, blobs: BlobStore) -> None:
    add_case(database, blobs, OLD, files=on_day("20250601"))
    case_id = add_case(database, blobs, Wanted(), files=on_day("20260313"))
    (prior,) = seat(room, database, "dr.who").get(f"/cases/{case_id}/priors").json()["priors"]
    homes = (f"/cases/{case_id}", f"/cases/{case_id}/priors/{prior['prior']}")
    paths = [f"{home}/series{rest}" for home in homes for rest in ("", "/0", "/0/pixels", "/0/slices/0/pixels")]
    paths.append(f"/cases/{case_id}/priors")
    keeper = seat(room, database, "keeper", role="data_scientist", specialties=())
    for path in paths:
        assert visitor(room).get(path).status_code in {303, 401}
        assert keeper.get(path).status_code == 403, path


def test_nothing_of_an_earlier_studys_case_is_told(desk: Desk, database: Database, blobs: BlobStore) -> None:
    earlier = add_case(database, blobs, OLD, files=on_day("20250601"))
    case_id = add_case(database, blobs, Wanted(), files=on_day("20260313"))
    answer = desk.get(f"/cases/{case_id}/priors")
    assert earlier not in answer.text
    assert set(answer.json()["priors"][0]) == {"prior", "words", "images"}
