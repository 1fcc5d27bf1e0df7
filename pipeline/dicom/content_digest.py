"""One digest for one data set, however it was wrapped on its way.

The same object comes by C-STORE, by WADO-RS and as a file with other file meta information, other sequence lengths, with
or without group lengths, in implicit or explicit VR. Comparing whole files would call these two contents under one UID.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from pydicom import Dataset, Sequence, uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

_LITTLE_NATIVE: Final = frozenset(
    {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian}
)
_TRAILING_PADDING: Final = 0xFFFCFFFC


def content_digest(dataset: Dataset, transfer_syntax_uid: str) -> str | None:
    """SHA-256, hexadecimal, over tags and value bytes of a data set whose elements are still as they were read.

    Native little-endian syntaxes share one digest; every other syntax has its own. None where a value cannot be walked.
    """
    syntax = "native" if transfer_syntax_uid in _LITTLE_NATIVE else transfer_syntax_uid
    digest = hashlib.sha256(syntax.encode())
    try:
        _add_items(digest, dataset)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  damaged bytes: then only equal files are equal
        return None
    return digest.hexdigest()


def _add_items(digest: Any, dataset: Dataset) -> None:
    for tag in sorted(dataset.keys()):
        if tag.element == 0 or tag == _TRAILING_PADDING:
            continue
        value = _value(dataset, tag)
        digest.update(b"%08x" % int(tag))
        if isinstance(value, Sequence):
            _add_sequence(digest, value)
            continue
        digest.update(b"%d:" % len(value))
        digest.update(value)


def _add_sequence(digest: Any, items: Sequence) -> None:
    for item in items:
        digest.update(b"(")
        _add_items(digest, item)
        digest.update(b")")


def _value(dataset: Dataset, tag: BaseTag) -> Any:
    """The bytes of an element as they were read, or the items of a sequence. Raises where it has neither."""
    element: Any = dataset.get_item(tag)
    if isinstance(element, RawDataElement) and not _is_sequence(element):
        return element.value if element.value is not None else b""
    found = dataset[tag]
    return found.value if isinstance(found.value, Sequence | bytes) else _as_written(found)


def _as_written(element: DataElement) -> bytes:
    """The value bytes of an element that the parser has converted already."""
    if element.is_empty:
        return b""
    written = DicomBytesIO()
    written.is_little_endian, written.is_implicit_VR = True, True
    write_data_element(written, element)
    return written.getvalue()[8:]


def _is_sequence(element: RawDataElement) -> bool:
    if element.VR is not None:
        return element.VR == "SQ"
    try:
        return dictionary_VR(element.tag) == "SQ"
    except KeyError:
        return False
