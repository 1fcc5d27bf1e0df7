"""What JSON requests and answers of every endpoint have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

LARGEST_WHOLE: Final = 2**31 - 1  #: of what every database keeps in an integer column


class Sent(BaseModel):
    """The base of every request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(BaseModel):
    """The base of every answer: built from values or attributes, and described in the interface."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class Problem(Told):
    """Why a request was not met (RFC 9457), without insides and without anything that was sent."""

    type: str
    title: str
    status: int
    detail: str
    pointer: str | None = None  #: JSON Pointer to what was refused, where it is one field


Identifier = Annotated[str, Field(pattern=r"^[0-9a-f-]{1,36}$")]  #: an opaque id
Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), le=datetime(9000, 1, 1, tzinfo=UTC))]
"""A moment that stays one in every time zone."""
Whole = Annotated[int, Field(ge=0, le=LARGEST_WHOLE)]
Fence = Annotated[Whole, Field(description="the fence that the claim was answered with")]
