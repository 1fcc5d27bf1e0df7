"""What identifies a patient leaves the file, wherever it stood; what the image needs stays."""

import hashlib
import importlib
import io
import random
import struct
import subprocess
import sys
from datetime import date
from pathlib import Path

import pydicom
import pytest
from pydicom import DataElement, Dataset, dcmwrite, uid
from pydicom.datadict import (
    DicomDictionary,
    dictionary_has_tag,
    dictionary_VR,
    keyword_for_tag,
    repeater_has_tag,
    tag_for_keyword,
)
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from pipeline.dicom import deidentify_table
from pipeline.dicom.deidentify import DeidentificationProfile, deidentified, deidentified_instance
from pipeline.dicom.headers import inspect_instance, read_header
from pipeline.dicom.parsing import COMPRESSED, NATIVE, parse
from pipeline.dicom.replacements import LONGEST_MOVE
from pipeline.domain.pseudonyms import patient_pseudonym
from pipeline.errors import RejectInstance
from tests.dicom_files import SERIES, STUDY, a_head, a_slice, to_bytes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
KEY, OTHER_KEY = b"a key of the house", b"another key"
PIXELS = a_head(1)[0]
CANARY = "Zebrafink"
BASIC = DeidentificationProfile(modified_dates=False, patient_characteristics=False)
ROOT = Path(__file__).parents[2]


def cleaned(dataset, key=KEY, **options):
    return read(deidentified(to_bytes(dataset), key=key, profile=DeidentificationProfile(**options)))


def read(data):
    return pydicom.dcmread(io.BytesIO(data))


def an_item(**values):
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def survives(word, data):
    """Whether the word stands in the bytes in any case or encoding of one or two bytes per letter."""
    spellings = {word, word.upper(), word.lower()}
    encodings = ("latin-1", "utf-8", "utf-16-le", "utf-16-be")
    return any(spelling.encode(encoding) in data for spelling in spellings for encoding in encodings)


def refusal_of(data, **options):
    with pytest.raises(RejectInstance) as caught:
        deidentified(data, key=KEY, **options)
    return caught.value


# ---------------------------------------------------------------- nothing that identifies stays

STRINGS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "UI", "OB", "UN"}
#: Vocabulary of devices and code systems: the only free text that is kept.
VOCABULARY = frozenset(deidentify_table._TEXT)
NOT_IN_A_DATA_SET = {0x0000, 0x0002, 0x0004, 0xFFFE}


def every_textual_attribute():
    ready_made = set(a_slice(PIXELS).keys()) | {tag_for_keyword("SpecificCharacterSet"), 0x7FE00010}
    for tag, (representation, _, _, _, keyword) in DicomDictionary.items():
        odd = tag in ready_made or tag >> 16 in NOT_IN_A_DATA_SET or keyword in VOCABULARY
        if not odd and set(representation.split(" or ")) & STRINGS:
            yield tag, representation.split(" or ")[0]


def test_a_word_planted_in_every_textual_attribute_of_the_standard_is_nowhere_in_the_file():
    planted = a_slice(PIXELS)
    for tag, representation in every_textual_attribute():
        value = CANARY.encode() + b" " if representation in {"OB", "UN"} else f"{CANARY}^Anna"
        if tag not in {0x00280301, 0x00080064}:
            planted[tag] = DataElement(tag, representation, value)
    data = to_bytes(planted)
    assert data.lower().count(CANARY.lower().encode()) > 1600

    assert not survives(CANARY, deidentified(data, key=KEY))
    assert not survives(CANARY, deidentified(data, key=KEY, profile=BASIC))


def test_a_word_planted_in_every_textual_attribute_of_a_nested_item_is_nowhere_in_the_file():
    item = Dataset()
    for tag, representation in every_textual_attribute():
        item[tag] = DataElement(
            tag, representation, CANARY.encode() + b" " if representation in {"OB", "UN"} else f"{CANARY}^Anna"
        )
    for keyword in ("PatientName", "PatientID"):
        setattr(item, keyword, CANARY)
    inner = an_item(PurposeOfReferenceCodeSequence=[item], ReferencedSOPInstanceUID="1.2.9")
    planted = a_slice(PIXELS, ReferencedImageSequence=[inner], RequestAttributesSequence=[item])

    assert not survives(CANARY, deidentified(to_bytes(planted), key=KEY))


