import csv
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from pipeline.dicom.phantom_anatomy import TISSUES, draw_anatomy, generator, head_template
from pipeline.dicom.phantom_files import StudyHeader, write_series
from pipeline.dicom.phantom_lesions import draw_lesion
from pipeline.dicom.phantom_plan import PhantomPlan, SplitPlan, StreamEntry, StudyOrder
from pipeline.dicom.phantom_scanners import NORTH, SOUTH, UNSEEN
from pipeline.dicom.phantom_series import _template_places, acquire, draw_pose, plan_slices
from pipeline.dicom.phantoms import _draw_patient, generate_phantoms, make_study, write_labels_csv
from pipeline.errors import HaltPipeline

SEED = 11
PLAN = PhantomPlan(
    splits=(
        SplitPlan(name="train", finding=2, no_finding=2, repeated=1),
        SplitPlan(name="certify", finding=2, no_finding=1),
    ),
    stream=(StreamEntry(finding=True), StreamEntry(finding=False)),
)


def _digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    seen = []
    studies = generate_phantoms(folder, PLAN, SEED, lambda done, total: seen.append((done, total)))
    return folder, studies, seen


def _order(*, patient=1, study=1, finding=True, split="train"):
    return StudyOrder(patient=patient, study=study, finding=finding, split=split, defect=None)


def _datasets(study):
    return sorted((pydicom.dcmread(path) for path in study.series_folder.iterdir()), key=lambda d: d.InstanceNumber)


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    folder, _, _ = made
    generate_phantoms(tmp_path / "again", PLAN, SEED)
    assert _digests(tmp_path / "again") == _digests(folder)


def test_another_seed_gives_other_anatomy_and_other_identifiers(tmp_path):
    one = make_study(tmp_path / "one", _order(), seed=1)
    two = make_study(tmp_path / "two", _order(), seed=2)
    assert one.study_uid != two.study_uid
    assert not np.array_equal(_datasets(one)[10].pixel_array[:96, :96], _datasets(two)[10].pixel_array[:96, :96])


def test_a_study_does_not_depend_on_the_order_in_which_studies_are_made(made, tmp_path):
    folder, _, _ = made
    for order in reversed(PLAN.orders(SEED)):
        make_study(tmp_path, order, seed=SEED)
    assert _digests(tmp_path) == _digests(folder)


def test_a_patient_of_a_split_does_not_depend_on_the_other_splits():
    alone = PhantomPlan(splits=PLAN.splits[:1], stream=())
    assert alone.orders(SEED) == [order for order in PLAN.orders(SEED) if order.split == "train"]


@pytest.mark.slow
def test_two_processes_make_the_same_bytes_as_one(made, tmp_path):
    folder, studies, _ = made
    parallel = generate_phantoms(tmp_path / "parallel", PLAN, SEED, workers=2)
    assert [study.study_uid for study in parallel] == [study.study_uid for study in studies]
    assert _digests(tmp_path / "parallel") == _digests(folder)


def test_progress_counts_every_study_up_to_the_total(made):
    _, studies, seen = made
    assert seen == [(number, len(studies)) for number in range(1, len(studies) + 1)]
    assert len(studies) == (2 + 2) + 2 + 3 + 2


def test_a_folder_with_phantoms_is_not_written_over(made):
    folder, _, _ = made
    with pytest.raises(HaltPipeline, match="already holds phantom studies"):
        generate_phantoms(folder, PLAN, SEED)


def test_the_positions_of_the_slices_form_one_regular_grid(made):
    _, studies, _ = made
    for study in studies:
        datasets = _datasets(study)
        orientation = np.array(datasets[0].ImageOrientationPatient, dtype=float)
        along_row, along_column = orientation[:3], orientation[3:]
        assert np.allclose([along_row @ along_row, along_column @ along_column], 1, atol=1e-6)
        assert abs(along_row @ along_column) < 1e-6
        positions = np.array([dataset.ImagePositionPatient for dataset in datasets], dtype=float)
        steps = np.diff(positions @ np.cross(along_row, along_column))
        assert np.allclose(np.abs(steps), float(datasets[0].SpacingBetweenSlices), atol=1e-4)
        assert (steps > 0).all() or (steps < 0).all()
        in_plane = np.diff(positions, axis=0) @ np.stack([along_row, along_column], axis=1)
        assert np.allclose(in_plane, 0, atol=1e-4)


