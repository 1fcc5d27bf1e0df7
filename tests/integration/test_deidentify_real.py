"""De-identification of real images: what identifies goes, pixels stay, and a validator finds nothing new to say."""

import re
import subprocess
from pathlib import Path

import pydicom
import pytest

from pipeline.dicom.deidentify import DeidentificationProfile, deidentified
from pipeline.dicom.headers import inspect_instance, read_header
from pipeline.dicom.parsing import parse
from pipeline.dicom.pixel_description import PIXEL_KEYWORDS
from pipeline.dicom.rejections import RefusedInstance
from pipeline.errors import RejectInstance
from tests.integration.test_outside_tools import program

pytestmark = pytest.mark.real_data
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
KEY = b"a key of the house"
KEPT_SHARE = 0.85  #: of the accepted files, at least; the others may show a name
OPTIONS = (DeidentificationProfile(), DeidentificationProfile(modified_dates=False, patient_characteristics=False))


def files():
    found = sorted(path for path in DATA.rglob("*") if path.is_file() and path.suffix != ".csv")
    if not found:
        pytest.skip("the real images are not beside the repository")
    return found


def is_accepted(data):
    try:
        inspect_instance(data)
    except RefusedInstance:
        return False
    return True


def reason_of_refusal(data):
    try:
        deidentified(data, key=KEY)
    except RejectInstance as refusal:
        return refusal.reason
    return ""


def pixels(data):
    dataset = parse(data).dataset
    keyword = next(word for word in PIXEL_KEYWORDS if word in dataset)
    return bytes(dataset.get_item(keyword).value)


def identity(data):
    header = read_header(parse(data))
    words = (header.patient_id, header.patient_name, header.study_instance_uid, header.sop_instance_uid)
    texts = (header.study_description, header.series_description)
    return {word.encode() for word in (*words, *texts) if word and len(word) >= 7}


@pytest.mark.slow
def test_every_accepted_image_keeps_its_pixels_loses_its_identity_and_is_still_accepted_or_may_show_a_name():
    accepted = [(path, data) for path in files() if is_accepted(data := path.read_bytes())]
    kept = []
    for path, data in accepted:
        if (reason := reason_of_refusal(data)) == "burned_in_annotation":
            continue
        assert reason == "", path
        out = deidentified(data, key=KEY)
        before = pixels(data)
        assert pixels(out) in (before, before + b"\0" * (len(before) % 2)), path
        assert [word for word in identity(data) if word in out] == [], path
        assert is_accepted(out), path
        kept.append(path)
    assert len(accepted) > 300
    assert len(kept) > KEPT_SHARE * len(accepted)


def test_what_is_refused_at_the_door_is_never_written_with_other_than_its_own_pixels():
    for path in files():
        data = path.read_bytes()
        if not is_accepted(data) and reason_of_refusal(data) == "":
            assert pixels(deidentified(data, key=KEY)) == pixels(data), path


def errors_of(path):
    command = [program("dciodvfy"), path]
    said = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = (said.stdout + said.stderr).splitlines()
    return {re.sub(r"<[0-9.]{8,}>", "<UID>", line) for line in lines if line.startswith("Error")}


@pytest.mark.dicom_tools
@pytest.mark.slow
@pytest.mark.parametrize("profile", OPTIONS, ids=["modified dates", "basic"])
def test_the_validator_finds_no_error_that_was_not_there_before(profile, tmp_path):
    folders, checked = set(), 0
    for path in files():
        if "series" in path.parts and path.parent in folders:
            continue
        try:
            out = deidentified(path.read_bytes(), key=KEY, profile=profile)
        except RejectInstance:
            continue
        folders.add(path.parent)
        (tmp_path / "out.dcm").write_bytes(out)
        assert errors_of(tmp_path / "out.dcm") - errors_of(path) == set(), path
        checked += 1
    assert checked > 40


@pytest.mark.dicom_tools
def test_the_validator_would_see_an_attribute_that_the_table_forgot(tmp_path):
    path = next(path for path in files() if is_accepted(path.read_bytes()) and not reason_of_refusal(path.read_bytes()))
    (tmp_path / "out.dcm").write_bytes(deidentified(path.read_bytes(), key=KEY))
    dataset = pydicom.dcmread(tmp_path / "out.dcm")
    del dataset.Modality
    dataset.save_as(tmp_path / "out.dcm")

    assert errors_of(tmp_path / "out.dcm") - errors_of(path) != set()
