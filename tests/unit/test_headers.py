import struct
import zlib

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.dicom import parsing
from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.pixel_description import missing
from pipeline.dicom.rejections import RefusedInstance
from tests.dicom_files import STUDY, a_head, a_slice, to_bytes

PIXELS = a_head(1)[0]


def refusal_of(data: bytes) -> RefusedInstance:
    with pytest.raises(RefusedInstance) as caught:
        inspect_instance(data)
    return caught.value


def test_a_sound_slice_gives_its_attributes_in_millimetres_and_years():
    header = inspect_instance(to_bytes(a_slice(PIXELS, 3, StudyDescription="Head  \x07scan")))
    assert header.study_instance_uid == STUDY
    assert header.image_position == (-10.0, -20.0, 15.0)
    assert header.pixel_spacing == (2.0, 1.0)
    assert header.slice_thickness == 4.0
    assert header.patient_age_years == 45.0
    assert header.image_type == ("ORIGINAL", "PRIMARY")
    assert (header.rows, header.columns, header.number_of_frames) == (40, 40, 1)
    assert header.study_description == "Head   scan"
    assert header.transfer_syntax_uid == ExplicitVRLittleEndian


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_native_syntaxes_are_accepted_with_one_and_the_same_header(syntax):
    header = inspect_instance(to_bytes(a_slice(PIXELS), syntax))
    assert (header.patient_id, header.rows, header.image_orientation) == ("P1", 40, (1, 0, 0, 0, 1, 0))