def test_the_tags_agree_with_the_pixels_and_with_each_other(made):
    _, studies, _ = made
    for study in studies:
        datasets = _datasets(study)
        assert [dataset.InstanceNumber for dataset in datasets] == list(range(1, len(datasets) + 1))
        assert len({dataset.SOPInstanceUID for dataset in datasets}) == len(datasets)
        assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 1
        for dataset in datasets:
            assert dataset.StudyInstanceUID == study.study_uid
            assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
            assert dataset.SOPInstanceUID.startswith("2.25.")
            assert dataset.SOPInstanceUID.is_valid
            assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
            assert dataset.ImagesInAcquisition == len(datasets)
            assert (dataset.Modality, dataset.BodyPartExamined) == ("MR", "BRAIN")
            assert list(dataset.ImageType) == ["ORIGINAL", "PRIMARY", "M"]
            assert 18 <= int(dataset.PatientAge[:3]) <= 120
            assert str(dataset.PatientName) == f"PHANTOM^{dataset.PatientID}"
            assert dataset.pixel_array.shape == (dataset.Rows, dataset.Columns)
            assert dataset.pixel_array.max() < 2**dataset.BitsStored


def test_left_right_top_and_bottom_are_where_the_tags_say(tmp_path):
    study = make_study(tmp_path, _order(finding=False), seed=SEED)
    datasets = sorted(_datasets(study), key=lambda dataset: dataset.ImagePositionPatient[2])
    area = [int((d.pixel_array > np.percentile(datasets[8].pixel_array, 60)).sum()) for d in datasets]
    assert area[-1] < area[10] / 2, "the highest slice lies near the vertex, where a head is small"
    orientation = np.array(datasets[0].ImageOrientationPatient, dtype=float)
    assert orientation[0] > 0.95, "columns run towards the patient's left (LPS +x)"
    assert orientation[4] > 0.95, "rows run towards the back (LPS +y)"


def test_the_two_scanners_differ_in_signature_matrix_and_grey_scale(tmp_path):
    found = {}
    for patient in range(1, 12):
        study = make_study(tmp_path, _order(patient=patient, finding=False), seed=SEED)
        found.setdefault(study.scanner, study)
    north, south = _datasets(found["north_1"])[0], _datasets(found["south_1"])[0]
    assert north.Manufacturer != south.Manufacturer
    assert north.SoftwareVersions != south.SoftwareVersions
    assert (north.Rows, south.Rows) == (96, 104)
    assert "RescaleSlope" not in north
    assert float(south.RescaleSlope) == 2.5


def test_a_compressed_series_loses_no_pixel(tmp_path):
    rng = generator("compressed")
    scanner = replace(NORTH, compressed_share=1.0)
    acquisition = acquire(scanner, plan_slices(scanner, rng), draw_anatomy(rng, 50), None, pose=draw_pose(rng), rng=rng)
    header = StudyHeader(
        key=("compressed",),
        patient_id="P1",
        sex="F",
        age=50,
        date="20250101",
        time="120000",
        accession="A1",
        body_part="BRAIN",
    )
    datasets = [pydicom.dcmread(p) for p in write_series(tmp_path, header, acquisition, series="axial", names=rng)]
    assert {dataset.file_meta.TransferSyntaxUID for dataset in datasets} == {RLELossless}
    assert np.array_equal(np.stack([dataset.pixel_array for dataset in datasets]), acquisition.pixels)


def test_file_names_do_not_tell_the_order_of_the_slices(made):
    _, studies, _ = made
    numbers = [pydicom.dcmread(path).InstanceNumber for path in sorted(studies[0].series_folder.iterdir())]
    assert numbers != sorted(numbers)
    assert numbers != sorted(numbers, reverse=True)


def test_some_studies_have_a_localizer_that_says_so(tmp_path):
    studies = [make_study(tmp_path, _order(patient=number), seed=SEED) for number in range(1, 11)]
    scouts = [study for study in studies if (study.folder / "scout").exists()]
    assert 0 < len(scouts) < len(studies)
    for path in (scouts[0].folder / "scout").iterdir():
        assert pydicom.dcmread(path).ImageType[2] == "LOCALIZER"


def test_a_repeated_patient_keeps_anatomy_and_tumour_and_gets_other_pixels(made):
    _, studies, _ = made
    by_patient = Counter(study.patient_id for study in studies if study.split == "train")
    twice = [study for study in studies if by_patient[study.patient_id] == 2]
    assert len(twice) == 4
    for first, second in zip(twice[::2], twice[1::2], strict=True):
        assert (first.patient_id, first.conspicuity) == (second.patient_id, second.conspicuity)
        assert (first.age, first.sex) == (second.age, second.sex)
        assert first.study_uid != second.study_uid
    assert all(count == 1 for patient, count in by_patient.items() if patient not in {s.patient_id for s in twice})