def with_private_block(dataset):
    dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "LO", CANARY)


def with_private_block_in_a_kept_sequence(dataset):
    item = an_item(ReferencedSOPInstanceUID="1.2.9")
    with_private_block(item)
    dataset.ReferencedImageSequence = [item]


def with_private_sequence(dataset):
    item = an_item(PatientName=CANARY)
    dataset.private_block(0x0041, "A VENDOR", create=True).add_new(0x01, "SQ", [item])


def with_overlay(dataset):
    for element, representation, value in (
        (0x0010, "US", 8), (0x0011, "US", 8), (0x0022, "LO", CANARY), (0x0040, "CS", "G"), (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1), (0x0102, "US", 0), (0x1500, "LO", CANARY), (0x3000, "OW", CANARY.encode() + b"!"),
        (0x4000, "LT", CANARY),
    ):  # fmt: skip
        dataset.add_new((0x6002, element), representation, value)


def with_curve(dataset):
    dataset.add_new((0x5000, 0x2500), "LO", CANARY)
    dataset.add_new((0x5000, 0x3000), "OW", CANARY.encode() + b"!")


def with_unknown_elements(dataset):
    dataset.add_new(0x00180FFE, "LO", CANARY)
    dataset.add_new(0x00080FFE, "UN", CANARY.encode() + b"!")
    dataset.add_new(0x40880010, "UT", CANARY)
    dataset.add_new(0x00280A00, "SQ", [an_item(PatientName=CANARY)])


def with_kept_attributes_of_another_kind(dataset):
    dataset.add_new(tag_for_keyword("AcquisitionMatrix"), "LO", CANARY)
    dataset.add_new(tag_for_keyword("WindowCenter"), "LT", CANARY)


def with_code_strings_that_are_prose(dataset):
    dataset.ImageType = ["ORIGINAL", "PRIMARY", f"{CANARY}^Anna"]
    dataset.BodyPartExamined = f"{CANARY} of 12.3.1950"
    dataset.ScanOptions = CANARY + "-" * 20


def with_numbers_that_are_prose(dataset):
    for keyword in ("EchoTime", "SeriesNumber", "PatientWeight"):
        tag = tag_for_keyword(keyword)
        dataset[tag] = DataElement(tag, dictionary_VR(tag), "1", already_converted=True)
        dataset[tag]._value = CANARY
    dataset.Rows = PIXELS.shape[0]


def with_more_numbers_than_allowed(dataset):
    letters = CANARY.encode() + b"!"
    dataset.NumberOfKSpaceTrajectories = [int.from_bytes(letters[at : at + 2], "little") for at in range(0, 10, 2)]


def with_dates_that_are_prose(dataset):
    for keyword in ("StudyDate", "AcquisitionDateTime", "StudyTime", "PatientAge"):
        tag = tag_for_keyword(keyword)
        dataset[tag] = DataElement(tag, dictionary_VR(tag), CANARY, already_converted=True)


def with_uids_that_are_prose(dataset):
    dataset.FrameOfReferenceUID = CANARY
    dataset.ReferencedImageSequence = [an_item(ReferencedSOPClassUID=CANARY, ReferencedSOPInstanceUID=CANARY)]


def with_signatures(dataset):
    dataset.DigitalSignaturesSequence = [an_item(CertificateOfSigner=CANARY.encode() + b"!")]
    dataset.DataSetTrailingPadding = CANARY.encode() + b"!"
    dataset.EncryptedAttributesSequence = [an_item(EncryptedContent=CANARY.encode() + b"!")]
    dataset.IconImageSequence = [an_item(PixelData=CANARY.encode() + b"!", BitsAllocated=8)]


PLACES = [value for name, value in sorted(globals().items()) if name.startswith("with_")]


@pytest.mark.parametrize("plant", PLACES, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_a_word_is_found_in_no_place_of_a_data_set(plant, syntax):
    dataset = a_slice(PIXELS)
    plant(dataset)
    data = to_bytes(dataset, syntax)
    assert plant is with_more_numbers_than_allowed or survives(CANARY, data)

    assert not survives(CANARY, deidentified(data, key=KEY))


def unknown_representation(keyword):
    tag, value = tag_for_keyword(keyword), CANARY.encode() + b"!"
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"UN", 0, len(value)) + value


