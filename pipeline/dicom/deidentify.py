"""De-identification of images for exports and training: the Basic Application Level Confidentiality Profile of PS3.15.

Only what `deidentify_table` names is taken over, in sequences as well, and only where its value is what its
representation allows; all else is gone. Pixels stay as they are, so an image that may show a name is refused. What this
does not do: it leaves faces recognisable, and comments inside compressed frames as they are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom import DataElement, Dataset, dcmwrite
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from pipeline.dicom import attributes
from pipeline.dicom.burned_in import refuse_burned_in
from pipeline.dicom.deidentify_table import Action, actions
from pipeline.dicom.headers import REQUIRED_UIDS, read_header
from pipeline.dicom.parsing import COMPRESSED, PREAMBLE_BYTES, ParsedInstance, parse
from pipeline.dicom.pixel_checks import check_length
from pipeline.dicom.pixel_description import describe_pixels, missing
from pipeline.dicom.replacements import Replacements
from pipeline.dicom.sop_classes import RADIOLOGICAL
from pipeline.domain.pseudonyms import patient_pseudonym
from pipeline.domain.study import InstanceHeader
from pipeline.errors import RejectInstance

PSEUDONYM_LENGTH: Final = 16  #: hexadecimal digits of `patient_pseudonym` that become PatientID and PatientName
OLDEST_AGE: Final = 90  #: years that stand for every age above 89
DUMMY_TEXT: Final = "REMOVED"
_DUMMIES: Final = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}
_TEXT: Final = frozenset({"LO", "SH", "UC"})
_DECIMAL: Final = frozenset({"DS", "IS"})
_NUMBERS_AND_BYTES: Final = frozenset({"AT", "FD", "FL", "OB", "OV", "OW", "SL", "SS", "SV", "UL", "US", "UV"})
_CODE: Final = re.compile(r"[A-Z0-9_ ]{0,16}")
_NUMBER: Final = re.compile(r" *[+-]?[0-9.]+([eE][+-]?[0-9]+)? *")
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class DeidentificationProfile:
    """The options beside the basic profile (PS3.15 section E.3) that are applied and, in the file, claimed."""

    modified_dates: bool = True  #: 113107: dates of one patient are moved by one number of days, times of day stay
    patient_characteristics: bool = True  #: 113108: sex, age, size and weight stay; the option's other attributes go


@dataclass(frozen=True, kw_only=True)
class DeidentifiedInstance:
    """The bytes of a de-identified file and its new names: the pseudonym in PatientID, and keyed UIDs."""

    data: bytes = field(repr=False)
    patient: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


def deidentified(
    data: bytes,
    *,
    key: bytes,
    profile: DeidentificationProfile = DeidentificationProfile(),
) -> bytes:
    """The bytes of one DICOM file without identity, its transfer syntax and pixels unchanged. Raises RejectInstance."""
    return deidentified_instance(data, key=key, profile=profile).data


def deidentified_instance(
    data: bytes,
    *,
    key: bytes,
    profile: DeidentificationProfile = DeidentificationProfile(),
) -> DeidentifiedInstance:
    """One DICOM file de-identified, with its new names; the same under the same key, anywhere.

    Raises RejectInstance for what is no sound image or may show identity in its pixels, ValueError for an empty key.
    """
    if not key:
        raise ValueError("de-identification needs a key")
    try:
        with attributes.quiet():
            return _deidentified(data, key, profile)
    except (RejectInstance, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  a library boundary: the type is told, its text may hold values
        raise RejectInstance("undecodable", f"the data set cannot be read ({type(error).__name__})") from None


def _deidentified(data: bytes, key: bytes, profile: DeidentificationProfile) -> DeidentifiedInstance:
    instance = parse(data)
    header = read_header(instance)
    _refuse(instance, header)
    replacements = Replacements(key, patient_pseudonym(key, header)[:PSEUDONYM_LENGTH])
    # Parsed afresh: reading a header converts what it reads, and then nobody knows how it was represented.
    cleaned = _Cleaning.of(header, replacements, profile).dataset(parse(data).dataset)
    _take_over_pixels(cleaned, instance)
    _declare(cleaned, profile, replacements.pseudonym)
    return DeidentifiedInstance(
        data=_written(cleaned, instance.transfer_syntax_uid),
        patient=replacements.pseudonym,
        study_instance_uid=cleaned.StudyInstanceUID,
        series_instance_uid=cleaned.SeriesInstanceUID,
        sop_instance_uid=cleaned.SOPInstanceUID,
    )


def _refuse(instance: ParsedInstance, header: InstanceHeader) -> None:
    if instance.problem:
        raise instance.problem
    if header.sop_class_uid not in RADIOLOGICAL:
        raise RejectInstance("not_an_image", "the SOP class is not a radiological image")
    uids = (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
    for keyword, found in zip(REQUIRED_UIDS, uids, strict=True):
        if not found:
            raise RejectInstance(missing(keyword), f"{keyword} is missing or invalid")
    refuse_burned_in(header, instance.dataset)


@dataclass(frozen=True)
class _Cleaning:
    """The policy for one patient; `names` are words of the patient's identity that no kept text may repeat."""

    actions: Mapping[int, Action]
    replacements: Replacements
    names: frozenset[str]

    @classmethod
    def of(cls, header: InstanceHeader, replacements: Replacements, profile: DeidentificationProfile) -> _Cleaning:
        chosen = actions(modified_dates=profile.modified_dates, patient_characteristics=profile.patient_characteristics)
        return cls(chosen, replacements, _identifying_words(header))

    def dataset(self, source: Dataset) -> Dataset:
        cleaned = Dataset()
        for tag in source.keys() & self.actions.keys():
            element = self._element(source, tag, self.actions[tag])
            if element is not None:
                cleaned[tag] = element
        return cleaned

    def _element(self, source: Dataset, tag: int, action: Action) -> DataElement | None:
        representation = dictionary_VR(tag)
        match action:
            case Action.EMPTY:
                return DataElement(tag, representation, [] if representation == "SQ" else None)
            case Action.PSEUDONYM:
                return DataElement(tag, representation, self.replacements.pseudonym)
            case Action.DUMMY:
                held = source.get_item(tag)
                dummy = _DUMMIES.get(representation, DUMMY_TEXT)
                return DataElement(tag, representation, dummy if held is not None and held.value else None)
            case _:
                return self._cleaned(_readable(source, tag))

    def _cleaned(self, element: DataElement | None) -> DataElement | None:
        if element is None or element.VR in _NUMBERS_AND_BYTES or element.is_empty:
            return element
        if element.VR == "SQ":
            return DataElement(element.tag, "SQ", Sequence([self.dataset(item) for item in element.value]))
        clean = self._cleaner(element.VR)
        return (
            None if clean is None else DataElement(element.tag, element.VR, [clean(part) for part in _parts(element)])
        )

    def _cleaner(self, representation: str) -> Callable[[str], str] | None:
        if representation in _TEXT:
            return self._text
        if representation in _DECIMAL:
            return _number
        replacements = self.replacements
        return {
            "UI": replacements.uid,
            "DA": replacements.date,
            "DT": replacements.datetime,
            "TM": replacements.time,
            "AS": _age,
            "CS": self._code,
        }.get(representation)

    def _text(self, original: str) -> str:
        plain = "".join(letter for letter in original if letter.isprintable())
        return DUMMY_TEXT if self._identifies(plain) else plain

    def _code(self, original: str) -> str:
        code = original.upper()
        return code if _CODE.fullmatch(code) and not self._identifies(code) else ""

    def _identifies(self, text: str) -> bool:
        """Letters count as whole words, for Mary is no part of PRIMARY; numbers and other scripts anywhere."""
        folded = text.casefold()
        words = re.split(r"[\W_]+", folded)
        return any(name in (words if name.isascii() and name.isalpha() else folded) for name in self.names)


