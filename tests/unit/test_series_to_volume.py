import hashlib
from itertools import pairwise

import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames

from pipeline.dicom import attributes, pixel_checks, series_file, series_to_volume
from pipeline.dicom.decoders import native_values, stored_values
from pipeline.dicom.parsing import parse
from pipeline.dicom.pixel_checks import decode
from pipeline.dicom.quality import ghosting, neighbour_correlation, quality_findings, saturated_share
from pipeline.dicom.series_file import stored_pixels
from pipeline.dicom.series_to_volume import read_series_in_process
from pipeline.domain.case import Reason
from pipeline.errors import DeferCase, RejectInstance
from tests.dicom_files import a_head, a_slice, to_bytes, write_series

HEAD = a_head()


def slices(pixels=HEAD, **changes):
    return [a_slice(page, place, **changes) for place, page in enumerate(pixels)]


def compressed(dataset, syntax):
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def write_compressed(folder, syntax, **changes):
    if syntax is None:
        return write_series(folder, slices(**changes))
    return write_series(folder, [compressed(one, syntax) for one in slices(**changes)], syntax=syntax)


def reason_of(paths, digests=None):
    with pytest.raises(DeferCase) as caught:
        read_series_in_process(paths, digests)
    return Reason(caught.value.reason)


def test_shuffled_files_become_one_volume_from_feet_to_head_with_its_affine_in_lps(tmp_path):
    paths = write_series(tmp_path, slices())
    volume = read_series_in_process([paths[place] for place in (2, 0, 3, 1)])
    assert np.array_equal(volume.voxels, HEAD.astype(np.float32))
    assert volume.affine.tolist() == [[0, 0, 1, -10], [0, 2, 0, -20], [5, 0, 0, 0], [0, 0, 0, 1]]
    assert volume.spacing == (5.0, 2.0, 1.0)
    assert volume.sources == tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert volume.quality == ()


def test_sagittal_slices_are_ordered_along_their_own_normal(tmp_path):
    # columns run to the back and rows to the feet, so that the normal points to the patient's right
    datasets = [
        a_slice(page, place, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[3.0 * place, 7, 8])
        for place, page in enumerate(HEAD)
    ]
    volume = read_series_in_process(write_series(tmp_path, datasets))
    # [0,1,0] x [0,0,-1] = [-1,0,0]: the first slice along it has the largest x
    assert np.array_equal(volume.voxels, HEAD[::-1].astype(np.float32))
    assert volume.affine[:3, 0].tolist() == [-3, 0, 0]
    assert volume.affine[:3, 3].tolist() == [9, 7, 8]


def test_rescale_and_monochrome1_are_applied_in_numbers_worked_out_by_hand(tmp_path):
    pixels = np.array([[[0, 1], [2, 4095]]], dtype=np.uint16)
    changes = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 2, "RescaleIntercept": -1000}
    plain = read_series_in_process(write_series(tmp_path, slices(pixels, **changes)))
    assert plain.voxels.tolist() == [[[-1000, -998], [-996, 7190]]]
    mirrored = slices(pixels, PhotometricInterpretation="MONOCHROME1", **changes)
    assert read_series_in_process(write_series(tmp_path, mirrored)).voxels.tolist() == [[[7190, 7188], [7186, -1000]]]


def test_signed_values_keep_their_sign_and_lose_overlay_bits(tmp_path):
    pixels = np.array([[[0x0FFF, 0xF001], [0x0800, 5]]], dtype=np.uint16)  # 12 bits stored, upper bits foreign
    changes = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    volume = read_series_in_process(write_series(tmp_path, slices(pixels, **changes)))
    assert volume.voxels.tolist() == [[[-1, 1], [-2048, 5]]]


def test_signed_monochrome1_is_mirrored_about_minus_one_half(tmp_path):
    pixels = np.array([[[-128, 127], [0, -1]]], dtype=np.int16)
    changes = {"PhotometricInterpretation": "MONOCHROME1"}
    volume = read_series_in_process(write_series(tmp_path, slices(pixels, **changes)))
    assert volume.voxels.tolist() == [[[127, -128], [-1, 0]]]


