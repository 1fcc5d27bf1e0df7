"""Whether the pixels of an image may show whose they are; nobody looks at them here, so doubt counts as yes."""

from __future__ import annotations

from typing import Final

from pydicom import Dataset, uid

from pipeline.dicom import attributes
from pipeline.domain.study import InstanceHeader
from pipeline.errors import RejectInstance

#: Screens and films that were captured, and ultrasound machines, which write the patient's name into the picture.
_CAPTURED: Final = frozenset(
    {
        uid.SecondaryCaptureImageStorage,
        uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
        uid.UltrasoundImageStorage,
        uid.UltrasoundMultiFrameImageStorage,
        uid.EnhancedUSVolumeStorage,
        "1.2.840.10008.5.1.4.1.1.6",  # ultrasound, retired
        "1.2.840.10008.5.1.4.1.1.3",  # ultrasound multi-frame, retired
    }
)
_OVERLAY_GROUPS: Final = range(0x6000, 0x6100, 2)
_BIT_POSITION: Final = 0x0102


def refuse_burned_in(header: InstanceHeader, dataset: Dataset) -> None:
    """Raises RejectInstance where the pixels are said, or by their kind likely, to show identity (PS3.3 C.7.6.1.1)."""
    said = (header.burned_in_annotation or "").upper()
    if said != "NO" and (said or _is_captured(header, dataset)):
        raise RejectInstance("burned_in_annotation", "the pixels may show whose they are and cannot be cleaned here")
    if any(_lies_in_pixels(dataset, group) for group in _OVERLAY_GROUPS):
        raise RejectInstance("burned_in_annotation", "an overlay lies in unused bits of the pixels")


def _is_captured(header: InstanceHeader, dataset: Dataset) -> bool:
    return (
        header.sop_class_uid in _CAPTURED
        or header.modality in {"US", "IVUS"}
        or "SECONDARY" in (value.upper() for value in header.image_type)
        or attributes.value(dataset, "ConversionType") is not None
    )


def _lies_in_pixels(dataset: Dataset, group: int) -> bool:
    """A retired form of overlay: its bits are those of the pixels beside the stored ones (PS3.5 section 8.1.2)."""
    position = dataset.get((group, _BIT_POSITION))
    return position is not None and position.value not in (None, "", 0)
