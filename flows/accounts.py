"""Accounts made from the command line: the password is generated, printed once and kept nowhere."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from flows.bootstrap import House
from pipeline.store import account_rows, audit_rows

_PASSWORD_BYTES = 15


def make_account(house: House, name: str, *, role: str, specialties: Sequence[str] | None) -> str:
    """Make an account and return its password; without `specialties`, those of every active protocol's routes."""
    chosen = list(specialties) if specialties else _all_specialties(house)
    password, now = secrets.token_urlsafe(_PASSWORD_BYTES), datetime.now(UTC)
    with house.database.transaction() as connection:
        account = account_rows.create_account(
            connection, name=name, password=password, role=role, specialties=chosen, now=now
        )
        audit_rows.append(
            connection, at=now, actor="init", event="account_created", payload={"account": account, "role": role}
        )
    return password


def _all_specialties(house: House) -> list[str]:
    rules = (rule for protocol in house.protocols.values() for rule in protocol.routes.values())
    return sorted({rule.specialty for rule in rules})
