"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["well", "note", "amiss"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at: `well`, a `note` worth knowing, or `amiss` with its cure."""

    name: str
    state: State
    detail: str
    cure: str = ""


def well(name: str, detail: str) -> Check:
    """All is as it should be."""
    return Check(name=name, state="well", detail=detail)


def note(name: str, detail: str, cure: str) -> Check:
    """Worth knowing."""
    return Check(name=name, state="note", detail=detail, cure=cure)


def amiss(name: str, detail: str, cure: str) -> Check:
    """Something needs a person."""
    return Check(name=name, state="amiss", detail=detail, cure=cure)
