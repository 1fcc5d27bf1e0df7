"""What other systems need to come in: the token they show, and what is done with what they bring."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore

from pipeline.dicom.sandbox import Sandbox
from pipeline.errors import HaltPipeline

SHORTEST_TOKEN = 32  #: characters
SENDERS = 4  #: that may send studies at once; the others are asked to come again


@dataclass(frozen=True, kw_only=True)
class Door:
    """The way in for other systems; raises HaltPipeline when the token is short.

    Parts are put by in `spool` (None: the system's folder for temporary files). `retrieve_from` is the AE title, or
    the DICOMweb address, of the archive that images can be fetched from.
    """

    token: str = field(repr=False)
    pseudonym_key: bytes = field(repr=False)
    sandbox: Sandbox
    spool: Path | None = None
    retrieve_from: str | None = None
    senders: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(SENDERS), repr=False)

    def __post_init__(self) -> None:
        if len(self.token) < SHORTEST_TOKEN:
            raise HaltPipeline(
                f"SECONDREAD_DOOR_TOKEN has fewer than {SHORTEST_TOKEN} characters; set a longer one, such as the "
                "output of `openssl rand -hex 32`, or unset it"
            )