def test_kept_attributes_in_the_representation_unknown_are_not_trusted():
    data = to_bytes(a_slice(PIXELS))
    for keywords, before in (
        (("Manufacturer", "ManufacturerModelName", "ReferencedImageSequence"), b"\x10\x00\x10\x00PN"),
        (("SequenceName", "RepetitionTime", "SoftwareVersions"), b"\x20\x00\x0d\x00UI"),
    ):
        at = data.index(before)
        data = data[:at] + b"".join(unknown_representation(keyword) for keyword in keywords) + data[at:]
    assert read(data).SoftwareVersions == f"{CANARY}!"

    assert not survives(CANARY, deidentified(data, key=KEY))


def test_preamble_file_meta_and_what_trails_the_pixels_are_not_taken_over():
    dataset = a_slice(PIXELS)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.MRImageStorage, "1.2.77777777"
    meta.TransferSyntaxUID, meta.ImplementationVersionName = uid.ExplicitVRLittleEndian, CANARY
    meta.SourceApplicationEntityTitle = meta.SendingApplicationEntityTitle = CANARY
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = "1.2.88888888", CANARY.encode() + b"!"
    dataset.file_meta, dataset.preamble = meta, (CANARY.encode() * 20)[:128]
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    data = stream.getvalue() + b"\xfc\xff\xfc\xffOB\0\0\x0a\0\0\0" + CANARY.encode() + b"!"

    out = deidentified(data, key=KEY)

    assert out[:132] == bytes(128) + b"DICM"
    assert not survives(CANARY, out)
    assert not survives("77777777", out)
    assert not survives("88888888", out)
    assert read(out).file_meta.MediaStorageSOPInstanceUID == read(out).SOPInstanceUID


def test_kept_vocabulary_that_repeats_the_name_or_the_number_of_the_patient_is_replaced():
    kept = cleaned(
        a_slice(
            PIXELS, PatientName="Müller^Änne=山田^太郎", PatientID="MRN-558123", AccessionNumber="ACC777",
            SpecificCharacterSet="ISO_IR 192", SequenceName="t1 of mr 558123", Manufacturer="MÜLLER & Co",
            ManufacturerModelName="山田", ReceiveCoilName="acc777", SoftwareVersions=["v1", "änne"],
            ConvolutionKernel="H30",
            BodyPartExamined="ACC777", ScanOptions=["FS", "MRN_558123"],
        )
    )  # fmt: skip

    assert (kept.SequenceName, kept.Manufacturer, kept.ManufacturerModelName) == ("REMOVED",) * 3
    assert kept.ReceiveCoilName == "REMOVED"
    assert kept.SoftwareVersions == ["v1", "REMOVED"]
    assert kept.BodyPartExamined == ""
    assert kept.ScanOptions == ["FS", ""]
    assert kept.ConvolutionKernel == "H30"


def test_a_name_that_is_part_of_a_word_takes_nothing_away():
    kept = cleaned(a_slice(PIXELS, PatientName="Mary^Kern", ConvolutionKernel="Kernel 30"))

    assert (kept.ImageType, kept.ConvolutionKernel) == (["ORIGINAL", "PRIMARY"], "Kernel 30")


# ---------------------------------------------------------------- table E.1-1, read by somebody else


def table(version):
    module = importlib.import_module(f"dicomanonymizer.dicom_anonymization_databases.dicomfields_{version}")
    return sorted({listed[:2] for listed in module.ALL_TAGS})


def a_value(tag, representation):
    number = hashlib.sha256(str(tag).encode()).digest()[0] + 2
    item = an_item(PatientName=CANARY, ReferencedSOPInstanceUID="1.2.99", StudyDescription=CANARY)
    given = {
        "SQ": [item], "DA": "19770707", "DT": "19770707070707.123456", "TM": "070707.123456", "AS": "077Y",
        "UI": f"1.2.3.{number}.77", "DS": f"{number}.5", "IS": f"{number}", "CS": "OTHER", "AT": number,
        "OB": CANARY.encode() + b"!", "OW": CANARY.encode() + b"!", "UN": CANARY.encode() + b"!",
    }  # fmt: skip
    if representation in {"FD", "FL", "US", "SS", "UL", "SL", "UV", "SV"}:
        return number
    return given.get(representation, CANARY)