@pytest.mark.parametrize(
    ("age", "born", "years"),
    [
        ("006M", None, 0.5),
        ("021D", None, 21 / 365.25),
        ("010W", None, 70 / 365.25),
        (None, "20000101", 24.0),
        (None, None, None),
    ],
)
def test_age_comes_from_its_own_tag_or_from_birth_and_study_date(age, born, years):
    dataset = a_slice(PIXELS, PatientAge=age, PatientBirthDate=born, StudyDate="20240101")
    found = inspect_instance(to_bytes(dataset)).patient_age_years
    assert found == (None if years is None else pytest.approx(years, abs=1e-3))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": None}, "missing_rows"),
        ({"SOPInstanceUID": None}, "missing_sop_instance_uid"),
        ({"SeriesInstanceUID": None}, "missing_series_instance_uid"),
        ({"SOPInstanceUID": "1..2"}, "invalid_uid"),
        ({"BitsStored": 17}, "bad_pixel_description"),
        ({"BitsAllocated": 12}, "bad_pixel_description"),
        ({"HighBit": 3}, "bad_pixel_description"),
        ({"SamplesPerPixel": 3}, "bad_pixel_description"),
        ({"PhotometricInterpretation": "INFRARED"}, "bad_pixel_description"),
        ({"NumberOfFrames": 0}, "bad_pixel_description"),
        ({"Rows": 80}, "truncated"),
        ({"Rows": 10}, "bad_pixel_description"),
        ({"Rows": 65535, "Columns": 65535}, "too_large"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "not_an_image"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
def test_each_flaw_of_the_description_is_refused_with_its_own_reason(changes, reason):
    refusal = refusal_of(to_bytes(a_slice(PIXELS, **changes)))
    assert refusal.reason == reason


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
def test_a_path_in_a_uid_is_refused_and_reaches_neither_header_nor_message():
    refusal = refusal_of(to_bytes(a_slice(PIXELS, SOPInstanceUID="../../etc/passwd")))
    assert refusal.reason == "invalid_uid"
    assert refusal.header is not None
    assert refusal.header.sop_instance_uid == ""
    assert "passwd" not in str(refusal)


def test_a_refused_image_still_says_which_study_it_leaves_a_gap_in():
    refusal = refusal_of(to_bytes(a_slice(np.zeros_like(PIXELS))))
    assert (refusal.reason, refusal.is_image) == ("blank_image", True)
    assert refusal.header is not None
    assert refusal.header.study_instance_uid == STUDY


def test_a_report_is_refused_without_claiming_to_be_an_image():
    refusal = refusal_of(to_bytes(a_slice(PIXELS, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")))
    assert (refusal.reason, refusal.is_image) == ("not_an_image", False)


def test_an_unknown_private_class_with_pixels_counts_as_an_image_that_is_missing():
    refusal = refusal_of(to_bytes(a_slice(PIXELS, SOPClassUID="1.3.12.2.1107.5.9.1")))
    assert (refusal.reason, refusal.is_image) == ("not_an_image", True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"plain text" * 50, "not_dicom"),
        (b"\0" * 128 + b"DICM", "no_file_meta"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" * 20, "no_file_meta"),
        (b"MZ" + b"\0" * 400, "executable_preamble"),
    ],
)
def test_what_is_no_dicom_file_is_refused_by_kind(data, reason):
    assert refusal_of(data).reason == reason


@pytest.mark.parametrize("magic", [b"MZ", b"\x7fELF", b"#!", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"])
def test_an_executable_preamble_is_refused_though_the_image_is_sound(magic):
    refusal = refusal_of(to_bytes(a_slice(PIXELS), preamble=magic.ljust(128, b"\0")))
    assert refusal.reason == "executable_preamble"
    assert refusal.header is not None


def test_tiff_dual_use_preambles_stay_allowed():
    assert inspect_instance(to_bytes(a_slice(PIXELS), preamble=b"II*\0".ljust(128, b"\0"))).rows == 40


def test_a_file_cut_at_any_place_is_never_accepted():
    whole = to_bytes(a_slice(PIXELS[:8, :8]))
    for length in range(len(whole) - 1):
        assert refusal_of(whole[:length]).reason


def test_every_single_flipped_bit_ends_in_a_verdict():
    whole = to_bytes(a_slice(PIXELS[:4, :4]))
    outcomes = set()
    for place in range(128 * 8, len(whole) * 8, 3):
        mutant = bytearray(whole)
        mutant[place // 8] ^= 1 << (place % 8)
        try:
            inspect_instance(bytes(mutant))
            outcomes.add("accepted")
        except RefusedInstance as refusal:
            outcomes.add(refusal.reason)
    assert {"accepted", "truncated", "undecodable"} <= outcomes


def test_a_deflate_bomb_is_stopped_at_the_limit_and_its_study_is_still_known(monkeypatch):
    monkeypatch.setattr(parsing, "MAX_INFLATED_BYTES", 10_000)
    bomb = a_slice(np.zeros((400, 400), dtype=np.uint16))
    refusal = refusal_of(to_bytes(bomb, DeflatedExplicitVRLittleEndian))
    assert refusal.reason == "too_large"
    assert refusal.header is not None


def test_megabytes_of_padding_behind_the_pixels_are_not_parsed(monkeypatch):
    seen = []
    stops = parsing._AtPixels._stops
    monkeypatch.setattr(parsing._AtPixels, "_stops", lambda *call: seen.append(call) or stops(*call))
    assert inspect_instance(to_bytes(a_slice(PIXELS)) + bytes(2_000_000)).rows == 40
    assert len(seen) < 50


def test_inflating_never_yields_more_than_the_limit():
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = machine.compress(bytes(10_000_000)) + machine.flush()
    body, problem = parsing.inflate(bomb, 1000)
    assert len(body) <= 1000
    assert problem is not None
    assert problem.reason == "too_large"


def test_nesting_without_end_is_refused_not_recursed():
    sequence = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    nested = (sequence + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)) * 5000
    data = to_bytes(a_slice(PIXELS))
    assert refusal_of(data[: parsing.read_file_meta(data).ends_at] + nested).reason == "undecodable"


def test_an_unread_transfer_syntax_is_refused_with_its_study():
    refusal = refusal_of(to_bytes(a_slice(PIXELS)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0"))
    assert refusal.reason == "unsupported_transfer_syntax"
    assert refusal.header is not None
    assert refusal.header.study_instance_uid == STUDY


def test_unused_bits_beside_the_stored_ones_do_not_make_a_blank_image_sound():
    overlay = np.zeros((8, 8), dtype=np.uint16)
    overlay[2, 2] = 0x8000  # an overlay in the highest bit of 12 stored ones
    assert refusal_of(to_bytes(a_slice(overlay, BitsStored=12, HighBit=11))).reason == "blank_image"


def test_enhanced_headers_come_from_the_functional_groups():
    frame, shared = Dataset(), Dataset()
    position, orientation, measures = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [1, 2, 3]
    orientation.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 2
    frame.PlanePositionSequence = [position]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset = a_slice(
        np.stack([PIXELS, PIXELS]), NumberOfFrames=2, ImageOrientationPatient=None, ImagePositionPatient=None,
        PixelSpacing=None, SliceThickness=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
    )  # fmt: skip
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], [frame, frame]
    header = inspect_instance(to_bytes(dataset))
    assert header.number_of_frames == 2
    assert header.image_position == (1.0, 2.0, 3.0)
    assert header.image_orientation == (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    assert (header.pixel_spacing, header.slice_thickness) == ((0.5, 0.25), 2.0)


@pytest.mark.parametrize(
    ("keyword", "code"),
    [
        ("SOPInstanceUID", "missing_sop_instance_uid"),
        ("Rows", "missing_rows"),
        ("PixelRepresentation", "missing_pixel_representation"),
        ("SOPClassUID", "missing_sop_class_uid"),
    ],
)
def test_the_reason_for_an_absent_attribute_is_its_keyword_in_snake_case(keyword, code):
    assert missing(keyword) == code
