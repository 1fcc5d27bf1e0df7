import csv
import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.dicom.rejections import RefusedInstance
from pipeline.dicom.sandbox import Sandbox
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.domain.case import Reason
from pipeline.errors import DeferCase

pytestmark = pytest.mark.real_data
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
DICOM = DATA / "dicom"

#: Where our verdict on the single files is not the one the manifest expects, and why.
DIFFERENCES = {
    "broken/real/bad_sequence.dcm": ("invalid_uid", "the publisher replaced its UIDs by hashes, which are no UIDs"),
    "files/htj2k/HTJ2K_08_RGB.dcm": ("missing_study_instance_uid", "pixels are sound, but it belongs to no study"),
    "files/htj2k_lossless/HTJ2KLossless_08_RGB.dcm": ("missing_study_instance_uid", "likewise"),
    "files/jpeg_ls_near/JPEGLSNearLossless_08.dcm": ("missing_study_instance_uid", "likewise"),
    "files/jpeg_ls_near/JPEGLSNearLossless_16.dcm": ("missing_study_instance_uid", "likewise"),
    "files/implicit_le/rtdose_1frame.dcm": ("not_an_image", "a dose grid is no radiological image"),
    "broken/series/duplicate_uid_other_pixels": ("accepted", "a conflict between instances is for intake to see"),
    "broken/series/two_patients_one_series": ("accepted", "an identity conflict is for intake to see"),
}

#: Reasons for the files made broken on purpose: the right one, not just any.
REASONS = {
    "all_zero_pixels": "blank_image", "bits_allocated_0": "bad_pixel_description", "cut_in_header": "truncated",
    "cut_in_pixels": "truncated", "declared_j2k_but_raw": "undecodable", "deflate_128MB_zeros": "too_large",
    "dicm_prefix_only": "no_file_meta", "empty": "empty_file", "executable_like_preamble": "executable_preamble",
    "huge_dimensions": "too_large", "no_pixel_data": "no_pixel_data", "no_rows": "missing_rows",
    "no_sop_uid": "missing_sop_instance_uid", "no_study_uid": "missing_study_instance_uid",
    "path_in_uid": "invalid_uid", "random": "not_dicom", "rows_doubled": "truncated", "text": "not_dicom",
    "unknown_transfer_syntax": "unsupported_transfer_syntax",
}  # fmt: skip


@pytest.fixture(autouse=True)
def the_data():
    """The images lie beside the repository where it is developed, and nowhere else."""
    if not DICOM.is_dir():
        pytest.skip("the labelled images do not lie beside the repository")