def test_a_modality_lookup_table_replaces_the_rescale(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [4, 0, 16], [10, 20, 30, 40], "US"
    dataset = a_slice(np.array([[0, 3], [2, 1]], dtype=np.uint16), RescaleSlope=9)
    dataset.add_new("ModalityLUTSequence", "SQ", [table])
    dataset.ModalityLUTSequence[0]["LUTDescriptor"].VR = "US"
    dataset.ModalityLUTSequence[0]["LUTData"].VR = "US"
    volume = read_series_in_process(write_series(tmp_path, [dataset]))
    assert volume.voxels.tolist() == [[[10, 40], [30, 20]]]


@pytest.mark.parametrize("removed", [1, 2])
def test_a_missing_inner_slice_is_irregular(tmp_path, removed):
    datasets = slices(a_head(5))
    del datasets[removed]
    assert reason_of(write_series(tmp_path, datasets)) is Reason.IRREGULAR_GEOMETRY


@pytest.mark.parametrize(
    "changes",
    [
        {"ImagePositionPatient": [-10, -20, 0]},
        {"ImagePositionPatient": [-10, -20, 5.2]},
        {"ImagePositionPatient": [-9, -20, 5]},
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0.999, 0.0447]},
        {"ImageOrientationPatient": None},
        {"PixelSpacing": [2.1, 1]},
        {"PixelSpacing": [0, 0]},
        {"PixelSpacing": None},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
        {"SeriesInstanceUID": "1.2.3.9"},
        {"PhotometricInterpretation": "MONOCHROME1"},
    ],
)
def test_one_slice_that_does_not_fit_makes_the_series_irregular(tmp_path, changes):
    datasets = slices()
    datasets[1] = a_slice(HEAD[1], 1, **changes)
    assert reason_of(write_series(tmp_path, datasets)) is Reason.IRREGULAR_GEOMETRY


def test_slices_of_two_matrix_sizes_are_irregular(tmp_path):
    datasets = slices()
    datasets[2] = a_slice(HEAD[2, :20], 2)
    assert reason_of(write_series(tmp_path, datasets)) is Reason.IRREGULAR_GEOMETRY


def test_positions_rounded_to_a_hundredth_are_still_regular(tmp_path):
    datasets = [a_slice(p, i, ImagePositionPatient=[0, 0, round(i * 10 / 3, 2)]) for i, p in enumerate(HEAD)]
    assert read_series_in_process(write_series(tmp_path, datasets)).spacing[0] == pytest.approx(10 / 3, abs=0.01)


@pytest.mark.parametrize("angle", [0.2, 5.0])
def test_a_gantry_tilt_is_refused_beyond_one_degree(tmp_path, angle):
    shift = 5 * np.tan(np.radians(angle))
    datasets = [a_slice(p, i, ImagePositionPatient=[0, round(i * shift, 4), 5.0 * i]) for i, p in enumerate(HEAD)]
    paths = write_series(tmp_path, datasets)
    if angle < 1:
        assert read_series_in_process(paths).voxels.shape[0] == len(HEAD)
    else:
        assert reason_of(paths) is Reason.IRREGULAR_GEOMETRY


def test_bytes_other_than_those_received_are_never_used(tmp_path):
    paths = write_series(tmp_path, slices())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    read_series_in_process(paths, digests)
    content = bytearray(paths[1].read_bytes())
    content[-1] ^= 1
    paths[1].write_bytes(bytes(content))
    assert reason_of(paths, digests) is Reason.UNREADABLE
    assert reason_of(paths[:3], digests) is Reason.UNREADABLE


@pytest.mark.parametrize("syntax", [None, uid.RLELossless])
def test_other_bytes_that_read_as_well_are_told_by_their_digest_alone(tmp_path, syntax):
    paths = write_compressed(tmp_path, syntax)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    write_compressed(tmp_path, syntax, PatientID="P2")
    read_series_in_process(paths)
    with pytest.raises(DeferCase, match="not those that were received"):
        read_series_in_process(paths, digests)


