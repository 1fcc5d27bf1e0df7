"""Accounts made from the command line: the password is generated, printed once and kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from flows.bootstrap import House
from pipeline import membership


def make_account(house: House, name: str, *, role: str, specialties: Sequence[str] | None, actor: str = "init") -> str:
    """Make an account and return its password; without `specialties`, those of every active protocol's routes."""
    chosen = list(specialties) if specialties else _all_specialties(house)
    made = membership.add_person(
        house.database, actor=actor, name=name, role=role, specialties=chosen, now=datetime.now(UTC)
    )
    return made.secret


def _all_specialties(house: House) -> list[str]:
    rules = (rule for protocol in house.protocols.values() for rule in protocol.routes.values())
    return sorted({rule.specialty for rule in rules})