def planted_with(tags):
    dataset = a_slice(PIXELS)
    for group, element in tags:
        tag = group << 16 | element
        known = dictionary_has_tag(tag) or repeater_has_tag(tag)
        representation = dictionary_VR(tag).split(" or ")[0] if known else "LO"
        if group > 0x0008 or tag not in dataset:
            dataset[tag] = DataElement(tag, representation, a_value(tag, representation))
    return dataset


def unchanged(before, after, *, apart_from=()):
    still = [tag for tag in after.keys() & before.keys() if after[tag].value == before[tag].value]
    return sorted(keyword_for_tag(tag) for tag in still if tag not in apart_from)


@pytest.mark.parametrize("version", ["2024b", "2026c"])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_every_attribute_of_table_e_1_1_is_absent_or_changed(version, syntax):
    tags = [tag for tag in table(version) if tag[0] not in NOT_IN_A_DATA_SET]
    assert len(tags) > 600
    plain = set(a_slice(PIXELS).keys()) - {group << 16 | element for group, element in tags}
    data = to_bytes(planted_with(tags), syntax)
    before = read(data)
    assert len(before) > 610

    out = deidentified(data, key=KEY, profile=BASIC)

    assert unchanged(before, read(out), apart_from=plain) == []
    assert not survives(CANARY, out)
    assert b"19770707" not in out


TIMES_AND_CHARACTERISTICS = {"PatientAge", "PatientSex", "PatientSize", "PatientWeight"} | {
    keyword_for_tag(tag) for tag in deidentify_table.actions(modified_dates=True, patient_characteristics=True)
    if dictionary_VR(tag) == "TM"
}  # fmt: skip


@pytest.mark.parametrize("version", ["2024b", "2026c"])
def test_with_both_options_only_times_of_day_and_characteristics_of_the_table_stay(version):
    tags = [tag for tag in table(version) if tag[0] not in NOT_IN_A_DATA_SET]
    plain = set(a_slice(PIXELS).keys()) - {group << 16 | element for group, element in tags}
    data = to_bytes(planted_with(tags))

    out = deidentified(data, key=KEY)

    assert set(unchanged(read(data), read(out), apart_from=plain)) <= TIMES_AND_CHARACTERISTICS
    assert not survives(CANARY, out)
    assert b"19770707" not in out


# ---------------------------------------------------------------- UIDs


def test_a_uid_is_replaced_by_one_and_the_same_wherever_it_stands():
    first, second = a_slice(PIXELS, 0, FrameOfReferenceUID="1.2.3.9"), a_slice(PIXELS, 1, FrameOfReferenceUID="1.2.3.9")
    reference = an_item(ReferencedSOPClassUID=uid.MRImageStorage, ReferencedSOPInstanceUID=first.SOPInstanceUID)
    deep = an_item(ReferencedSeriesSequence=[an_item(SeriesInstanceUID=SERIES, ReferencedInstanceSequence=[reference])])
    second.ReferencedImageSequence, second.ReferencedImageEvidenceSequence = [reference], [deep]

    one, two = cleaned(first), cleaned(second)

    assert one.StudyInstanceUID == two.StudyInstanceUID != STUDY
    assert one.SeriesInstanceUID == two.SeriesInstanceUID != SERIES
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID != "1.2.3.9"
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert two.ReferencedImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    series = two.ReferencedImageEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == one.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID


def test_new_uids_are_valid_and_lie_under_the_root_of_uuids():
    found = cleaned(a_slice(PIXELS))

    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert found[keyword].value.is_valid
        assert found[keyword].value.startswith("2.25.")


def test_uids_that_dicom_registers_stay_and_others_below_its_root_do_not():
    atlas, invented = "1.2.840.10008.1.4.1.1", "1.2.840.10008.5.1.4.1.1.19500312"
    found = cleaned(a_slice(PIXELS, FrameOfReferenceUID=atlas, ReferencedImageSequence=[
        an_item(ReferencedSOPClassUID=uid.CTImageStorage, ReferencedSOPInstanceUID=invented)]))  # fmt: skip

    assert (found.SOPClassUID, found.FrameOfReferenceUID) == (uid.MRImageStorage, atlas)
    assert found.ReferencedImageSequence[0].ReferencedSOPClassUID == uid.CTImageStorage
    assert found.ReferencedImageSequence[0].ReferencedSOPInstanceUID != invented