def test_a_decoder_that_ends_early_never_yields_a_shorter_volume(tmp_path, monkeypatch):
    calls = iter([1, 1])

    def ends_after_two(*arguments):
        next(calls)  # raises StopIteration, as pydicom does on some damaged files
        return stored_values(*arguments)

    monkeypatch.setattr(pixel_checks, "stored_values", ends_after_two)
    assert reason_of(write_compressed(tmp_path, uid.RLELossless)) is Reason.UNREADABLE


def test_fewer_frames_than_described_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_checks, "stored_values", lambda *arguments: stored_values(*arguments)[:0])
    monkeypatch.setattr(series_file, "native_values", lambda *arguments: native_values(*arguments)[:0])
    assert reason_of(write_series(tmp_path, slices())) is Reason.UNREADABLE
    (tmp_path / "compressed").mkdir()
    assert reason_of(write_compressed(tmp_path / "compressed", uid.RLELossless)) is Reason.UNREADABLE


@pytest.mark.parametrize("syntax", [None, uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless])
@pytest.mark.parametrize("slope", ["1", "0.37"])
def test_threads_change_no_voxel_no_digest_and_no_finding(tmp_path, monkeypatch, syntax, slope):
    monkeypatch.setattr(series_to_volume, "LEAST_FOR_THREADS", 1)
    paths = write_compressed(tmp_path, syntax, RescaleSlope=slope, RescaleIntercept="-3.3")
    alone, together = (read_series_in_process(paths[::-1], threads=threads) for threads in (1, 3))
    assert np.array_equal(alone.voxels, together.voxels)
    assert (alone.sources, alone.quality) == (together.sources, together.quality)
    by_hand = np.stack([np.multiply(page, float(slope), dtype=np.float64) for page in HEAD]).astype(np.float32)
    assert np.array_equal(alone.voxels, by_hand + np.float32(-3.3))


