import hashlib

import numpy as np
import pydicom
import pytest

from pipeline.dicom.phantom_defects import EXPECTATIONS, Defect
from pipeline.dicom.phantom_plan import PhantomPlan, StudyOrder
from pipeline.dicom.phantoms import make_study
from pipeline.domain.case import OUT_OF_SCOPE_REASONS, Reason, Route

SEED = 5


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defects")
    return {
        defect: make_study(
            folder,
            StudyOrder(patient=9000 + number, study=1, finding=number % 2 == 0, split=None, defect=defect),
            seed=SEED,
        )
        for number, defect in enumerate([None, *Defect])
    }


def _read(study, folder="axial"):
    place = study.folder / folder
    paths = list(place.iterdir()) if place.exists() else []
    return sorted((pydicom.dcmread(path) for path in paths), key=lambda dataset: dataset.InstanceNumber)


def _numbers(study):
    return [dataset.InstanceNumber for dataset in _read(study)]


def _complete(study):
    datasets = _read(study)
    return [d.InstanceNumber for d in datasets] == list(range(1, datasets[0].ImagesInAcquisition + 1))


def test_a_study_without_defect_is_complete_and_may_take_any_route_but_out_of_scope(broken):
    assert _complete(broken[None])
    assert set(broken[None].allowed_routes) == {"PRIORITY", "ROUTINE", "REVIEW"}
    assert not broken[None].must_be_deferred


@pytest.mark.parametrize("defect", list(Defect))
def test_the_list_of_files_is_what_lies_in_the_folder(broken, defect):
    study = broken[defect]
    assert set(study.files) == {path for path in study.folder.rglob("*") if path.is_file()}
    assert len(set(study.files)) == len(study.files)


def test_a_missing_slice_leaves_a_gap_in_numbers_and_positions(broken):
    datasets = _read(broken[Defect.MISSING_SLICE])
    numbers = [dataset.InstanceNumber for dataset in datasets]
    assert len(numbers) == datasets[0].ImagesInAcquisition - 1
    assert sorted(np.diff(numbers))[-2:] == [1, 2]


def test_a_late_slice_lies_apart_and_completes_the_series(broken):
    study = broken[Defect.LATE_SLICE]
    (late,) = study.late_files
    assert study.folder not in late.parents
    assert late.parent.parent.name == "late"
    there = _read(study)
    numbers = [dataset.InstanceNumber for dataset in there]
    assert sorted([*numbers, pydicom.dcmread(late).InstanceNumber]) == list(range(1, there[0].ImagesInAcquisition + 1))
    assert pydicom.dcmread(late).SeriesInstanceUID == there[0].SeriesInstanceUID


def test_a_duplicate_is_the_same_bytes_under_another_name(broken):
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in broken[Defect.DUPLICATE].series_folder.iterdir()]
    assert len(digests) == len(set(digests)) + 1


def test_a_conflicting_duplicate_has_one_identifier_and_two_contents(broken):
    datasets = _read(broken[Defect.CONFLICTING_DUPLICATE])
    uids = [dataset.SOPInstanceUID for dataset in datasets]
    (twice,) = {uid for uid in uids if uids.count(uid) == 2}
    one, two = (dataset.pixel_array for dataset in datasets if dataset.SOPInstanceUID == twice)
    assert not np.array_equal(one, two)


def test_an_identity_conflict_has_two_patient_ids_in_one_study(broken):
    datasets = _read(broken[Defect.IDENTITY_CONFLICT])
    assert len({dataset.PatientID for dataset in datasets}) == 2
    assert len({dataset.StudyInstanceUID for dataset in datasets}) == 1


def test_a_corrupt_file_has_fewer_pixels_than_its_header_says(broken):
    datasets = _read(broken[Defect.CORRUPT_FILE])
    short = [d for d in datasets if len(d.get("PixelData", b"")) < d.Rows * d.Columns * 2]
    assert len(short) == 1
    with pytest.raises(ValueError):
        _ = short[0].pixel_array


def test_blank_slices_hold_zeros_alone(broken):
    blank = [number for number, d in enumerate(_read(broken[Defect.BLANK])) if not d.pixel_array.any()]
    assert len(blank) == 3
    assert blank == list(range(blank[0], blank[0] + 3))
    assert not any(d.pixel_array.any() for d in _read(broken[Defect.BLANK_STUDY]))