def test_another_process_writes_the_same_bytes(tmp_path):
    data = to_bytes(a_slice(PIXELS, StudyDate="20240229"))
    (tmp_path / "in.dcm").write_bytes(data)
    code = (
        "import hashlib, pathlib, sys; from pipeline.dicom.deidentify import deidentified; "
        "data = pathlib.Path(sys.argv[1]).read_bytes(); "
        f"print(hashlib.sha256(deidentified(data, key={KEY!r})).hexdigest())"
    )
    command = [sys.executable, "-c", code, tmp_path / "in.dcm"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    assert said == hashlib.sha256(deidentified(data, key=KEY)).hexdigest()


def test_another_key_gives_other_uids_another_pseudonym_and_another_number_of_days():
    dataset = a_slice(PIXELS, StudyDate="20240229")

    one, other = cleaned(dataset), cleaned(dataset, key=OTHER_KEY)

    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "StudyDate")
    assert [keyword for keyword in keywords if one[keyword].value == other[keyword].value] == []


def test_an_empty_key_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="key"):
        deidentified(to_bytes(a_slice(PIXELS)), key=b"")


# ---------------------------------------------------------------- the patient


def test_name_and_id_become_the_first_16_digits_of_the_keyed_pseudonym():
    data = to_bytes(a_slice(PIXELS, IssuerOfPatientID="HOSPITAL"))
    expected = patient_pseudonym(KEY, read_header(parse(data)))[:16]

    instance = deidentified_instance(data, key=KEY)

    found = read(instance.data)
    assert (found.PatientID, str(found.PatientName), instance.patient) == (expected,) * 3
    assert instance.sop_instance_uid == found.SOPInstanceUID
    assert (instance.study_instance_uid, instance.series_instance_uid) == (
        found.StudyInstanceUID,
        found.SeriesInstanceUID,
    )
    assert "IssuerOfPatientID" not in found


def test_two_patients_of_one_id_at_different_issuers_stay_two():
    one, two = (cleaned(a_slice(PIXELS, IssuerOfPatientID=issuer)) for issuer in ("A", "B"))

    assert one.PatientID != two.PatientID


@pytest.mark.parametrize(
    ("age", "told"),
    [("089Y", "089Y"), ("090Y", "090Y"), ("091Y", "090Y"), ("120Y", "090Y"), ("999M", "999M"), ("045Y", "045Y"),
     ("45Y", ""), ("about 45", "")],
)  # fmt: skip
def test_ages_above_89_years_are_told_as_90(age, told):
    assert (cleaned(a_slice(PIXELS, PatientAge=age)).PatientAge or "") == told


def test_sex_age_size_and_weight_stay_only_with_their_option():
    dataset = a_slice(PIXELS, PatientSex="F", PatientSize="1.7", PatientWeight="61.5", PatientBirthDate="19500312",
                      EthnicGroup="any", PregnancyStatus=1)  # fmt: skip

    with_option, without = cleaned(dataset), cleaned(dataset, patient_characteristics=False)

    assert (with_option.PatientSex, with_option.PatientAge) == ("F", "045Y")
    assert (with_option.PatientSize, with_option.PatientWeight) == (1.7, 61.5)
    assert "EthnicGroup" not in with_option
    assert without.PatientSex == without.PatientBirthDate == with_option.PatientBirthDate == ""
    assert not {"PatientAge", "PatientSize", "PatientWeight"} & set(without.dir())


# ---------------------------------------------------------------- dates


def day(text):
    return date(int(text[:4]), int(text[4:6]), int(text[6:8]))


