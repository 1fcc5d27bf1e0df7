from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from models.dataset import content_digest, load_volume, read_labels, split_of_patient
from pipeline.domain.volume import Volume
from pipeline.errors import DeferCase, HaltPipeline
from pipeline.protocol import load_protocol

PROTOCOL = load_protocol("brain-tumour-slice")
REAL_LABELS = Path(__file__).parents[3] / "shared" / "data" / "classification" / "labels.csv"
FOUR = """path,label,patient,split,site
a.png,glioma,p1,train,north
b.png,meningioma,p2,tune,south
c.png,pituitary,p3,certify,north
d.png,glioma,p4,test,south
"""


def write(folder: Path, text: str, images: str = "abcd", encoding: str = "utf-8") -> Path:
    for name in images:
        (folder / f"{name}.png").write_bytes(name.encode())
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def refusal(path: Path, **arguments: Any) -> str:
    with pytest.raises(HaltPipeline) as caught:
        read_labels(path, PROTOCOL, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(path.name)
    return message


def no_dicom(path: Path) -> Volume:
    raise AssertionError


def test_rows_are_read_with_their_extra_columns_and_paths_relative_to_the_file(tmp_path: Path) -> None:
    found = read_labels(write(tmp_path, FOUR), PROTOCOL, needed=("train", "tune", "certify", "test"))
    assert [row.split for row in found.rows] == ["train", "tune", "certify", "test"]
    row = found.split("tune")[0]
    assert (row.path, row.name, row.label, row.patient) == (tmp_path / "b.png", "b.png", "meningioma", "p2")
    assert row.extras == {"site": "south"}
    assert found.targets("train") == [1]
    assert found.counts() == {"train": 1, "tune": 1, "certify": 1, "test": 1}


def test_a_byte_order_mark_and_spaces_around_values_do_no_harm(tmp_path: Path) -> None:
    text = FOUR.replace("path,label", "path , label").replace("a.png,glioma", " a.png , glioma ")
    found = read_labels(write(tmp_path, text, encoding="utf-8-sig"), PROTOCOL)
    assert (found.rows[0].name, found.rows[0].label) == ("a.png", "glioma")


def test_novel_splits_are_kept_apart_and_may_hold_labels_that_are_no_class(tmp_path: Path) -> None:
    found = read_labels(write(tmp_path, FOUR + "e.png,Hand,p5,ood,west\n", "abcde"), PROTOCOL)
    assert [row.label for row in found.split("ood")] == ["Hand"]
    named = FOUR + "e.png,Hand,p5,other_scanner,west\n"
    assert read_labels(write(tmp_path, named, "abcde"), PROTOCOL, novel=("other_scanner",)).novel == ("other_scanner",)


def test_a_split_that_is_asked_for_by_name_is_known(tmp_path: Path) -> None:
    text = FOUR.replace(",test,", ",external,")
    assert len(read_labels(write(tmp_path, text), PROTOCOL, needed=("external",)).split("external")) == 1


def test_images_without_labels_can_be_listed_for_prediction(tmp_path: Path) -> None:
    path = write(tmp_path, "path,patient,split\na.png,p1,this_week\n")
    row = read_labels(path, PROTOCOL, labelled=False).rows[0]
    assert (row.label, row.split) == ("", "this_week")


def test_without_a_split_column_patients_are_split_by_their_name_alone(tmp_path: Path) -> None:
    rows = "".join(f"{name}.png,glioma,p{name}\n" for name in "abcd")
    found = read_labels(write(tmp_path, "path,label,patient\n" + rows), PROTOCOL)
    assert [row.split for row in found.rows] == [split_of_patient(f"p{name}") for name in "abcd"]
    shares = Counter(split_of_patient(f"patient {number}") for number in range(4000))
    # Binomial standard deviations are at most 32; five of them.
    assert {
        name: abs(shares[name] - 4000 * share) < 160
        for name, share in (("train", 0.55), ("tune", 0.15), ("certify", 0.15), ("test", 0.15))
    } == dict.fromkeys(shares, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("path,label,patient", "path,diagnosis,patient"), "column 'label' is missing"),
        (("split,site", "split,split"), "column 'split' is there twice"),
        (
            ("a.png,glioma", "a.png,gliom"),
            "line 2: label 'gliom' is no class of protocol brain-tumour-slice; use one of",
        ),
        (("p2,tune", "p2,validation"), "line 3: split 'validation' is unknown; use one of"),
        (("p2,tune", ",tune"), "line 3: 'patient' is empty"),
        (("p2,tune", "p1,tune"), "lines 2 and 3: one patient is in the splits train and tune"),
        (("b.png", "missing.png"), "line 3: the image is not there; correct its path"),
        (("b.png,meningioma,p2,tune", "a.png,meningioma,p1,train"), "lines 2 and 3: the same image is listed twice"),
        (("p3,certify", "p3,tune"), "no image is in the split 'certify'"),
    ],
)
def test_what_is_wrong_with_a_labels_file_is_said_in_one_line_with_the_cure(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    path = write(tmp_path, FOUR.replace(*change, 1))
    message = refusal(path, needed=("train", "tune", "certify", "test"))
    assert said in message
    assert "p1" not in message
    assert "missing.png" not in message


def test_a_labels_file_that_is_absent_empty_or_not_text_is_refused(tmp_path: Path) -> None:
    assert "no such labels file" in refusal(tmp_path / "labels.csv")
    assert "holds no image" in refusal(write(tmp_path, "path,label,patient,split\n"))
    assert "holds no image" in refusal(write(tmp_path, ""))
    (tmp_path / "labels.csv").write_bytes(b"path,label\xff\xfe\x00\n")
    assert "cannot be read" in refusal(tmp_path / "labels.csv")
    assert "cannot be read" in refusal(tmp_path)


def test_too_few_patients_for_the_made_splits_are_refused_with_the_cure(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,patient\na.png,glioma,p1\n")
    assert "add a split column, or more patients" in refusal(path, needed=("train", "tune", "certify", "test"))


def test_nifti_is_turned_from_ras_to_lps_and_its_axes_to_slices_first(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    affine = np.array([[2.0, 0, 0, -10], [0, 3.0, 0, -20], [0, 0, 5.0, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "x.nii.gz")
    volume = load_volume(tmp_path / "x.nii.gz", no_dicom)
    assert volume.voxels.shape == (4, 3, 2)
    assert volume.voxels[3, 2, 1] == values[1, 2, 3]
    assert volume.spacing == (5.0, 3.0, 2.0)
    # Voxel (i, j, k) = (1, 2, 3) lies at RAS (-8, -14, 22), which is LPS (8, 14, 22).
    np.testing.assert_allclose(volume.affine @ [3, 2, 1, 1], [8, 14, 22, 1])


def test_png_is_one_grey_axial_slice_of_unit_spacing_with_all_its_bits(tmp_path: Path) -> None:
    values = np.array([[0, 100, 65535], [1, 2, 3]], np.uint16)
    Image.fromarray(values).save(tmp_path / "wide.png")
    Image.fromarray(np.full((4, 5, 3), 90, np.uint8)).save(tmp_path / "colour.PNG")
    wide, colour = load_volume(tmp_path / "wide.png", no_dicom), load_volume(tmp_path / "colour.PNG", no_dicom)
    np.testing.assert_array_equal(wide.voxels, values[None].astype(np.float32))
    assert wide.spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(wide.affine @ [0, 1, 2, 1], [2, 1, 0, 1])
    assert colour.voxels.shape == (1, 4, 5)
    assert float(colour.voxels.max()) == 90.0


def test_other_files_and_folders_go_to_the_dicom_reader(tmp_path: Path) -> None:
    seen: list[Path] = []
    volume = Volume(np.zeros((1, 2, 2), np.float32), np.eye(4))

    def reader(path: Path) -> Volume:
        seen.append(path)
        return volume

    assert load_volume(tmp_path, reader) is volume
    assert load_volume(tmp_path / "slice.dcm", reader) is volume
    assert seen == [tmp_path, tmp_path / "slice.dcm"]


def test_images_that_cannot_be_read_are_deferred_without_their_name(tmp_path: Path) -> None:
    good = tmp_path / "good.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)), good)
    bad = {
        "junk.png": b"not a picture",
        "cut.png": b"\x89PNG\r\n\x1a\n\x00\x00",
        "junk.nii": b"x" * 400,
        "junk.nii.gz": gzip.compress(b"y" * 400),
        "cut.nii.gz": gzip.compress(good.read_bytes())[:60],
        "four.nii": good.read_bytes(),
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DeferCase) as caught:
            load_volume(tmp_path / name, no_dicom)
        assert caught.value.reason == "UNREADABLE"
        assert name not in str(caught.value)


def test_a_nifti_value_that_is_not_finite_is_deferred(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 2), np.float32)
    values[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "nan.nii")
    with pytest.raises(DeferCase):
        load_volume(tmp_path / "nan.nii", no_dicom)


def test_content_digests_follow_the_bytes_and_not_the_names(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in ((one, ("a", "b")), (two, ("y", "x"))):
        folder.mkdir()
        for name, data in zip(names, (b"1", b"2"), strict=True):
            (folder / name).write_bytes(data)
    # SHA-256 of the byte "1", from FIPS 180-4 implementations elsewhere.
    assert content_digest(one / "a") == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assert content_digest(one) == content_digest(two)
    (two / "z").write_bytes(b"3")
    assert content_digest(one) != content_digest(two)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_LABELS.exists(), reason="the labelled images are not beside the repository")
def test_the_labelled_slices_are_read() -> None:
    found = read_labels(REAL_LABELS, PROTOCOL, needed=("train", "tune", "certify", "test"))
    assert found.counts() == {"train": 1362, "tune": 277, "certify": 366, "test": 457, "ood": 120}
    volume = load_volume(found.rows[0].path, no_dicom)
    assert volume.voxels.shape == (1, 160, 160)