def rows():
    manifest = DICOM / "manifest.csv"
    if not manifest.exists():
        return []
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(row):
    path = DICOM / row["path"]
    return [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as opened:
        yield opened


def verdicts(sandbox, row):
    found = set()
    for path in files_of(row):
        try:
            sandbox.inspect(path)
            found.add("accepted")
        except RefusedInstance as refusal:
            found.add(refusal.reason)
    return found


def is_as_expected(expected, found):
    if expected == "either":
        return True
    return found == {"accepted"} if expected == "accept" else found != {"accepted"}


@pytest.mark.slow
def test_every_row_of_the_manifest_gets_its_expected_verdict_or_a_listed_difference(sandbox):
    assert len(rows()) == 123
    table = {}
    for row in rows():
        found = verdicts(sandbox, row)
        if not is_as_expected(row["expected"], found):
            table[row["path"]] = found
        reason = REASONS.get(Path(row["path"]).stem) if row["path"].startswith("broken/made") else None
        assert reason is None or found == {reason}, row["path"]
    assert table == {path: {reason} for path, (reason, _) in DIFFERENCES.items()}


#: What becomes of each series as one volume: its shape, or the reason why there is none.
SERIES = {
    "series/ge_ct_smartscore_small": (5, 16, 16),
    "series/ge_mr_pd_ax": (20, 256, 256),
    "series/ge_mr_phantom_dwi": Reason.IRREGULAR_GEOMETRY,  # several diffusion weightings at one position
    "series/hyperfine_mr_enhanced_noise": (8, 138, 112),
    "series/j2k_mr_noise": (4, 256, 256),
    "series/jpeg_mr_noise": (4, 256, 256),
    "series/jpegls_mr_noise": (4, 256, 256),
    "series/philips_ct_phantom": Reason.IRREGULAR_GEOMETRY,  # one slice lies 65 mm below the others
    "series/philips_mr_anat_noise": (4, 240, 240),
    "series/philips_mr_dti_32": Reason.IRREGULAR_GEOMETRY,  # several volumes in one series
    "series/philips_mr_enhanced_noise": (8, 256, 256),
    "series/philips_mr_rle_noise": (4, 256, 256),
    "series/siemens_mr_fragmented_jpeg": (20, 128, 128),
    "series/siemens_mr_mosaic_jpeg": Reason.IRREGULAR_GEOMETRY,
    "series/siemens_mr_t1_sag": (35, 256, 256),
    "series/siemens_xa30_mr_t1_enhanced": (96, 128, 128),
    "series/uih_mr_dti_mosaic": Reason.IRREGULAR_GEOMETRY,
    "broken/series/missing_slices": Reason.IRREGULAR_GEOMETRY,
    "broken/series/mixed_sizes": Reason.IRREGULAR_GEOMETRY,
    "broken/series/one_truncated": Reason.UNREADABLE,
    "broken/series/shuffled_names": (12, 128, 128),
}


@pytest.mark.parametrize("name", SERIES)
def test_each_series_becomes_a_whole_volume_or_a_reason(sandbox, name):
    paths = files_of({"path": name})
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    expected = SERIES[name]
    if isinstance(expected, Reason):
        with pytest.raises(DeferCase) as caught:
            sandbox.read_series(paths, digests)
        assert caught.value.reason == expected
        return
    volume = sandbox.read_series(paths, digests)
    assert volume.voxels.shape == expected
    assert len(volume.sources) == expected[0]
    assert (volume.quality == ("LOW_QUALITY",)) == name.endswith("noise")


@pytest.mark.parametrize(
    "name", ["series/siemens_mr_t1_sag", "series/siemens_mr_fragmented_jpeg", "series/ge_mr_pd_ax"]
)
def test_voxels_and_positions_are_those_that_pydicom_reads_slice_by_slice(sandbox, name):
    paths = files_of({"path": name})
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    volume = sandbox.read_series(paths, digests)
    by_digest = dict(zip(digests, paths, strict=True))
    for depth in (0, 3, len(paths) - 1):
        path = by_digest[volume.sources[depth]]
        dataset = pydicom.dcmread(path)
        assert volume.affine @ [depth, 0, 0, 1] == pytest.approx([*dataset.ImagePositionPatient, 1], abs=0.1)
        if not dataset.file_meta.TransferSyntaxUID.is_compressed:
            assert np.array_equal(volume.voxels[depth], dataset.pixel_array.astype(np.float32))


def test_one_slice_in_six_lossless_syntaxes_reads_as_the_same_voxels():
    folder = DICOM / "files"
    native = pydicom.dcmread(folder / "explicit_le/MR_small.dcm").pixel_array
    for name in (
        "implicit_le/MR_small_implicit", "explicit_be/MR_small_bigendian", "rle/MR_small_RLE",
        "jpeg2000_lossless/MR_small_jp2klossless", "jpeg_ls/MR_small_jpeg_ls_lossless",
    ):  # fmt: skip
        volume = read_series_in_process([folder / f"{name}.dcm"])
        assert np.array_equal(volume.voxels[0], native.astype(np.float32)), name


def test_monochrome1_is_the_mirror_image_of_the_same_slice():
    inverted = read_series_in_process([DICOM / "broken/made/monochrome1.dcm"]).voxels
    plain = pydicom.dcmread(DICOM / "broken/made/monochrome1.dcm").pixel_array
    assert np.array_equal(inverted[0], 4095 - plain.astype(np.float32))


def test_the_wrapped_studies_read_in_every_syntax_without_a_quality_finding():
    read = 0
    for study in sorted(path for path in (DATA / "e2e_dicom").iterdir() if path.is_dir()):
        groups = {}
        for path in study.rglob("*.dcm"):
            uid = pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID
            groups.setdefault(uid, []).append(path)
        for paths in groups.values():
            assert read_series_in_process(paths).quality == ()
            read += len(paths)
    assert read == 85