def test_all_dates_of_a_patient_move_back_by_the_same_days_in_every_file_and_item():
    frame = an_item(FrameContentSequence=[an_item(FrameAcquisitionDateTime="20240302101112.5+0100")])
    early = a_slice(PIXELS, StudyDate="20240229", StudyTime="101112.5", AcquisitionDateTime="20240301235959.123456",
                    SharedFunctionalGroupsSequence=[frame], DateOfLastCalibration=["20240101", "20240131"])  # fmt: skip
    late = a_slice(PIXELS, 1, StudyDate="20250228", StudyInstanceUID="1.2.55")

    one, two = cleaned(early), cleaned(late)

    moved = day("20240229") - day(one.StudyDate)
    assert 1 <= moved.days <= LONGEST_MOVE
    assert day("20240301") - day(one.AcquisitionDateTime) == moved
    assert day("20250228") - day(two.StudyDate) == moved
    assert [day(told) for told in one.DateOfLastCalibration] == [day("20240101") - moved, day("20240131") - moved]
    nested = one.SharedFunctionalGroupsSequence[0].FrameContentSequence[0].FrameAcquisitionDateTime
    assert day("20240302") - day(nested) == moved
    assert nested.endswith("101112.5")
    assert one.AcquisitionDateTime.endswith("235959.123456")
    assert one.StudyTime == "101112.5"


def test_patients_move_by_different_days():
    days = {cleaned(a_slice(PIXELS, PatientID=f"P{n}", StudyDate="20240229")).StudyDate for n in range(20)}

    assert len(days) > 15


@pytest.mark.parametrize("told", ["20240230", "2024", "00010102", "2024-02-29", "20240229-20240301", "99999999"])
def test_what_is_no_day_of_the_calendar_becomes_empty(told):
    dataset = a_slice(PIXELS)
    dataset[0x00080020] = DataElement(0x00080020, "DA", told, already_converted=True)

    assert cleaned(dataset).StudyDate == ""


def test_without_their_option_no_date_and_no_time_is_left():
    dataset = a_slice(PIXELS, StudyDate="20240229", StudyTime="101112", SeriesDate="20240229", SeriesTime="101113",
                      AcquisitionDateTime="20240229101114", DateOfSecondaryCapture="20240229")  # fmt: skip

    found = cleaned(dataset, modified_dates=False)

    assert (found.StudyDate, found.StudyTime) == ("", "")
    assert (found.SeriesDate, found.SeriesTime, found.AcquisitionDateTime) == ("19000101", "000000", "19000101000000")
    assert "DateOfSecondaryCapture" not in found
    assert found.LongitudinalTemporalInformationModified == "REMOVED"


# ---------------------------------------------------------------- what is claimed


def test_the_file_says_what_was_done_and_claims_nothing_more():
    found = cleaned(a_slice(PIXELS, PatientIdentityRemoved="NO", DeidentificationMethod=CANARY))

    codes = {(item.CodeValue, item.CodingSchemeDesignator) for item in found.DeidentificationMethodCodeSequence}
    assert codes == {("113100", "DCM"), ("113107", "DCM"), ("113108", "DCM")}
    assert found.PatientIdentityRemoved == "YES"
    assert found.LongitudinalTemporalInformationModified == "MODIFIED"
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert all(len(line) <= 64 for line in found.DeidentificationMethod)


@pytest.mark.parametrize(
    ("options", "codes"),
    [({"modified_dates": False}, ["113100", "113108"]), ({"patient_characteristics": False}, ["113100", "113107"])],
)
def test_an_option_that_is_not_used_is_not_claimed(options, codes):
    found = cleaned(a_slice(PIXELS), **options)

    assert [item.CodeValue for item in found.DeidentificationMethodCodeSequence] == codes


@pytest.mark.parametrize(
    ("character_set", "word"),
    [("ISO_IR 100", "Schädel"), ("ISO_IR 144", "Череп"), ("GB18030", "头颅"), (["", "ISO 2022 IR 87"], "頭蓋骨")],
)
def test_kept_text_is_the_same_in_utf_8(character_set, word):
    region = an_item(CodeValue="69536005", CodingSchemeDesignator="SCT", CodeMeaning=word)
    dataset = a_slice(PIXELS, SpecificCharacterSet=character_set, Manufacturer=word, AnatomicRegionSequence=[region])

    out = deidentified(to_bytes(dataset), key=KEY)

    assert read(out).Manufacturer == word
    assert read(out).AnatomicRegionSequence[0].CodeMeaning == word
    assert word.encode() in out


# ---------------------------------------------------------------- pixels

