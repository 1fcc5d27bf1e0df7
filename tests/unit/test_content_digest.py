from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.dicom.headers import inspect_instance
from tests.dicom_files import a_head, a_slice, small_slice, to_bytes


def digest(data: bytes) -> str | None:
    return inspect_instance(data).content_digest


def nested() -> Dataset:
    dataset = a_slice(a_head(2)[0])
    item, inner = Dataset(), Dataset()
    inner.CodeValue, item.PurposeOfReferenceCodeSequence = "X", [inner]
    dataset.SourceImageSequence = [item]
    return dataset


def written(dataset: Dataset, *, undefined_lengths: bool) -> bytes:
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined_lengths
    return to_bytes(dataset)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_implicit_and_explicit_encodings_are_one_content(syntax: str) -> None:
    assert digest(small_slice(1, syntax=syntax)) == digest(small_slice(1)) is not None


def test_lengths_of_sequences_and_of_groups_are_no_content() -> None:
    one = written(nested(), undefined_lengths=True)
    other = written(nested(), undefined_lengths=False)
    assert one != other
    assert digest(one) == digest(other) is not None


def test_preamble_and_file_meta_information_are_no_content() -> None:
    other = dcmread(BytesIO(small_slice(1)))
    other.preamble = b"II*\0" + bytes(124)
    other.file_meta.SourceApplicationEntityTitle = "SOMEBODY"
    stream = BytesIO()
    dcmwrite(stream, other, enforce_file_format=True)
    assert digest(stream.getvalue()) == digest(small_slice(1))


@pytest.mark.parametrize(
    "change",
    [{"PatientID": "P2"}, {"InstanceNumber": 9}, {"SliceThickness": 4.5}, {"PatientName": None}, {"StudyID": "1"}],
)
def test_any_value_is_content(change: dict[str, Any]) -> None:
    changed = a_slice(a_head(2)[0], **change)
    assert digest(to_bytes(changed)) != digest(to_bytes(a_slice(a_head(2)[0]))) is not None


def test_one_pixel_is_content() -> None:
    pixels = a_head(2)[0].copy()
    pixels[3, 3] += 1
    assert digest(to_bytes(a_slice(pixels))) != digest(to_bytes(a_slice(a_head(2)[0])))


def test_a_value_cannot_move_into_its_neighbour() -> None:
    one = a_slice(a_head(2)[0], SeriesDescription="AB", StudyDescription="CD")
    other = a_slice(a_head(2)[0], SeriesDescription="CD", StudyDescription="AB")
    assert digest(to_bytes(one)) != digest(to_bytes(other))


def test_another_byte_order_is_another_content() -> None:
    """Safe: the values were swapped, and telling that apart would mean converting every one."""
    swapped = a_slice(a_head(2)[0].astype(">u2"))
    big = to_bytes(swapped, ExplicitVRBigEndian)
    assert digest(big) != digest(to_bytes(a_slice(a_head(2)[0])))
