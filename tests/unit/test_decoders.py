import imagecodecs
import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from pipeline.dicom.decoders import decoder_of, without_unused_bits
from pipeline.dicom.headers import inspect_instance
from pipeline.dicom.parsing import COMPRESSED, NATIVE, parse
from pipeline.dicom.pixel_checks import decode
from pipeline.dicom.rejections import RefusedInstance
from tests.dicom_files import a_head, a_slice, to_bytes

PIXELS = a_head(1, 48)[0]


def compressed(frame, syntax, pixels=PIXELS, **changes):
    dataset = a_slice(pixels, **changes)
    dataset.PixelData = encapsulate([frame] if isinstance(frame, bytes) else frame)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return to_bytes(dataset, syntax)


def decoded(data):
    return decode(parse(data))[1][0]


LOSSLESS = {
    uid.JPEGLosslessSV1: lambda p: imagecodecs.jpeg8_encode(p, lossless=True, bitspersample=16, predictor=1),
    uid.JPEGLossless: lambda p: imagecodecs.jpeg8_encode(p, lossless=True, bitspersample=16, predictor=6),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEG2000Lossless: lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k", reversible=True),
    uid.HTJ2KLossless: lambda p: imagecodecs.htj2k_encode(p, reversible=True),
}


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda value: value.name)
def test_lossless_syntaxes_give_back_every_value(syntax):
    assert np.array_equal(decoded(compressed(bytes(LOSSLESS[syntax](PIXELS)), syntax)), PIXELS)


def test_jpeg_lossless_agrees_with_a_second_independent_decoder():
    frame = bytes(LOSSLESS[uid.JPEGLosslessSV1](PIXELS))
    assert np.array_equal(decoded(compressed(frame, uid.JPEGLosslessSV1)), imagecodecs.ljpeg_decode(frame))


def test_twelve_bit_jpeg_stays_near_the_original():
    frame = bytes(imagecodecs.jpeg8_encode(PIXELS, level=98, bitspersample=12))
    found = decoded(compressed(frame, uid.JPEGExtended12Bit, BitsStored=12, HighBit=11))
    assert np.abs(found.astype(int) - PIXELS).max() <= 8


def test_eight_bit_jpeg_stays_near_the_original():
    small = (PIXELS // 4).astype(np.uint8)
    frame = bytes(imagecodecs.jpeg8_encode(small, level=98))
    assert np.abs(decoded(compressed(frame, uid.JPEGBaseline8Bit, small)).astype(int) - small).max() <= 4


def test_rle_gives_back_every_value():
    dataset = a_slice(PIXELS)
    to_bytes(dataset)
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    assert np.array_equal(decoded(to_bytes(dataset, uid.RLELossless)), PIXELS)


def test_big_endian_values_are_those_of_the_file():
    dataset = a_slice(PIXELS)
    dataset.PixelData = PIXELS.astype(">u2").tobytes()
    assert np.array_equal(decoded(to_bytes(dataset, uid.ExplicitVRBigEndian)), PIXELS)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda value: value.name)
def test_a_damaged_frame_is_refused_and_never_half_decoded(syntax):
    frame = bytes(LOSSLESS[syntax](PIXELS))
    for damaged in (b"\0" * len(frame), frame[:20]):
        with pytest.raises(RefusedInstance) as caught:
            inspect_instance(compressed(damaged, syntax))
        assert caught.value.reason in {"undecodable", "blank_image", "truncated"}


def test_fewer_encapsulated_frames_than_described_are_refused():
    frame = bytes(LOSSLESS[uid.JPEGLSLossless](PIXELS))
    data = compressed([frame, frame], uid.JPEGLSLossless, np.stack([PIXELS] * 3), NumberOfFrames=3)
    with pytest.raises(RefusedInstance) as caught:
        inspect_instance(data)
    assert caught.value.reason in {"undecodable", "truncated"}


def test_a_frame_of_another_size_than_described_is_refused():
    frame = bytes(LOSSLESS[uid.JPEGLSLossless](np.ascontiguousarray(PIXELS[:, :40])))
    with pytest.raises(RefusedInstance):
        inspect_instance(compressed(frame, uid.JPEGLSLossless))


def test_every_compressed_syntax_that_is_accepted_has_a_decoder_here():
    assert [syntax for syntax in COMPRESSED if not decoder_of(syntax).is_available] == []
    assert not COMPRESSED & NATIVE


def test_left_justified_and_overlaid_bits_are_put_right():
    overlaid = a_slice(np.array([[0xF123]], dtype=np.uint16), BitsStored=12, HighBit=11)
    left = a_slice(np.array([[0x1230]], dtype=np.uint16), BitsStored=12, HighBit=15)
    assert [int(decoded(to_bytes(dataset))[0, 0]) for dataset in (overlaid, left)] == [0x123, 0x123]


def test_values_that_use_every_bit_are_left_alone():
    description, values = decode(parse(to_bytes(a_slice(PIXELS))))
    assert without_unused_bits(values, description) is values