CAPTURES = (
    {"BurnedInAnnotation": "YES"},
    {"BurnedInAnnotation": "UNKNOWN"},
    {"BurnedInAnnotation": ["NO", "YES"]},
    {"SOPClassUID": uid.SecondaryCaptureImageStorage},
    {"SOPClassUID": uid.MultiFrameTrueColorSecondaryCaptureImageStorage},
    {"SOPClassUID": uid.UltrasoundImageStorage, "Modality": "US"},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6"},
    {"ImageType": ["DERIVED", "SECONDARY"]},
    {"ImageType": ["ORIGINAL", "SECONDARY", "AXIAL"]},
    {"ConversionType": "DF"},
    {"Modality": "US"},
)


@pytest.mark.parametrize("captured", CAPTURES)
def test_an_image_that_may_show_a_name_is_refused(captured):
    assert refusal_of(to_bytes(a_slice(PIXELS, **captured))).reason == "burned_in_annotation"


@pytest.mark.parametrize("captured", CAPTURES[3:])
def test_a_capture_that_is_said_to_show_none_is_taken(captured):
    assert cleaned(a_slice(PIXELS, **captured | {"BurnedInAnnotation": "NO"})).BurnedInAnnotation == "NO"


def test_an_overlay_in_unused_bits_of_the_pixels_is_refused():
    dataset = a_slice(PIXELS, BitsStored=12, HighBit=11, BurnedInAnnotation="NO")
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", 12)

    assert refusal_of(to_bytes(dataset)).reason == "burned_in_annotation"


@pytest.mark.parametrize("syntax", sorted(NATIVE))
def test_native_pixels_stay_byte_for_byte_in_their_transfer_syntax(syntax):
    out = deidentified(to_bytes(a_slice(PIXELS), syntax), key=KEY)

    assert parse(out).transfer_syntax_uid == syntax
    assert read(out).PixelData == PIXELS.tobytes()


@pytest.mark.parametrize("syntax", sorted(COMPRESSED))
def test_compressed_pixels_stay_byte_for_byte_without_being_decoded(syntax):
    frames = encapsulate([b"no codec reads this, frame one", b"and frame two"], has_bot=True)
    dataset = a_slice(PIXELS, NumberOfFrames=2, ExtendedOffsetTable=b"\0" * 16)
    dataset["PixelData"] = DataElement(0x7FE00010, "OB", frames)
    dataset["PixelData"].is_undefined_length = True

    out = deidentified(to_bytes(dataset, syntax), key=KEY)

    assert parse(out).transfer_syntax_uid == syntax
    assert read(out).PixelData == frames
    assert read(out).ExtendedOffsetTable == b"\0" * 16


@pytest.mark.parametrize("syntax", sorted(NATIVE))
def test_what_the_image_needs_stays_as_it_was_and_the_file_is_accepted(syntax):
    window = an_item(LUTDescriptor=[2, 0, 16], ModalityLUTType="HU", LUTExplanation=CANARY)
    window.add_new(0x00283006, "OW", b"\1\0\2\0")
    dataset = a_slice(
        PIXELS, RescaleSlope="1.5", RescaleIntercept="-1024", WindowCenter=["40", "60"], EchoTime="0.0030",
        SmallestImagePixelValue=0, ModalityLUTSequence=[window], MagneticFieldStrength="3", DiffusionBValue=1000.0,
        FrameIncrementPointer=0x00181063, Manufacturer="ACME", SoftwareVersions=["v1", "v2"],
        PatientOrientation=["L", "P"],
    )  # fmt: skip
    data = to_bytes(dataset, syntax)
    before = inspect_instance(data)

    out = deidentified(data, key=KEY)

    found, after = read(out), inspect_instance(out)
    same = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "EchoTime", "SmallestImagePixelValue",
            "DiffusionBValue",
            "FrameIncrementPointer", "SoftwareVersions", "PatientOrientation", "ImageType",
            "ImagePositionPatient")  # fmt: skip
    assert [word for word in same if found[word].value != dataset[word].value] == []
    assert found["EchoTime"].value.original_string == "0.0030"
    lut = found.ModalityLUTSequence[0]
    assert (list(lut.LUTDescriptor), lut.ModalityLUTType, lut.LUTExplanation) == ([2, 0, 16], "HU", "REMOVED")
    assert lut["LUTData"].value in (b"\1\0\2\0", [1, 2])
    assert (after.image_position, after.pixel_spacing, after.rows) == (
        before.image_position, before.pixel_spacing, before.rows)  # fmt: skip


