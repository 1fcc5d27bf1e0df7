"""Proving who one is: a password or a code of the second factor.

Whoever is signed in has few attempts of their own, apart from those of sign-in: else a stranger who tries passwords at the
door could keep a named clinician from signing reads.
"""

from __future__ import annotations

import base64
import hmac
import os
from datetime import datetime

import pyotp
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.store import account_rows, audit_rows, second_factor_rows
from pipeline.store.account_rows import Account
from pipeline.store.database import Transaction
from pipeline.web.rate_limit import TooMany
from pipeline.web.room import Room

STEP_SECONDS = 30
_STEPS_OFF = (0, -1, 1)  #: clocks of telephones go wrong
_NONCE_BYTES = 12


def seal(room: Room, value: bytes, *, purpose: str) -> str:
    """The value as only this house can read it, for this one purpose."""
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(room.keys.sealing).encrypt(nonce, value, purpose.encode())
    return base64.urlsafe_b64encode(nonce + sealed).decode()


def unseal(room: Room, sealed: str, *, purpose: str) -> bytes | None:
    """The value, or None where it was sealed by another house or for another purpose, or was changed."""
    try:
        data = base64.urlsafe_b64decode(sealed.encode())
        return AESGCM(room.keys.sealing).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], purpose.encode())
    except (ValueError, InvalidTag):
        return None


def secret_purpose(account_id: str) -> str:
    """What a second factor's secret is sealed for, so that it opens under its own account only."""
    return f"second factor of {account_id}"


def step_of(secret: str, code: str, now: datetime) -> int | None:
    """The time step, at most one off, whose code this is; or None."""
    current, totp = int(now.timestamp()) // STEP_SECONDS, pyotp.TOTP(secret)
    found = None
    for off in _STEPS_OFF:
        expected = totp.generate_otp(current + off)
        if hmac.compare_digest(expected.encode(), code.encode()) and found is None:
            found = current + off
    return found


def uses_code(room: Room, connection: Transaction, account_id: str, code: str) -> bool:
    """Whether this is a current code of the account's second factor that was not used before; it is used up."""
    sealed = second_factor_rows.sealed_secret(connection, account_id)
    if sealed is None or not room.keys.sealing:
        return False
    secret = unseal(room, sealed, purpose=secret_purpose(account_id))
    step = None if secret is None else step_of(secret.decode(), code.strip().replace(" ", ""), room.now())
    return step is not None and second_factor_rows.use_step(connection, account_id=account_id, step=step)


def proves(room: Room, account: Account, secret: str) -> bool:
    """Whether this is the account's password or an unused, current code; which of them it would be is never told."""
    return _proves(room, account, secret, codes=True)


def has_password(room: Room, account: Account, password: str) -> bool:
    """Whether this is the account's password, and no code in its place."""
    return _proves(room, account, password, codes=False)


def _proves(room: Room, account: Account, secret: str, *, codes: bool) -> bool:
    try:
        room.proofs.take(account.id)
    except TooMany:
        return False
    proven: bool | None = None
    try:
        proven = _is_right(room, account, secret, codes=codes)
    finally:
        if proven is not False:  # it was right, or nobody came to judge it
            room.proofs.give_back(account.id)
    return proven


def _is_right(room: Room, account: Account, secret: str, *, codes: bool) -> bool:
    with room.database.read() as connection:
        stored = account_rows.find_by_id(connection, account.id)
    right = account_rows.password_matches(stored, secret)  # outside any transaction, for it takes long
    with room.database.transaction() as connection:
        present = account_rows.hold_account(connection, account.id)
        if present is None or stored is None or present.disabled:
            return False
        if right and present.password_hash == stored.password_hash:
            return True
        if codes and uses_code(room, connection, account.id, secret):
            return True
        audit_rows.append(connection, at=room.now(), actor=present.account.name, event="proof.refused", payload={})
    return False
