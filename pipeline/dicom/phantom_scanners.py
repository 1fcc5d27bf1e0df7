"""The scanners of the phantoms: two that releases are made on, one unseen before, and one of another modality."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """What a device does to an image, and how it signs it.

    `signals` are those of `TISSUES` (white, grey, fluid, bone, soft) relative to a full scale of 1; `noise` (Rician
    standard deviation) likewise; `shading` is the strength of the bias field (natural log); lengths in mm, `tilt` in
    degrees about the left-right axis. Stored = signal * `gain` / `slope` where slope is None for "no rescale tags".
    """

    name: str
    site: str
    manufacturer: str
    model: str
    software: str
    signals: tuple[float, float, float, float, float]
    tumour: float
    oedema: float
    noise: float
    shading: float
    matrix: int
    pixel: float
    slices: int
    spacing: float
    thickness: float
    tilt: float
    gain: float
    slope: float | None = None
    intercept: float = 0.0
    bits_stored: int = 12
    top_down: bool = False
    compressed_share: float = 0.0
    modality: str = "MR"


NORTH = Scanner(
    name="north_1", site="north", manufacturer="PHANTOM NORTHLIGHT", model="NL-150", software="4.2.1",
    signals=(0.44, 0.58, 0.10, 0.05, 0.55), tumour=0.95, oedema=0.80, noise=0.022, shading=0.10,
    matrix=96, pixel=2.4, slices=20, spacing=7.0, thickness=5.0, tilt=0.0, gain=1600.0, compressed_share=0.15,
)  # fmt: skip
SOUTH = Scanner(
    name="south_1", site="south", manufacturer="PHANTOM MERIDIAN", model="AURORA 3T", software="R11",
    signals=(0.38, 0.56, 0.18, 0.04, 0.70), tumour=0.92, oedema=0.76, noise=0.035, shading=0.18,
    matrix=104, pixel=2.2, slices=21, spacing=6.6, thickness=5.0, tilt=-8.0, gain=900.0, slope=2.5, bits_stored=16,
    top_down=True,
)  # fmt: skip
UNSEEN = Scanner(
    name="east_1", site="east", manufacturer="PHANTOM CASTELLAN", model="X7", software="0.9 BETA",
    signals=(0.80, 0.52, 0.16, 0.08, 0.95), tumour=0.40, oedema=0.45, noise=0.12, shading=0.40,
    matrix=112, pixel=2.1, slices=20, spacing=7.0, thickness=6.0, tilt=5.0, gain=400.0,
)  # fmt: skip
TOMOGRAPH = Scanner(
    name="north_ct", site="north", manufacturer="PHANTOM NORTHLIGHT", model="CT-64", software="2.0",
    signals=(1052.0, 1061.0, 1032.0, 1924.0, 1068.0), tumour=1064.0, oedema=1042.0, noise=4.0, shading=0.0,
    matrix=96, pixel=2.4, slices=20, spacing=7.0, thickness=5.0, tilt=0.0, gain=1.0, slope=1.0, intercept=-1024.0,
    modality="CT",
)  # fmt: skip

KNOWN = (NORTH, SOUTH)