def test_bytes_behind_the_last_described_frame_are_refused():
    dataset = a_slice(PIXELS)
    dataset["PixelData"].value += CANARY.encode().ljust(PIXELS.nbytes)

    assert refusal_of(to_bytes(dataset)).reason == "bad_pixel_description"


def test_a_header_whose_pixels_would_be_described_otherwise_is_refused():
    dataset = a_slice(PIXELS)
    dataset["Rows"] = DataElement(0x00280010, "UL", PIXELS.shape[0])

    assert refusal_of(to_bytes(dataset)).reason in {"bad_pixel_description", "missing_rows"}


# ---------------------------------------------------------------- hostile bytes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"text" * 100, "not_dicom"),
        (to_bytes(a_slice(PIXELS))[:-400], "truncated"),
        (to_bytes(a_slice(PIXELS, StudyInstanceUID=None)), "missing_study_instance_uid"),
        (to_bytes(a_slice(PIXELS, SOPInstanceUID=None)), "missing_sop_instance_uid"),
        (to_bytes(a_slice(PIXELS, SOPClassUID=uid.BasicTextSRStorage)), "not_an_image"),
        (to_bytes(a_slice(PIXELS, SOPClassUID="1.3.12.2.1107.5.9.1")), "not_an_image"),
        (to_bytes(a_slice(PIXELS)).replace(b"10008.1.2.1\0", b"10008.1.2.9\0"), "unsupported_transfer_syntax"),
    ],
)
def test_what_is_no_sound_image_is_refused_by_kind(data, reason):
    assert refusal_of(data).reason == reason


def test_a_refusal_tells_nothing_of_the_patient():
    refusal = refusal_of(to_bytes(a_slice(PIXELS, PatientName=CANARY, PatientID=CANARY, BurnedInAnnotation="YES")))

    assert CANARY not in f"{refusal} {refusal.__cause__} {refusal.__context__}"


def test_neither_key_nor_pixels_are_told_by_a_printed_value():
    instance = deidentified_instance(to_bytes(a_slice(PIXELS)), key=KEY)

    assert "data" not in repr(instance)


def test_damaged_bytes_are_refused_or_cleaned_and_never_raise_anything_else():
    item = an_item(PatientName=CANARY, ReferencedSOPInstanceUID="1.2.9")
    dataset = a_slice(PIXELS, PatientName=CANARY, StudyDescription=CANARY, ReferencedImageSequence=[item])
    with_private_block(dataset)
    data, dice = to_bytes(dataset), random.Random(7)
    head = data.index(PIXELS.tobytes())
    outcomes = {"cleaned": 0, "refused": 0}
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(132, head)] = dice.randrange(256)
        try:
            out = deidentified(bytes(damaged), key=KEY)
        except RejectInstance:
            outcomes["refused"] += 1
        else:
            assert not survives(CANARY, out)
            outcomes["cleaned"] += 1
    assert min(outcomes.values()) > 20


def test_items_nested_a_thousand_deep_are_refused_not_followed():
    item = b""
    for _ in range(3000):
        item = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + item
    data = to_bytes(a_slice(PIXELS))
    at = data.index(b"\x08\x00\x60\x00CS")
    assert refusal_of(data[:at] + item + data[at:]).reason in {"undecodable", "truncated"}


def test_every_keyword_of_the_table_is_one_of_the_standard_and_stands_there_once():
    lists = [getattr(deidentify_table, name) for name in dir(deidentify_table) if name.isupper() and name[0] == "_"]
    words = [word for listed in lists if listed is not deidentify_table._KEPT for word in listed]

    assert [word for word in words if tag_for_keyword(word) is None] == []
    assert len(words) == len(set(words))


def test_a_cleaned_file_cleaned_again_keeps_no_link_but_stays_an_image():
    once = deidentified(to_bytes(a_slice(PIXELS)), key=KEY)

    twice = read(deidentified(once, key=OTHER_KEY))

    assert twice.PatientID != read(once).PatientID
    assert len(twice.DeidentificationMethodCodeSequence) == 3
    assert isinstance(twice.DeidentificationMethodCodeSequence, Sequence)
