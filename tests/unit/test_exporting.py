"""Exports hold whole series under new names, and never overwrite."""

import csv
from functools import partial

import pytest

from pipeline.dicom.deidentify import DeidentifiedInstance, deidentified_instance
from pipeline.dicom.exporting import MANIFEST, ExportSummary, LabelledSeries, export_series
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.errors import HaltPipeline
from tests.dicom_files import a_head, a_slice, write_series

HEAD = a_head(4)


def deidentify(path):
    return deidentified_instance(path.read_bytes(), key=b"a key of the house")


def a_series(folder, **changes):
    folder.mkdir()
    return write_series(folder, [a_slice(pixels, index, **changes) for index, pixels in enumerate(HEAD)])


@pytest.fixture
def two_series(tmp_path):
    return [
        LabelledSeries(paths=a_series(tmp_path / "one"), label="glioma", split="train"),
        LabelledSeries(
            paths=a_series(tmp_path / "two", PatientID="P2", SeriesInstanceUID="1.2.9", StudyInstanceUID="1.3")
        ),
    ]


def rows(folder):
    with (folder / MANIFEST).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_manifest_has_one_row_per_series_and_its_images_can_be_read(two_series, tmp_path):
    summary = export_series(two_series, tmp_path / "out", deidentify)

    first, second = rows(tmp_path / "out")
    expected = deidentify(two_series[0].paths[0])
    assert summary == ExportSummary(series=2, refused={})
    assert first == {
        "path": f"{expected.patient}/{expected.series_instance_uid}",
        "label": "glioma", "patient": expected.patient, "split": "train",
    }  # fmt: skip
    assert (second["label"], second["split"]) == ("", "")
    assert second["patient"] != first["patient"]
    exported = read_series_in_process(sorted((tmp_path / "out" / first["path"]).iterdir()))
    assert (exported.voxels == read_series_in_process(list(two_series[0].paths)).voxels).all()


def test_no_old_name_or_uid_stands_in_a_path_or_in_the_manifest(two_series, tmp_path):
    export_series(two_series, tmp_path / "out", deidentify)

    told = " ".join(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*"))
    told += (tmp_path / "out" / MANIFEST).read_text()
    assert not [old for old in ("P1", "P2", "1.2.3.4", "Patient^", "000.dcm") if old in told]


def test_a_series_with_one_refused_file_is_left_out_whole_and_counted(two_series, tmp_path):
    write_series(tmp_path / "one", [a_slice(HEAD[0], 0), a_slice(HEAD[1], 1, BurnedInAnnotation="YES")])

    summary = export_series(two_series, tmp_path / "out", deidentify)

    assert summary == ExportSummary(series=1, refused={"burned_in_annotation": 1})
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == len(HEAD)
    assert len(rows(tmp_path / "out")) == 1
    assert not (tmp_path / "out" / ".partial").exists()


def test_files_of_two_series_are_not_mixed(two_series, tmp_path):
    mixed = LabelledSeries(paths=[*two_series[0].paths, *two_series[1].paths[:1]])

    assert export_series([mixed], tmp_path / "out", deidentify).refused in (
        {"mixed_series": 1},
        {"duplicate_instance": 1},
    )


def test_two_files_of_one_instance_are_refused(two_series, tmp_path):
    doubled = LabelledSeries(paths=[*two_series[0].paths, two_series[0].paths[0]])

    assert export_series([doubled], tmp_path / "out", deidentify).refused == {"duplicate_instance": 1}


def test_nothing_is_ever_overwritten(two_series, tmp_path):
    export_series(two_series, tmp_path / "out", deidentify)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    with pytest.raises(HaltPipeline, match="not empty"):
        export_series(two_series, tmp_path / "out", deidentify)
    with pytest.raises(HaltPipeline, match="twice"):
        export_series([two_series[0], two_series[0]], tmp_path / "again", deidentify)

    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("bad", [{"patient": "../../x"}, {"series_instance_uid": ".."}, {"sop_instance_uid": "/etc/x"}])
def test_a_name_that_would_leave_the_folder_is_refused(two_series, tmp_path, bad):
    names = {"patient": "0" * 16, "series_instance_uid": "2.25.1", "sop_instance_uid": "2.25.2"} | bad
    forged = partial(DeidentifiedInstance, data=b"x", study_instance_uid="2.25.3", **names)

    summary = export_series(two_series, tmp_path / "out", lambda _path: forged())

    assert summary.refused == {"invalid_uid": 2}
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [MANIFEST]
