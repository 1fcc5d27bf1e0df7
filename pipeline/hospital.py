"""The hospital around the house: who may send, which PACS is asked, and where results go, read from one YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.errors import HaltPipeline

AeTitle = Annotated[str, Field(pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")]
"""An application entity title: 1 to 16 printable characters without backslash or outer spaces (PS3.5, VR AE)."""


def _beside(path: Path, info: ValidationInfo) -> Path:
    """A path in the file is relative to the file."""
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path.expanduser()


NearPath = Annotated[Path, AfterValidator(_beside)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Checked):
    """Files of DICOM TLS (PS3.15 B.9, BCP 195): both sides show a certificate of `authority`."""

    certificate: NearPath
    key: NearPath
    authority: NearPath


class Peer(_Checked):
    """An application entity that may send to us or ask us, and the addresses or networks it comes from.

    `port` is where it listens: storage commitment is answered there, at the first address, which is one host's then.
    """

    ae_title: AeTitle
    addresses: Annotated[tuple[str, ...], Field(min_length=1)]
    port: Port | None = None

    @field_validator("addresses")
    @classmethod
    def _are_addresses(cls, found: tuple[str, ...]) -> tuple[str, ...]:
        for address in found:
            ip_network(address, strict=False)
        return found

    @model_validator(mode="after")
    def _can_be_answered(self) -> Peer:
        if self.port is not None and "/" in self.addresses[0]:
            raise ValueError("a peer with a port has one host's address first, no network")
        return self


class Reception(_Checked):
    """Our own DICOM node: where it listens, whom it answers, and what one peer may take of it."""

    ae_title: AeTitle = "SECONDREAD"
    bind: str = "127.0.0.1"
    port: Port = 11112
    peers: tuple[Peer, ...] = ()
    tls: Tls | None = None
    most_connections: Annotated[int, Field(ge=1, le=512)] = 32  #: at once, over all peers
    most_per_address: Annotated[int, Field(ge=1, le=512)] = 8
    most_megabytes: Annotated[int, Field(ge=16)] = 1024  #: received and not yet stored, over all peers
    pdu_seconds: Annotated[float, Field(gt=0)] = 5.0  #: within which a begun PDU must be whole
    idle_seconds: Annotated[float, Field(gt=0)] = 60.0  #: an association that says nothing this long is ended


class DicomNode(_Checked):
    """A PACS spoken to by DIMSE."""

    kind: Literal["dimse"]
    name: Name = "pacs"
    ae_title: AeTitle
    host: str
    port: Port
    tls: Tls | None = None
    seconds: Annotated[float, Field(gt=0)] = 30.0  #: for one answer


class DicomWeb(_Checked):
    """A PACS spoken to by DICOMweb; `token_file` holds a bearer token."""

    kind: Literal["web"]
    name: Name = "pacs"
    url: str
    token_file: NearPath | None = None
    authority: NearPath | None = None  #: a certificate authority of one's own
    seconds: Annotated[float, Field(gt=0)] = 30.0

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("https://", "http://")):
            raise ValueError("a DICOMweb address begins with https:// or http://")
        return url.rstrip("/")


class Archive(_Checked):
    """The PACS that is asked: for studies to fetch, for counts, and for its list.

    `retrieve`: C-MOVE to our own node, C-GET on the same association, or WADO-RS for a DICOMweb one.
    """

    node: Annotated[DicomNode | DicomWeb, Field(discriminator="kind")]
    retrieve: Literal["move", "get", "wado"]
    modalities: Annotated[tuple[str, ...], Field(min_length=1)] = ("MR", "CT")  #: that are fetched
    look_back_hours: Annotated[float, Field(gt=0)] = 24.0  #: at the first look, and again at every one
    ask_counts: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Archive:
        if (self.retrieve == "wado") != isinstance(self.node, DicomWeb):
            raise ValueError("retrieve is wado for a node of kind web, and move or get for one of kind dimse")
        return self


class PacsDestination(_Checked):
    """A PACS that results are sent to, in these forms."""

    name: Name
    node: Annotated[DicomNode | DicomWeb, Field(discriminator="kind")]
    forms: Annotated[tuple[Literal["sr", "sc"], ...], Field(min_length=1)] = ("sr",)


class FhirDestination(_Checked):
    """A folder that FHIR bundles are written to, or a server they are put on: one of the two."""

    name: Name
    folder: NearPath | None = None
    url: str | None = None
    token_file: NearPath | None = None
    seconds: Annotated[float, Field(gt=0)] = 30.0

    @model_validator(mode="after")
    def _is_one(self) -> FhirDestination:
        if (self.folder is None) == (self.url is None):
            raise ValueError("a FHIR destination has either a folder or a url")
        return self

    def token(self) -> str | None:
        """The bearer token of the server. Raises HaltPipeline where its file cannot be read."""
        return read_token(self.token_file, self.name)

    @property
    def forms(self) -> tuple[str, ...]:
        """The one form this destination takes."""
        return ("fhir",)


class Results(_Checked):
    """Where results go, and whether they carry the model's numbers while somebody still reads the case blind."""

    pacs: tuple[PacsDestination, ...] = ()
    fhir: tuple[FhirDestination, ...] = ()
    numbers: Literal["after_read", "always"] = "after_read"

    @property
    def destinations(self) -> tuple[PacsDestination | FhirDestination, ...]:
        """All of them."""
        return (*self.pacs, *self.fhir)


class Hospital(_Checked):
    """Everything outside that the house speaks with."""

    reception: Reception = Reception()
    archive: Archive | None = None
    results: Results = Results()

    @model_validator(mode="after")
    def _names_differ(self) -> Hospital:
        if twice := _repeated(destination.name for destination in self.results.destinations):
            raise ValueError(f"two destinations are named '{twice}'")
        if twice := _repeated(peer.ae_title for peer in self.reception.peers):
            raise ValueError(f"two peers are titled '{twice}'")
        return self


def read_token(path: Path | None, name: str) -> str | None:
    """What a token file holds, None where there is none. Raises HaltPipeline where it cannot be read."""
    try:
        return None if path is None else path.read_text("utf-8").strip()
    except OSError as error:
        raise HaltPipeline(f"{name}: its token file cannot be read ({error.strerror}); mend token_file") from error


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def load_hospital(path: Path) -> Hospital:
    """The hospital of that file, or one with nobody in it where there is no file. Raises HaltPipeline with the cure."""
    try:
        content = yaml.safe_load(path.read_text("utf-8")) if path.exists() else {}
        return Hospital.model_validate(content or {}, context={"folder": path.parent})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise HaltPipeline(f"{path.name}: {place}: {problem['msg']}; correct this line") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise HaltPipeline(f"{path.name} cannot be read ({type(error).__name__}); correct or remove it") from error