def _identifying_words(header: InstanceHeader) -> frozenset[str]:
    """Short ones are left out: they would be found in every other word."""
    sources = (header.patient_name, header.patient_id, header.accession_number)
    words = {word for source in sources for word in re.split(r"[\W_]+", (source or "").casefold())}
    return frozenset(word for word in words if len(word) >= (4 if word.isascii() else 2))


def _readable(source: Dataset, tag: int) -> DataElement | None:
    """The converted element; None where representation or number of values are not those of PS3.6."""
    raw = source.get_item(tag)
    if raw is None or raw.VR == "UN":
        return None
    try:
        element = source[tag]
        fits = element.VR in _representations(tag) and _most_values(tag) >= element.VM
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001  a library boundary: a value that cannot be converted cannot be judged
        return None
    return element if fits else None


def _representations(tag: int) -> frozenset[str]:
    named = frozenset(dictionary_VR(tag).split(" or "))
    return next((kind for kind in (_DECIMAL, _TEXT) if named & kind), named)


def _most_values(tag: int) -> float:
    most = dictionary_VM(tag).rpartition("-")[2]
    return float("inf") if most.endswith("n") else int(most)


def _parts(element: DataElement) -> list[str]:
    found: Any = element.value
    return [str(part).strip(" \0") for part in (found if element.VM > 1 else [found])]