@pytest.mark.parametrize("threads", [1, 3])
def test_of_several_damaged_files_the_first_is_told_whatever_thread_met_it(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(series_to_volume, "LEAST_FOR_THREADS", 1)
    paths = write_compressed(tmp_path, uid.JPEG2000Lossless)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    def refuses(instance, _):
        raise DeferCase(Reason.UNREADABLE, attributes.text(instance.dataset, "SOPInstanceUID"))

    monkeypatch.setattr(series_file, "decode", refuses)
    with pytest.raises(DeferCase) as caught:
        read_series_in_process(paths, digests, threads=threads)
    assert caught.value.detail == a_slice(HEAD[0], 0).SOPInstanceUID


def test_a_header_longer_than_what_is_read_first_is_read_all_the_same(tmp_path, monkeypatch):
    paths = write_series(tmp_path, slices())
    usual = read_series_in_process(paths)
    monkeypatch.setattr(series_file, "HEAD_BYTES", 300)
    assert np.array_equal(read_series_in_process(paths).voxels, usual.voxels)


def test_a_file_that_changes_between_header_and_pixels_is_refused(tmp_path, monkeypatch):
    paths = write_series(tmp_path, slices())
    other = to_bytes(a_slice(HEAD[1], 1, PatientID="OTHER"))

    def swapped(file, room, threads=1):
        file.path.write_bytes(other)
        return stored_pixels(file, bytearray(len(other)), threads)

    monkeypatch.setattr(series_to_volume, "stored_pixels", swapped)
    with pytest.raises(DeferCase, match="changed while it was read"):
        read_series_in_process(paths)


def test_a_file_cut_between_header_and_pixels_is_not_filled_up_with_what_was_read_before(tmp_path, monkeypatch):
    paths = write_series(tmp_path, slices())

    def cut(file, room, threads=1):
        if file.path == paths[1]:
            file.path.write_bytes(file.path.read_bytes()[:-100])
        return stored_pixels(file, room, threads)

    monkeypatch.setattr(series_to_volume, "stored_pixels", cut)
    with pytest.raises(DeferCase, match="changed while it was read"):
        read_series_in_process(paths)


def test_tampering_is_told_before_whatever_it_did_to_the_header(tmp_path):
    paths = write_series(tmp_path, slices())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    write_series(tmp_path, [a_slice(HEAD[0], 0, SeriesInstanceUID="1.2.3.999")])
    with pytest.raises(DeferCase, match="not those that were received"):
        read_series_in_process(paths, digests)


def test_the_frames_of_one_compressed_object_are_decoded_side_by_side_to_the_same_values():
    dataset = a_slice(HEAD[0])
    pages = np.stack([np.rot90(HEAD[0], turns) for turns in range(4)])
    dataset.PixelData, dataset.NumberOfFrames = pages.tobytes(), len(pages)
    instance = parse(to_bytes(compressed(dataset, uid.JPEG2000Lossless), uid.JPEG2000Lossless))
    assert np.array_equal(decode(instance, 3)[1], decode(instance, 1)[1])
    assert np.array_equal(decode(instance, 3)[1], pages)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_shortened_codestream_is_refused_by_the_fast_codecs_as_by_pydicoms_own(syntax, share):
    dataset = a_slice(np.arange(96 * 96, dtype=np.uint16).reshape(96, 96) * 7 % 4093)
    compressed(dataset, syntax)
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: int(len(frame) * share) // 2 * 2]])
    with pytest.raises(RejectInstance, match="undecodable"):
        decode(parse(to_bytes(dataset, syntax)))


@pytest.mark.parametrize("changes", [{"RescaleSlope": 0}, {"RescaleSlope": "1e300"}])
def test_an_unusable_rescale_is_unreadable(tmp_path, changes):
    with np.errstate(over="ignore"):
        assert reason_of(write_series(tmp_path, slices(**changes))) is Reason.UNREADABLE


def of_float_pixels(pixels):
    datasets = slices(pixels)
    for dataset in datasets:
        dataset.add_new("FloatPixelData", "OF", dataset.PixelData)
        for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(dataset, keyword)
    return datasets


def test_floating_point_pixels_are_read_as_they_are(tmp_path):
    pixels = HEAD.astype(np.float32) * np.float32(0.37) - 5
    assert np.array_equal(read_series_in_process(write_series(tmp_path, of_float_pixels(pixels))).voxels, pixels)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_no_finite_number_makes_the_series_unreadable(tmp_path, value):
    pixels = HEAD.astype(np.float32)
    pixels[2, 17, 5] = value
    with pytest.raises(DeferCase, match="a pixel is not a finite number") as caught:
        read_series_in_process(write_series(tmp_path, of_float_pixels(pixels)))
    assert caught.value.reason == Reason.UNREADABLE


def test_colour_is_refused_rather_than_turned_into_grey(tmp_path):
    colour = a_slice(np.zeros((8, 24), dtype=np.uint8), SamplesPerPixel=3, PhotometricInterpretation="RGB")
    colour.Columns, colour.PlanarConfiguration = 8, 0
    assert reason_of(write_series(tmp_path, [colour])) is Reason.UNREADABLE


def test_no_files_and_missing_files_are_reasons_not_crashes(tmp_path):
    assert reason_of([]) is Reason.NO_SERIES
    assert reason_of([tmp_path / "absent.dcm"]) is Reason.UNREADABLE


def test_a_volume_beyond_the_limit_is_refused_before_it_is_allocated(tmp_path, monkeypatch):
    monkeypatch.setattr(series_to_volume, "MAX_VOXELS", 100)
    assert reason_of(write_series(tmp_path, slices())) is Reason.UNREADABLE


def test_a_lone_radiograph_without_a_place_is_a_volume_of_one_slice(tmp_path):
    radiograph = a_slice(
        HEAD[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.1", Modality="CR", ImageOrientationPatient=None,
        ImagePositionPatient=None, PixelSpacing=None, SliceThickness=None, ImagerPixelSpacing=[0.2, 0.1],
    )  # fmt: skip
    volume = read_series_in_process(write_series(tmp_path, [radiograph]))
    assert volume.spacing == (1.0, 0.2, 0.1)


def test_a_lone_mr_slice_without_a_place_is_irregular(tmp_path):
    assert reason_of(write_series(tmp_path, slices(HEAD[:1], ImagePositionPatient=None))) is Reason.IRREGULAR_GEOMETRY


def enhanced(positions, pixels=HEAD, slopes=None):
    def item(**values):
        found = Dataset()
        for keyword, value in values.items():
            setattr(found, keyword, value)
        return found

    frames = []
    for place, position in enumerate(positions):
        frame = item(PlanePositionSequence=[item(ImagePositionPatient=position)])
        slope = slopes[place] if slopes else 1
        frame.PixelValueTransformationSequence = [item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")]
        frames.append(frame)
    dataset = a_slice(
        pixels, NumberOfFrames=len(pixels), SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", ImagePositionPatient=None,
        ImageOrientationPatient=None, PixelSpacing=None,
    )  # fmt: skip
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=3)],
    )
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    return dataset


