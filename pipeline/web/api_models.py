"""What JSON requests and answers of every endpoint have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Sent(BaseModel):
    """The base of every request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(BaseModel):
    """The base of every answer: built from values or attributes, and described in the interface."""

    model_config = ConfigDict(from_attributes=True, frozen=True)