def _contrast(conspicuity, scanner, number):
    """Mean excess signal of a tumour's solid part over the same voxels without it, in noise standard deviations."""
    with_lesion = []
    for lesion in (draw_lesion(generator("lesion", number), head_template(), conspicuity), None):
        rng = generator("scan", number)
        anatomy, geometry, pose = draw_anatomy(rng, 50), plan_slices(scanner, rng), draw_pose(rng)
        with_lesion.append(acquire(scanner, geometry, anatomy, lesion, pose=pose, rng=rng))
    there, gone = with_lesion
    if not there.lesion.any():
        return 0.0, 0
    step = (scanner.slope or 1.0) / scanner.gain / scanner.noise
    difference = there.pixels[there.lesion].astype(float) - gone.pixels[there.lesion]
    return float(difference.mean()) * step, int(there.lesion.sum())


@pytest.mark.parametrize("scanner", [NORTH, SOUTH], ids=lambda scanner: scanner.name)
def test_contrast_and_size_in_pixels_grow_with_conspicuity(scanner):
    graded = [[_contrast(c, scanner, number) for number in range(4)] for c in (0.05, 0.2, 0.5, 1.0)]
    contrast = [np.mean([pair[0] for pair in level]) for level in graded]
    size = [np.mean([pair[1] for pair in level]) for level in graded]
    assert contrast == sorted(contrast)
    assert size == sorted(size)
    assert contrast[-1] > 3 * contrast[0]
    assert size[-1] > 5 * size[0]


def test_a_faint_lesion_of_a_patient_without_tumour_is_as_conspicuous_as_a_faint_tumour():
    patients = [
        _draw_patient(_order(patient=n, finding=finding), 3) for n in range(1, 151) for finding in (True, False)
    ]
    tumours = [patient.lesion.conspicuity for patient in patients if patient.tumour]
    mimics = [patient.lesion.conspicuity for patient in patients if not patient.tumour and patient.lesion]
    faint = [conspicuity for conspicuity in tumours if conspicuity <= 0.18]
    assert len(tumours) == 150
    assert 0 < min(tumours) < 0.1
    assert 0.9 < max(tumours) <= 1
    assert 0.02 < len(faint) / 150 < 0.15
    assert 0.1 < len(mimics) / 150 < 0.3
    assert max(mimics) <= 0.18
    assert max(min(mimics), min(faint)) < 0.07


def _grey_to_white(scanner):
    rng = generator("look", scanner.name)
    anatomy, geometry, pose = draw_anatomy(rng, 50), plan_slices(scanner, rng), draw_pose(rng)
    pixels = acquire(scanner, geometry, anatomy, None, pose=pose, rng=rng).pixels
    place, template = _template_places(geometry, anatomy, pose), head_template()
    white, grey = (template.sample(template.tissues[index], place) > 0.85 for index in (0, 1))
    return pixels[grey].mean() / pixels[white].mean(), pixels[:, :4, :4].mean() / pixels[white].mean()


def test_the_unseen_scanner_has_another_contrast_and_more_noise_than_the_known_ones():
    known, unseen = [_grey_to_white(scanner) for scanner in (NORTH, SOUTH)], _grey_to_white(UNSEEN)
    assert all(contrast > 1.1 for contrast, _ in known)
    assert unseen[0] < 0.9
    assert unseen[1] > 1.5 * max(noise for _, noise in known)


def test_the_template_holds_fractions_that_add_up_to_at_most_one_in_the_brain():
    template = head_template()
    assert template.tissues.shape[0] == len(TISSUES)
    assert template.tissues.min() >= 0
    centre = np.array([[26.0], [-20.0], [26.0]], dtype=np.float32)  # deep white matter, RAS mm
    fractions = [float(template.sample(tissue, centre)[0]) for tissue in template.tissues]
    assert fractions[0] > 0.8
    assert sum(fractions) == pytest.approx(1.0, abs=0.15)


def test_labels_name_every_labelled_series_relative_to_the_file(made, tmp_path):
    folder, studies, _ = made
    write_labels_csv(studies, folder / "labels.csv")
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "patient", "split", "site", "sex", "age", "scanner", "conspicuity"]
    assert len(rows) == sum(study.split is not None for study in studies)
    assert Counter(row["label"] for row in rows) == {"tumour": 5, "no_tumour": 4}
    for row in rows:
        assert len(list((folder / row["path"]).iterdir())) in {20, 21}
        assert not Path(row["path"]).is_absolute()
    assert not {row["patient"] for row in rows if row["split"] == "train"} & {
        row["patient"] for row in rows if row["split"] == "certify"
    }


def test_the_demo_plan_has_the_patients_a_certificate_needs():
    counts = Counter((order.split, order.finding) for order in PhantomPlan.demo().orders(1))
    assert (counts["train", True], counts["train", False]) == (75, 75)
    assert (counts["certify", True], counts["certify", False]) == (200, 60)
    patients = [order.patient for order in PhantomPlan.demo().orders(1) if order.split == "certify"]
    assert len(set(patients)) == len(patients)
