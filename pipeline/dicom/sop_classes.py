"""Which SOP classes are radiological images, and what their pixels must then say about their place."""

from __future__ import annotations

from typing import Final

from pydicom import uid

CT: Final = frozenset({uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage})
MR: Final = frozenset(
    {
        uid.MRImageStorage,
        uid.EnhancedMRImageStorage,
        uid.EnhancedMRColorImageStorage,
        uid.LegacyConvertedEnhancedMRImageStorage,
    }
)
PET: Final = frozenset(
    {
        uid.PositronEmissionTomographyImageStorage,
        uid.EnhancedPETImageStorage,
        uid.LegacyConvertedEnhancedPETImageStorage,
    }
)
#: Images by projection, capture or hand: they may lack a position in the patient.
PLANAR: Final = frozenset(
    {
        uid.ComputedRadiographyImageStorage,
        uid.DigitalXRayImageStorageForPresentation,
        uid.DigitalXRayImageStorageForProcessing,
        uid.DigitalMammographyXRayImageStorageForPresentation,
        uid.DigitalMammographyXRayImageStorageForProcessing,
        uid.DigitalIntraOralXRayImageStorageForPresentation,
        uid.DigitalIntraOralXRayImageStorageForProcessing,
        uid.BreastProjectionXRayImageStorageForPresentation,
        uid.BreastProjectionXRayImageStorageForProcessing,
        uid.XRayAngiographicImageStorage,
        uid.EnhancedXAImageStorage,
        uid.XRayRadiofluoroscopicImageStorage,
        uid.EnhancedXRFImageStorage,
        uid.UltrasoundImageStorage,
        uid.UltrasoundMultiFrameImageStorage,
        "1.2.840.10008.5.1.4.1.1.6",  # ultrasound, retired
        "1.2.840.10008.5.1.4.1.1.3",  # ultrasound multi-frame, retired
        uid.NuclearMedicineImageStorage,
        "1.2.840.10008.5.1.4.1.1.5",  # nuclear medicine, retired
        uid.SecondaryCaptureImageStorage,
        uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
_OTHER_VOLUMES: Final = frozenset(
    {
        uid.EnhancedUSVolumeStorage,
        uid.XRay3DAngiographicImageStorage,
        uid.XRay3DCraniofacialImageStorage,
        uid.BreastTomosynthesisImageStorage,
        uid.ParametricMapStorage,
    }
)
RADIOLOGICAL: Final[frozenset[str]] = CT | MR | PET | PLANAR | _OTHER_VOLUMES

#: The one Modality that a SOP class allows (PS3.3 annex A); other classes allow several.
MODALITY_OF: Final[dict[str, str]] = {
    **dict.fromkeys(CT, "CT"),
    **dict.fromkeys(MR, "MR"),
    **dict.fromkeys(PET, "PT"),
}


def is_standard(sop_class_uid: str) -> bool:
    """Whether the UID is one that the standard defines, so that a class not in `RADIOLOGICAL` is known not to be one."""
    return sop_class_uid.startswith("1.2.840.10008.")
