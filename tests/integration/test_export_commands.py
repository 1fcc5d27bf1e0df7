"""Studies leave the house without their identity: through the command, the real intake and the real limited child."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from flows import cli
from flows.bootstrap import House
from flows.receiving import take_in
from pipeline.domain.pseudonyms import patient_pseudonym
from pipeline.intake import seal_quiet_studies
from pipeline.store import audit_rows, read_rows
from pipeline.store.database import canonical_json
from pipeline.store.tables import account, audit_event, case, study, worklist_item
from tests.dicom_files import a_head, a_slice, small_slice, to_bytes
from tests.door_house import door_house, ledger

NOW = datetime.now(UTC)
FIRST = {
    "PatientName": "Canary^Jane",
    "PatientID": "CANARY-7",
    "AccessionNumber": "VISIT4711",
    "StudyDescription": "of Canary Jane",
    "ReferringPhysicianName": "Doctor^Finch",
    "InstitutionName": "Finch Hospital",
    "PatientBirthDate": "19610229",
    "StudyDate": "20240311",
}
SECOND = FIRST | {"PatientName": "Sparrow^Joe", "PatientID": "SPARROW-8", "AccessionNumber": "VISIT4712"}
STUDIES = ("1.2.826.0.4711", "1.2.826.0.4712")
IDENTITY = ("CANARY", "SPARROW", "JANE", "FINCH", "VISIT471", "19610229", "20240311", "1.2.826.0.471")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("SECONDREAD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SECONDREAD_RESERVE_MB", "0")
    with door_house(tmp_path) as opened:
        yield opened


def take(house: House, folder: Path, files: list[bytes]) -> None:
    """Through the real intake, and sealed."""
    folder.mkdir()
    for place, data in enumerate(files):
        (folder / f"{place:03}.dcm").write_bytes(data)
    receipts = take_in(house, folder, source="folder")
    assert {str(receipt.verdict) for receipt in receipts} == {"accepted"}
    protocols = list(house.protocols.values())
    seal_quiet_studies(house.database, protocols, quiet=timedelta(0), now=NOW, force=True)


@pytest.fixture
def two_studies(house: House, tmp_path: Path) -> House:
    for uid, person in zip(STUDIES, (FIRST, SECOND), strict=True):
        take(house, tmp_path / uid, [small_slice(number, study=uid, slices=4, **person) for number in range(1, 5)])
    return house


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    assert cli.run(["export", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(house: House, table: Any) -> list[Any]:
    with house.database.read() as connection:
        return list(connection.execute(table.select()))


def test_every_sealed_study_leaves_whole_and_no_byte_names_anybody(two_studies, tmp_path, capsys) -> None:
    done = printed(capsys, "--all", "--out", tmp_path / "out")

    assert (done["studies"], done["series"], done["images"], done["refused"], done["left_out"]) == (2, 2, 8, {}, [])
    rows = manifest(tmp_path / "out")
    assert [list(row) for row in rows] == [["path", "label", "patient", "split"]] * 2
    assert {(row["label"], row["split"]) for row in rows} == {("", "")}
    assert len({row["patient"] for row in rows}) == 2
    everything = contents(tmp_path / "out")
    assert len(everything) == 9
    told = b"".join(str(path).encode() + data for path, data in everything.items()).upper()
    assert [word for word in IDENTITY if word.encode() in told] == []
    for path in everything.keys() - {Path("manifest.csv")}:
        image = dcmread(tmp_path / "out" / path)
        assert image.PatientID == path.parts[0]
        assert image.pixel_array.tobytes() == a_head(4)[image.InstanceNumber - 1].tobytes()


def test_new_names_are_of_the_exports_own_key_and_the_same_in_every_export(two_studies, tmp_path, capsys) -> None:
    printed(capsys, "--all", "--out", tmp_path / "one")
    printed(capsys, "--all", "--out", tmp_path / "two")

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    of_house = {row.patient_pseudonym for row in rows_of(two_studies, study)}
    exported = {row["patient"] for row in manifest(tmp_path / "one")}
    assert not [name for name in exported if any(pseudonym.startswith(name) for pseudonym in of_house)]
    header = two_studies.sandbox.inspect(tmp_path / STUDIES[0] / "000.dcm")
    assert patient_pseudonym(two_studies.keys.export, header)[:16] in exported


@pytest.mark.parametrize("kind", ["id", "uid", "case"])
def test_one_study_is_named_by_its_id_its_uid_or_a_case(two_studies, tmp_path, capsys, kind) -> None:
    wanted = next(row for row in rows_of(two_studies, study) if row.study_instance_uid == STUDIES[1])
    of_study = next(row for row in rows_of(two_studies, case) if row.study_id == wanted.id)
    name = {"id": wanted.id, "uid": STUDIES[1], "case": of_study.id}[kind]

    done = printed(capsys, name, name, "--out", tmp_path / "out")

    assert (done["studies"], done["images"]) == (1, 4)
    header = two_studies.sandbox.inspect(tmp_path / STUDIES[1] / "000.dcm")
    assert manifest(tmp_path / "out")[0]["patient"] == patient_pseudonym(two_studies.keys.export, header)[:16]


def commit(house: House, study_uid: str, *findings: str, agreement: str | None = None) -> None:
    """One committed read for each finding."""
    wanted = next(row for row in rows_of(house, study) if row.study_instance_uid == study_uid)
    with house.database.transaction() as connection:
        of_study = connection.execute(case.select().where(case.c.study_id == wanted.id)).one()
        for place, finding in enumerate(findings):
            reader = {"id": f"{study_uid}-{place}", "name": f"{study_uid}-{place}", "created_at": NOW}
            connection.execute(account.insert().values(**reader, password_hash="-", role="reader", specialties=[]))
            item = {"id": f"{study_uid}-{place}", "case_id": of_study.id, "state": "COMPLETED", "specialty": "x"}
            dates = {"created_at": NOW, "due_at": NOW}
            connection.execute(worklist_item.insert().values(**item, **dates, priority=1, reasons=[]))
            read = read_rows.add_read(
                connection, item_id=item["id"], case_id=of_study.id, reader_id=reader["id"], finding=finding,
                certainty=5, comment="Canary", fence=1, opened_at=NOW, committed_at=NOW, number=place + 1,
            )  # fmt: skip
            if agreement is not None:
                read_rows.mark_revealed(connection, read_id=read, now=NOW + timedelta(seconds=1))
                read_rows.record_agreement(connection, read_id=read, agreement=agreement)


@pytest.mark.parametrize(
    ("findings", "label"),
    [
        (("finding",), True),
        (("finding", "disagree"), True),
        (("finding", "amend"), False),
        (("cannot_be_read",), False),
        (("finding", "finding"), True),
        (("finding", "none"), False),
        (("none", "finding", "finding"), True),  # the third decides
        (("of another protocol",), False),
    ],
)
def test_labels_are_what_the_adjudicator_or_all_committed_reads_say(
    two_studies, tmp_path, capsys, findings, label
) -> None:
    names = two_studies.only_protocol(None).class_names
    of = {"finding": names[0], "none": names[1]}
    agreement = findings[-1] if findings[-1] in {"disagree", "amend"} else None
    said = [of.get(finding, finding) for finding in findings if finding != agreement]
    commit(two_studies, STUDIES[0], *said, agreement=agreement)

    printed(capsys, *STUDIES, "--out", tmp_path / "labelled", "--labels")
    printed(capsys, *STUDIES, "--out", tmp_path / "bare")

    assert [row["label"] for row in manifest(tmp_path / "labelled")] == [names[0] if label else "", ""]
    assert [row["label"] for row in manifest(tmp_path / "bare")] == ["", ""]


def test_a_second_run_overwrites_nothing(two_studies, tmp_path, capsys) -> None:
    printed(capsys, "--all", "--out", tmp_path / "out")
    before = contents(tmp_path / "out")

    assert cli.run(["export", STUDIES[0], "--out", str(tmp_path / "out")]) == 2

    assert "not empty" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def a_screenshot(uid: str) -> bytes:
    """A secondary capture that does not say whether a name stands in it."""
    of_study = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.9", "SOPInstanceUID": f"{uid}.9.1"}
    kind = {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT", "ConversionType": "WSD"}
    return to_bytes(a_slice(a_head(1)[0], 0, **of_study, **kind, **FIRST))


def test_a_screenshot_that_may_show_a_name_is_refused_and_its_study_named(house, tmp_path, capsys) -> None:
    uid = STUDIES[0]
    sound = [small_slice(number, study=uid, slices=4, **FIRST) for number in range(1, 5)]
    take(house, tmp_path / "in", [*sound, a_screenshot(uid)])

    done = printed(capsys, uid, "--out", tmp_path / "out", code=1)

    (of_house,) = rows_of(house, study)
    assert done["refused"] == {"burned_in_annotation": 1}
    assert done["left_out"] == [{"study": of_house.id, "reason": "burned_in_annotation", "images": 1}]
    assert (done["series"], done["images"], len(contents(tmp_path / "out"))) == (1, 4, 5)
    assert cli.run(["export", uid, "--out", str(tmp_path / "again")]) == 1
    said = capsys.readouterr().out
    assert "burned_in_annotation" in said
    assert "1 series of 1 studies written, 4 images." in said
    assert uid not in said


def test_bytes_that_are_no_longer_those_received_are_refused(two_studies, tmp_path, capsys) -> None:
    first = ledger(two_studies)[0]
    blob = two_studies.blobs.path(first.sha256)
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes() + b"x")

    done = printed(capsys, "--all", "--out", tmp_path / "out", code=1)

    assert (done["refused"], done["images"]) == ({"lost_bytes": 1}, 4)
    assert done["left_out"] == [{"study": first.study_id, "reason": "lost_bytes", "images": 4}]


def test_two_studies_with_one_series_do_not_stop_the_others(two_studies, tmp_path, capsys) -> None:
    uid = f"{STUDIES[0]}.1"
    take(
        two_studies,
        tmp_path / "again",
        [small_slice(1, study=uid, slices=4, SeriesInstanceUID=f"{STUDIES[0]}.5", **FIRST)],
    )

    done = printed(capsys, "--all", "--out", tmp_path / "out", code=1)

    assert (done["studies"], done["images"], done["refused"]) == (3, 8, {"repeated_series": 1})


def test_the_trail_tells_how_much_left_and_nothing_of_whom(two_studies, tmp_path, capsys) -> None:
    done = printed(capsys, "--all", "--out", tmp_path / "out")

    with two_studies.database.read() as connection:
        assert audit_rows.verify_chain(connection) == []
    begun, ended = rows_of(two_studies, audit_event)[-2:]
    digest = hashlib.sha256("\n".join(sorted(row.id for row in rows_of(two_studies, study))).encode()).hexdigest()
    counts = {"images": 8, "refused": {}, "series": 2, "studies": 2, "studies_digest": digest}
    sealed = {"manifest_sha256": hashlib.sha256((tmp_path / "out" / "manifest.csv").read_bytes()).hexdigest()}
    assert (begun.event, begun.payload) == ("export_begun", canonical_json({"studies": 2, "studies_digest": digest}))
    assert (ended.event, ended.payload) == ("studies_exported", canonical_json(counts | sealed))
    assert set(done) == {"folder", "left_out", *counts, *sealed}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody", "--out", "OUT"], "name 1 is no sealed study"),
        (["--out", "OUT"], "--all"),
        ([STUDIES[0], "--all", "--out", "OUT"], "one of the two"),
        (["--all", "--out", "FILE"], "cannot be written"),
        (["--all", "--out", "OUT", "--labels", "--protocol", "none"], "none"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_writes_nothing(two_studies, tmp_path, capsys, arguments, said) -> None:
    (tmp_path / "file").touch()
    places = {"OUT": str(tmp_path / "out"), "FILE": str(tmp_path / "file" / "below")}

    assert cli.run(["export", *(places.get(argument, argument) for argument in arguments)]) == 2

    told = capsys.readouterr().err
    assert said in told
    assert STUDIES[0] not in told
    assert not (tmp_path / "out").exists()


def test_a_study_that_may_still_grow_is_not_exported(house, tmp_path, capsys) -> None:
    (tmp_path / "one.dcm").write_bytes(small_slice(1, study=STUDIES[0]))
    take_in(house, tmp_path / "one.dcm", source="folder")

    assert printed(capsys, "--all", "--out", tmp_path / "out")["studies"] == 0
    assert cli.run(["export", STUDIES[0], "--out", str(tmp_path / "other")]) == 2
