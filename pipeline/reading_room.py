"""The site's rules of its reading room: signing, sign-in by the site's provider, viewer link, whom to tell; one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, SecretStr, ValidationError, model_validator

from pipeline.errors import HaltPipeline

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
Role = Literal["viewer", "reader", "adjudicator", "lead", "data_scientist", "admin"]


def _https_or_local(url: HttpUrl) -> HttpUrl:
    if url.scheme != "https" and url.host not in {"127.0.0.1", "localhost", "[::1]"}:
        raise ValueError("must be https, or http to this very machine")
    return url


Address = Annotated[HttpUrl, AfterValidator(_https_or_local)]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provider(_Checked):
    """The site's OpenID Connect provider; roles and specialties follow from the groups it names."""

    issuer: Address
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretStr | None = None
    groups_claim: str = "groups"
    roles: Mapping[str, Role]  #: group -> role; a person in none of them may not come in
    specialties: Mapping[str, str] = Field(default_factory=dict)  #: group -> specialty
    label: Annotated[str, Field(max_length=40)] = "Sign in with the hospital's account"


class Webhook(_Checked):
    """Where notices are posted as JSON; the body is signed with HMAC-SHA256 when there is a secret."""

    name: Name
    url: Address
    secret: SecretStr | None = None


class Mail(_Checked):
    """Whom notices are mailed to, and through which server."""

    name: Name = "mail"
    server: str
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password: SecretStr | None = None
    sender: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]
    to: Annotated[tuple[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")], ...], Field(min_length=1)]


class Notices(_Checked):
    """Who is told of overdue cases and of the safe state; no notice holds patient data."""

    webhooks: tuple[Webhook, ...] = ()
    mail: Mail | None = None


class ReadingRoom(_Checked):
    """What a site decides about its reading room; every field has a safe default."""

    signing: Literal["session", "password"] = "session"  #: password: a read is committed with the password or a code
    viewer_link: str | None = None  #: URL template of the hospital's viewer, with {study} for the Study Instance UID
    provider: Provider | None = None
    notices: Notices = Notices()

    @model_validator(mode="after")
    def _is_consistent(self) -> ReadingRoom:
        if self.viewer_link is not None:
            if "{study}" not in self.viewer_link:
                raise ValueError("viewer_link: lacks {study}; put it where the Study Instance UID belongs")
            if not self.viewer_link.startswith(("https://", "http://127.0.0.1", "http://localhost", "weasis://")):
                raise ValueError("viewer_link: must begin with https:// or weasis://")
        names = [hook.name for hook in self.notices.webhooks] + ([self.notices.mail.name] if self.notices.mail else [])
        if len(set(names)) != len(names):
            raise ValueError("notices: two destinations share a name; rename one")
        return self


def load_reading_room(path: Path) -> ReadingRoom:
    """The rules in that file, or the defaults where there is none. Raises HaltPipeline naming field and cure."""
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return ReadingRoom()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise HaltPipeline(f"{path.name}: cannot be read ({type(error).__name__}); mend or remove it") from error
    try:
        return ReadingRoom.model_validate(content or {})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise HaltPipeline(f"{path.name}: {field}: {problem['msg']}; correct or remove it") from None