def test_enhanced_frames_are_ordered_and_rescaled_one_by_one(tmp_path):
    order = [3, 1, 0, 2]
    dataset = enhanced([[0, 0, 4.0 * z] for z in order], slopes=[1, 2, 3, 4])
    volume = read_series_in_process(write_series(tmp_path, [dataset]))
    expected = {z: HEAD[frame] * np.float32(frame + 1) for frame, z in enumerate(order)}
    assert np.array_equal(volume.voxels, np.stack([expected[z] for z in range(4)]))
    assert len(set(volume.sources)) == 1
    assert len(volume.sources) == 4


def test_enhanced_frames_at_one_position_are_a_time_series_and_irregular(tmp_path):
    paths = write_series(tmp_path, [enhanced([[0, 0, z] for z in (0, 4, 0, 4)])])
    assert reason_of(paths) is Reason.IRREGULAR_GEOMETRY


def test_frames_without_functional_groups_need_a_step_along_the_normal(tmp_path):
    stepped = a_slice(HEAD, NumberOfFrames=4, SpacingBetweenSlices=3)
    volume = read_series_in_process(write_series(tmp_path, [stepped]))
    assert volume.affine[:3, 0].tolist() == [0, 0, 3]
    assert reason_of(write_series(tmp_path, [a_slice(HEAD, NumberOfFrames=4)])) is Reason.IRREGULAR_GEOMETRY


def test_a_sound_head_has_no_quality_finding_and_each_defect_has_one():
    sound = a_head(6, 64).astype(np.float32)
    noise = np.random.default_rng(1).normal(500, 100, sound.shape).astype(np.float32)
    blank = sound.copy()
    blank[2] = 0
    saturated = np.minimum(sound, 300)
    ghosts = sound + 0.5 * np.roll(sound, 32, axis=1) + 0.3 * np.roll(sound, 16, axis=1)
    assert quality_findings(sound + 0.02 * noise, magnetic=True) == ()
    for unfit in (noise, blank, saturated, ghosts):
        assert quality_findings(unfit, magnetic=True) == ("LOW_QUALITY",)


def test_quality_measures_agree_with_numbers_worked_out_by_hand():
    checkerboard = np.indices((1, 8, 8)).sum(axis=0) % 2
    assert neighbour_correlation(checkerboard.astype(np.float32)) == pytest.approx(-1.0)
    ramp = np.arange(10, dtype=np.float32).reshape(1, 1, 10)
    # foreground: above 0.9, that is 9 of 10; one of them holds the highest value
    assert saturated_share(ramp) == pytest.approx(1 / 9)
    image = np.zeros((1, 32, 32), dtype=np.float32)
    image[:, 8:24, 8:24] = 100
    image[:, :2], image[:, -2:] = 10, 10  # air above and below holds a tenth of the signal
    assert ghosting(image) == pytest.approx(0.1)


def test_every_place_of_the_slice_order_is_strictly_above_the_last(tmp_path):
    paths = write_series(tmp_path, slices(a_head(6)))
    volume = read_series_in_process(paths[::-1])
    heights = [(volume.affine @ [depth, 0, 0, 1])[2] for depth in range(6)]
    assert all(above - below == pytest.approx(5) for below, above in pairwise(heights))
