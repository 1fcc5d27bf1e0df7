"""A result as one page: Secondary Capture (PS3.3 A.8.1), for a PACS that takes no SR.

The page holds no patient's name or number: it is shown where the viewer says whose it is, and pixels cannot be corrected.
"""

from __future__ import annotations

from typing import Final

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.dicom.application_entity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from pipeline.dicom.result_objects import MANUFACTURER, contributing_equipment, finish, settle_times, source_datasets
from pipeline.domain.reason_words import ROUTE_WORDS, in_words
from pipeline.domain.result import Absent, Result, ResultKind

SERIES_NUMBER: Final = 992
ROWS, COLUMNS = 768, 1024
_MARGIN, _TEXT, _HEADING = 48, 24, 40
_BACKGROUND, _WORDS, _QUIET, _WARNING = (16, 20, 24), (235, 238, 240), (150, 160, 168), (255, 196, 87)
_ABSENT: Final = {
    Absent.WITHHELD: "The model's numbers are withheld until a clinician has read the case.",
    Absent.NOT_PERFORMED: "The model did not speak about this study; nothing is known from it.",
    Absent.NOT_A_NUMBER: "What the model said is not a number; nothing is known from it.",
}


def secondary_capture(result: Result) -> Dataset:
    """The page of a result as an object of its study, the same bytes whenever it is made again."""
    if not result.sources:
        raise ValueError("a page needs at least one image that it speaks of")
    source = source_datasets(result)[0]
    capture = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=page(result),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=result.uid("sc series"),
        series_number=SERIES_NUMBER + (result.kind is ResultKind.READ),
        sop_instance_uid=result.uid("sc"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "P"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=[contributing_equipment(result)],
        series_description="secondread triage, not for diagnosis",
    )
    capture.BurnedInAnnotation = "NO"
    capture.Modality = "OT"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    finish(capture, result)
    settle_times(capture, result)
    capture.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    capture.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    return capture


def page(result: Result) -> NDArray[np.uint8]:
    """The page as RGB, (rows, columns, 3)."""
    image = Image.new("RGB", (COLUMNS, ROWS), _BACKGROUND)
    drawing, y = ImageDraw.Draw(image), _MARGIN
    for text, size, colour in _lines(result):
        font = ImageFont.load_default(size=size)
        for line in _wrapped(drawing, text, font):
            drawing.text((_MARGIN, y), line, fill=colour, font=font)
            y += round(1.4 * size)
        y += size // 3
    return np.asarray(image, dtype=np.uint8)


def _lines(result: Result) -> list[tuple[str, int, tuple[int, int, int]]]:
    return [
        *_heading(result),
        (result.question, _TEXT, _QUIET),
        *(("- " + in_words(reason), _TEXT, _WORDS) for reason in result.reasons),
        *((text, _TEXT, _WORDS) for text in _spoken(result)),
        (f"{result.algorithm.protocol}, {_release(result)}, secondread {result.algorithm.version}", 18, _QUIET),
        (f"{result.told_at:%Y-%m-%d %H:%M} UTC, revision {result.revision} of the study", 18, _QUIET),
    ]


def _heading(result: Result) -> list[tuple[str, int, tuple[int, int, int]]]:
    route = ROUTE_WORDS[result.route]
    if result.read is None:
        return [(route, _HEADING, _WORDS), ("AI result, UNVERIFIED, not for primary diagnosis", _TEXT, _WARNING)]
    read = f"Read as {result.read.finding.replace('_', ' ')}, certainty {result.read.certainty} of 5"
    return [(read, _HEADING, _WORDS), (f"VERIFIED by a clinician. Triage had said: {route}", _TEXT, _QUIET)]


def _release(result: Result) -> str:
    found = result.algorithm.release_digest
    return "no release" if found is None else f"release {found[:16]}"


def _spoken(result: Result) -> list[str]:
    if result.numbers is None:
        return [_ABSENT[result.absent or Absent.NOT_PERFORMED]]
    n = result.numbers
    return [
        f"Probability of {result.finding.meaning.lower()}: {n.probability:.3f}",
        f"Predictive entropy {n.predictive_entropy:.3f} nat, of it knowledge that is lacking {n.mutual_information:.3f}",
        f"P-value of novelty {n.novelty_p:.3f}; {n.members} networks, {n.passes} passes each",
    ]


def _wrapped(drawing: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if drawing.textlength(longer, font=font) > COLUMNS - 2 * _MARGIN and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
