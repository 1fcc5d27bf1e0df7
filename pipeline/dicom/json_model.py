"""DICOM attributes in the JSON model (PS3.18 annex F), written and read by keyword.

What comes from outside is read leniently and never trusted: anything of another shape than expected counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeAlias

from pydicom.datadict import dictionary_VR, tag_for_keyword

MEDIA_TYPE: Final = "application/dicom+json"
JsonDataset: TypeAlias = dict[str, Any]
_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def json_dataset(**values: Any) -> JsonDataset:
    """Attributes by keyword; None, "" and () are sent empty. Raises KeyError for a keyword that PS3.6 does not have."""
    return {f"{tag:08X}": _element(vr, values[keyword]) for keyword, (tag, vr) in _sorted_tags(tuple(values))}


def _sorted_tags(keywords: tuple[str, ...]) -> list[tuple[str, tuple[int, str]]]:
    return sorted(((keyword, _tag(keyword)) for keyword in keywords), key=lambda found: found[1])


@cache
def _tag(keyword: str) -> tuple[int, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, dictionary_VR(tag)


def _element(vr: str, value: Any) -> dict[str, Any]:
    many = value if isinstance(value, list | tuple) else (value,)
    kept = [_person(one) if vr == "PN" else one for one in many if one is not None and one != ""]
    return {"vr": vr, "Value": kept} if kept else {"vr": vr}


def _person(name: str) -> dict[str, str]:
    return {group: part for group, part in zip(_NAME_GROUPS, name.split("="), strict=False) if part}


def items(dataset: Mapping[str, Any], keyword: str) -> list[JsonDataset]:
    """The items of a sequence; empty when it is absent or none."""
    return [one for one in _values(dataset, keyword) if isinstance(one, dict)]


def text(dataset: Mapping[str, Any], keyword: str) -> str:
    """The first value as text, of a name its alphabetic form; "" when absent."""
    found = next(iter(_values(dataset, keyword)), None)
    if isinstance(found, dict):
        found = found.get(_NAME_GROUPS[0])
    return found.strip() if isinstance(found, str) else ""


def _values(dataset: Mapping[str, Any], keyword: str) -> Sequence[Any]:
    element = dataset.get(f"{_tag(keyword)[0]:08X}")
    found = element.get("Value") if isinstance(element, dict) else None
    return found if isinstance(found, list) else ()
