"""Settings: read once, at the edge, from `SECONDREAD_*` variables or one file, into a frozen object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import HaltPipeline

SECRETS = Path("/run/secrets")
"""Where containers find their secrets: a file `secondread_<field>` there is read as that setting."""


class Settings(BaseSettings):
    """Where things are and how long they may take; every field can be set as `SECONDREAD_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="SECONDREAD_", env_file=None, frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".secondread")
    database_url: str | None = None  #: default: SQLite in the home
    mlflow_uri: str | None = None  #: default: SQLite in the home
    hospital: Path | None = None  #: YAML file of peers, PACS and destinations; default: hospital.yaml in the home
    reading_room: Path | None = (
        None  #: YAML file of the site's rules for reading; default: reading_room.yaml in the home
    )
    reserve_mb: Annotated[int, Field(ge=0)] = 1024  #: free disk below which nothing more is taken in
    protocols: str = "brain-tumour-mr"  #: comma-separated names or YAML paths of the active protocols
    quiet_seconds: Annotated[float, Field(ge=0)] = 60.0  #: a study is sealed after this long without a new instance
    lease_seconds: Annotated[float, Field(gt=0)] = 60.0  #: how long a worker holds a case without renewing
    claim_minutes: Annotated[float, Field(gt=0)] = 30.0  #: how long a reader holds a case without renewing
    chunk_size: Annotated[int, Field(ge=1, le=1000)] = 8  #: cases claimed at once
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "torch"] = "auto"  #: auto: whatever runs the networks fastest here; torch: plain PyTorch
    decode_memory_mb: Annotated[int, Field(ge=256)] = 2048  #: address space of the child that parses and decodes
    decode_seconds: Annotated[float, Field(gt=0)] = 20.0  #: wall clock the child has for one call
    bind: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8350

    hosts: str = ""  #: comma-separated host names the reading room answers to, besides localhost
    https: bool = False  #: a proxy in front speaks TLS: cookies become Secure and browsers stay on https

    door_token: SecretStr | None = None  #: what other systems show to bring studies and to work on the queue

    @property
    def host_names(self) -> tuple[str, ...]:
        """Host names the reading room answers to, besides localhost."""
        return tuple(name.strip() for name in self.hosts.split(",") if name.strip())

    @property
    def hospital_file(self) -> Path:
        """The file that says whom the house speaks with outside."""
        return self.hospital or self.home / "hospital.yaml"

    @property
    def reading_room_file(self) -> Path:
        """The file that says how the site reads."""
        return self.reading_room or self.home / "reading_room.yaml"

    @property
    def engine_memory(self) -> Path:
        """The file that remembers which engine ran the networks fastest on this machine."""
        return self.home / "engine.json"

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.home / 'secondread.db'}"

    @property
    def mlflow(self) -> str:
        """Tracking and registry URI of MLflow."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def protocol_names(self) -> tuple[str, ...]:
        """Names or paths of the active protocols."""
        return tuple(name.strip() for name in self.protocols.split(",") if name.strip())


def read_settings() -> Settings:
    """The settings of this process. Raises HaltPipeline naming the variable and the cure."""
    try:
        return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = "SECONDREAD_" + "_".join(str(part) for part in problem["loc"]).upper()
        raise HaltPipeline(f"{name}: {problem['msg']}; correct or unset this variable") from error