def _number(original: str) -> str:
    return original if _NUMBER.fullmatch(original) else ""


def _age(original: str) -> str:
    if not re.fullmatch(r"[0-9]{3}[DWMY]", original):
        return ""
    return f"{OLDEST_AGE:03}Y" if original.endswith("Y") and int(original[:3]) >= OLDEST_AGE else original


def _take_over_pixels(cleaned: Dataset, instance: ParsedInstance) -> None:
    """Raises RejectInstance for pixels that are not as described, by the header that came and the cleaned one alike."""
    described = describe_pixels(instance.dataset)
    raw: Any = instance.dataset.get_item(described.keyword)
    if instance.transfer_syntax_uid not in COMPRESSED:
        check_length(len(raw.value), described)
    default = "OW" if described.keyword == "PixelData" else dictionary_VR(raw.tag)
    pixels = DataElement(raw.tag, raw.VR if raw.VR in {"OB", "OW"} else default, bytes(raw.value))
    pixels.is_undefined_length = raw.length == _UNDEFINED_LENGTH
    cleaned[raw.tag] = pixels
    if describe_pixels(cleaned) != described:
        raise RejectInstance("bad_pixel_description", "an attribute of the pixels is not as PS3.6 has it")


def _declare(cleaned: Dataset, profile: DeidentificationProfile, pseudonym: str) -> None:
    """What PS3.15 section E.1.1 has a de-identifier add."""
    codes = [("113100", "Basic Application Confidentiality Profile")]
    methods = ["PS3.15 Basic Application Level Confidentiality Profile", "Pixel data not altered"]
    if profile.modified_dates:
        codes.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
        methods.append("Dates moved by one number of days per patient, times kept")
    if profile.patient_characteristics:
        codes.append(("113108", "Retain Patient Characteristics Option"))
        methods.append("Sex, age, size and weight kept, ages above 89 given as 90")
    cleaned.SpecificCharacterSet = "ISO_IR 192"
    cleaned.PatientName = cleaned.PatientID = pseudonym
    cleaned.PatientIdentityRemoved = "YES"
    cleaned.DeidentificationMethod = methods
    cleaned.DeidentificationMethodCodeSequence = Sequence(_code_item(*code) for code in codes)
    cleaned.LongitudinalTemporalInformationModified = "MODIFIED" if profile.modified_dates else "REMOVED"


def _code_item(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _written(cleaned: Dataset, transfer_syntax_uid: str) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = cleaned.SOPClassUID, cleaned.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    cleaned.file_meta, cleaned.preamble = meta, bytes(PREAMBLE_BYTES)
    stream = io.BytesIO()
    dcmwrite(stream, cleaned, enforce_file_format=True)
    return stream.getvalue()