def test_motion_spreads_the_head_over_the_background(broken):
    def background(study):
        pixels = np.stack([dataset.pixel_array for dataset in _read(study)]).astype(float)
        edge = pixels[5:15, :8, 20:-20]
        return edge.mean() / np.percentile(pixels, 99)

    assert background(broken[Defect.MOTION]) > 2 * background(broken[None])


def test_twin_series_are_two_equally_long_axial_series(broken):
    study = broken[Defect.TWIN_SERIES]
    first, second = _read(study), _read(study, "axial_again")
    assert len(first) == len(second)
    assert first[0].SeriesInstanceUID != second[0].SeriesInstanceUID
    assert not {d.SOPInstanceUID for d in first} & {d.SOPInstanceUID for d in second}
    assert all(d.SOPInstanceUID == d.file_meta.MediaStorageSOPInstanceUID for d in second)


def test_a_study_of_localizers_alone_has_no_axial_series(broken):
    study = broken[Defect.SCOUT_ONLY]
    assert not study.series_folder.exists()
    assert [dataset.ImageType[2] for dataset in _read(study, "scout")] == ["LOCALIZER"] * 3


def test_a_report_has_no_pixels_and_lies_alone_or_beside_images(broken):
    alone, beside = broken[Defect.REPORT_ONLY], broken[Defect.REPORT_BESIDE]
    assert len(alone.files) == 1
    (report,) = _read(alone, "report")
    assert report.Modality == "SR"
    assert "PixelData" not in report
    assert report.StudyInstanceUID == alone.study_uid
    assert _complete(beside)
    assert len(_read(beside, "report")) == 1


def test_a_stray_file_is_not_dicom_and_the_images_are_complete(broken):
    study = broken[Defect.STRAY_FILE]
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(study.folder / "README.TXT")
    assert _complete(study)


def test_another_modality_says_so_and_holds_hounsfield_units(broken):
    dataset = _read(broken[Defect.OTHER_MODALITY])[10]
    assert (dataset.Modality, dataset.SOPClassUID) == ("CT", "1.2.840.10008.5.1.4.1.1.2")
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    assert values[:4, :4].mean() == pytest.approx(-1000, abs=30)
    assert 20 < np.median(values[(values > 0) & (values < 100)]) < 45


def test_another_body_part_is_a_complete_series_that_is_no_head(broken):
    assert {dataset.BodyPartExamined for dataset in _read(broken[Defect.OTHER_BODY_PART])} == {"KNEE"}
    assert {dataset.BodyPartExamined for dataset in _read(broken[Defect.MISLABELLED_PART])} == {"BRAIN"}
    assert _complete(broken[Defect.OTHER_BODY_PART])
    assert _complete(broken[Defect.MISLABELLED_PART])


def test_header_defects_are_in_every_header(broken):
    assert not any("BodyPartExamined" in dataset for dataset in _read(broken[Defect.MISSING_BODY_PART]))
    assert {dataset.PatientAge for dataset in _read(broken[Defect.CHILD])} == {"008Y"}
    assert {dataset.ManufacturerModelName for dataset in _read(broken[Defect.UNSEEN_SCANNER])} == {"X7"}


def test_every_defect_says_what_must_become_of_it():
    assert set(EXPECTATIONS) == set(Defect)
    for expected in EXPECTATIONS.values():
        assert set(expected.routes) <= set(Route)
        assert set(expected.reasons) <= set(Reason)
        if expected.routes == (Route.OUT_OF_SCOPE,):
            assert set(expected.reasons) <= OUT_OF_SCOPE_REASONS
            assert expected.truth == "foreign"


def test_unusable_and_foreign_studies_may_never_be_routine(broken):
    for study in broken.values():
        if study.truth in {"unusable", "foreign"}:
            assert study.must_be_deferred
            assert study.expected_reasons


def test_both_ready_plans_hold_every_defect_once():
    for plan in (PhantomPlan.demo(), PhantomPlan.small()):
        defects = [order.defect for order in plan.orders(1) if order.defect is not None]
        assert sorted(defects) == sorted(Defect)
