"""Accounts of the reading room: passwords as argon2id hashes, failures counted, delays that grow and always end."""

from __future__ import annotations

import threading
import unicodedata
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from pipeline.errors import HaltPipeline, RetryLater, UnfitAccount
from pipeline.store.common_passwords import is_common
from pipeline.store.sequences import new_id
from pipeline.store.tables import account

FREE_FAILURES = 5  #: wrong passwords without delay
LONGEST_DELAY = timedelta(minutes=15)
SHORTEST_PASSWORD = 12  #: characters
LONGEST_PASSWORD = 1024  #: characters; longer ones would let a stranger buy hashing time
LONGEST_NAME = 64

_hasher = PasswordHasher()
_hashing = threading.BoundedSemaphore(2)  # 64 MiB and several cores each: more at once would starve the room
_LONGEST_WAIT = 1.0  #: seconds for a turn to hash: whoever waits holds a thread of the room


@cache
def _hash_of_nobody() -> str:
    return _hasher.hash(uuid.uuid4().hex)


class Role(StrEnum):
    """What an account may do."""

    VIEWER = "viewer"  #: Look at the worklist and the images.
    READER = "reader"  #: Also claim and read cases of the account's specialties.
    ADJUDICATOR = "adjudicator"  #: Also decide where two reads disagree.
    LEAD = "lead"  #: Also claim every specialty, see the figures, hand over, stop automation and ask to re-arm it.
    DATA_SCIENTIST = "data_scientist"  #: See the figures, and no patient and no case.
    ADMIN = "admin"  #: Look after accounts and tokens, and see no patient and no case.
    SERVICE = "service"  #: A program of the site: it comes with a token and does what the token's scopes say.
    OUTSIDE = "outside"  #: Other systems: what they claim and read is written down under this, and nobody signs in.


class May(StrEnum):
    """One thing that a role allows."""

    SEE_CASES = "see_cases"  #: Worklist, images, patients.
    READ = "read"  #: Claim and commit cases of the account's specialties.
    ADJUDICATE = "adjudicate"  #: Claim the third round of a case.
    READ_ALL = "read_all"  #: Claim every specialty.
    HAND_OVER = "hand_over"  #: Give a colleague's case to another.
    SEE_FIGURES = "see_figures"  #: Counts, waits and rates, without patients.
    SEE_RECORD = "see_record"  #: The whole timeline of a case, which ends its reader's blindness.
    STOP = "stop"  #: Enter the safe state, and ask to leave it.
    MANAGE_PEOPLE = "manage_people"  #: Accounts and tokens.
    BREAK_GLASS = "break_glass"  #: Open one case in an emergency, with a reason, written down.


_LOOK = frozenset({May.SEE_CASES, May.BREAK_GLASS})
_READ = _LOOK | {May.READ}
ALLOWED: Final[Mapping[Role, frozenset[May]]] = {
    Role.VIEWER: _LOOK,
    Role.READER: _READ,
    Role.ADJUDICATOR: _READ | {May.ADJUDICATE},
    Role.LEAD: frozenset(May) - {May.MANAGE_PEOPLE},
    Role.DATA_SCIENTIST: frozenset({May.SEE_FIGURES}),
    Role.ADMIN: frozenset({May.MANAGE_PEOPLE, May.SEE_FIGURES, May.BREAK_GLASS, May.STOP}),
    Role.SERVICE: frozenset(),
    Role.OUTSIDE: frozenset({May.READ, May.READ_ALL}),
}

OF_ACCOUNTS = tuple(role for role in Role if role is not Role.OUTSIDE)
NOT_AT_THE_DESK = frozenset({Role.SERVICE, Role.OUTSIDE})  #: programs, which never sign in
OUTSIDE_NAME = "outside system"
RESERVED: Final = frozenset(
    {
        OUTSIDE_NAME, "command line", "delivery", "demo", "export", "init", "intake",
        "noticing", "provider", "pull", "reconciliation", "review", "secondread", "system", "training", "triage",
        "worklist",
    }
)  #: names under which the house itself writes things down  # fmt: skip
_NO_PASSWORD = "!"  # noqa: S105 - no hash, so that nothing matches it


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who is at the desk."""

    id: str
    name: str
    role: Role
    specialties: tuple[str, ...]
    granted: frozenset[May] = frozenset()  #: beside what the role allows: by the scopes of a service's token

    def may(self, what: May) -> bool:
        """Whether the account's role, or what it was granted, allows this."""
        return what in ALLOWED[self.role] or what in self.granted

    @property
    def may_read(self) -> bool:
        """Whether this account may claim cases at all."""
        return self.may(May.READ)

    @property
    def claimable(self) -> tuple[str, ...] | None:
        """Specialties whose cases this account may claim; None means every specialty."""
        if self.may(May.READ_ALL):
            return None
        return self.specialties if self.may_read else ()

    def may_claim(self, specialty: str) -> bool:
        """Whether this account may claim a case of that specialty."""
        return self.claimable is None or specialty in self.claimable


@dataclass(frozen=True, kw_only=True)
class StoredPassword:
    """What sign-in needs to know of an account before the password was checked."""

    account: Account
    password_hash: str
    locked_until: datetime | None
    disabled: bool
    second_factor: bool
    by_provider: bool  #: the site's provider vouches for this person

    @property
    def has_password(self) -> bool:
        """Whether there is a password at all."""
        return self.password_hash != _NO_PASSWORD

    @property
    def may_sign_in(self) -> bool:
        """Whether this account may open a session."""
        return not self.disabled and self.account.role not in NOT_AT_THE_DESK


def create_account(
    connection: Connection,
    *,
    name: str,
    password: str | None,
    role: str,
    specialties: Sequence[str],
    now: datetime,
    oidc_subject: str | None = None,
) -> str:
    """Make an account, without a password where another vouches for it, and return its id. Raises UnfitAccount."""
    refuse_name(name)
    refuse_role(role)
    if password is not None:
        refuse_password(password, name=name)
    account_id = new_id()
    row = {
        "id": account_id,
        "name": name.strip(),
        "password_hash": _NO_PASSWORD if password is None else _hash(password),
        "role": role,
        "specialties": list(specialties),
        "created_at": now,
        "oidc_subject": oidc_subject,
    }
    try:
        with connection.begin_nested():
            connection.execute(insert(account).values(**row))
    except IntegrityError as error:
        raise UnfitAccount(f"an account named '{name.strip()}' exists already; choose another name") from error
    return account_id


def refuse_name(name: str) -> None:
    """Raise UnfitAccount for a name that no account may have."""
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise UnfitAccount(f"the account's name must have 1 to {LONGEST_NAME} printable characters; choose another")
    if is_reserved(name):
        raise UnfitAccount("the house itself writes things down under this name; choose another")


def is_reserved(name: str) -> bool:
    """Whether this is a name of the house's own, however it is spelt."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split()) in RESERVED


def refuse_role(role: str) -> None:
    """Raise UnfitAccount for what is no role of an account that can be made."""
    if role not in OF_ACCOUNTS:
        raise UnfitAccount(f"no role named '{role}': use one of {', '.join(OF_ACCOUNTS)}")


def refuse_password(password: str, *, name: str) -> None:
    """Raise UnfitAccount for a password that is too short, too long, widely used, or the account's name."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UnfitAccount(
            f"the password must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; choose another"
        )
    if is_common(password) or name.strip().casefold() == password.strip().casefold():
        raise UnfitAccount("this password is among the first that strangers try; choose another")


def set_password(connection: Connection, *, account_id: str, name: str, password: str) -> None:
    """Give an account another password and forget its wrong attempts. Raises UnfitAccount."""
    refuse_password(password, name=name)
    changed = {"password_hash": _hash(password), "failures": 0, "locked_until": None}
    connection.execute(update(account).where(account.c.id == account_id).values(**changed))


def _hash(password: str) -> str:
    with _turn():
        return _hasher.hash(password)


@contextmanager
def _turn() -> Iterator[None]:
    if not _hashing.acquire(timeout=_LONGEST_WAIT):
        raise RetryLater("too many passwords are checked at this moment: try again")
    try:
        yield
    finally:
        _hashing.release()


def outside_account(connection: Connection, *, now: datetime) -> Account:
    """The account that other systems work under, made when it is absent. Raises HaltPipeline where a person has it."""
    found = find_for_sign_in(connection, OUTSIDE_NAME)
    if found is None:
        row = {"id": new_id(), "name": OUTSIDE_NAME, "role": Role.OUTSIDE, "specialties": [], "created_at": now}
        with suppress(IntegrityError), connection.begin_nested():  # another process may make it at this moment
            connection.execute(insert(account).values(password_hash=_NO_PASSWORD, disabled=True, **row))
        found = find_for_sign_in(connection, OUTSIDE_NAME)
    if found is None or found.account.role is not Role.OUTSIDE:
        raise HaltPipeline(f"an account of a person is named '{OUTSIDE_NAME}'; rename it")
    return found.account


def find_for_sign_in(connection: Connection, name: str) -> StoredPassword | None:
    """The account of that name with what is needed to check a password, or None."""
    return _stored(connection.execute(select(account).where(account.c.name == name.strip())).one_or_none())


def find_by_id(connection: Connection, account_id: str) -> StoredPassword | None:
    """The account of that id with what is needed to check a password, or None."""
    return _stored(connection.execute(select(account).where(account.c.id == account_id)).one_or_none())


def hold_account(connection: Connection, account_id: str) -> StoredPassword | None:
    """The account of that id as `find_by_id` gives it; nobody else changes it until this transaction ends."""
    query = select(account).where(account.c.id == account_id).with_for_update(key_share=True)
    return _stored(connection.execute(query).one_or_none())


def _stored(row: Row[Any] | None) -> StoredPassword | None:
    if row is None:
        return None
    return StoredPassword(
        account=Account(id=row.id, name=row.name, role=Role(row.role), specialties=tuple(row.specialties)),
        password_hash=row.password_hash,
        locked_until=row.locked_until,
        disabled=row.disabled,
        second_factor=row.totp_secret is not None,
        by_provider=row.oidc_subject is not None,
    )


def password_matches(stored: StoredPassword | None, password: str) -> bool:
    """Whether the password is right; an account that is unknown or has none costs the same time. Raises RetryLater."""
    known = stored is not None and stored.has_password
    with _turn():
        try:
            _hasher.verify(stored.password_hash if stored and known else _hash_of_nobody(), password[:LONGEST_PASSWORD])
        except (VerificationError, InvalidHashError):
            return False
    return known and len(password) <= LONGEST_PASSWORD


def delay_after(failures: int) -> timedelta:
    """How long sign-in waits after that many wrong passwords in a row: nothing, then doubling, never for good."""
    if failures <= FREE_FAILURES:
        return timedelta(0)
    return min(timedelta(seconds=2 ** min(failures - FREE_FAILURES, 20)), LONGEST_DELAY)


def record_failure(connection: Connection, *, account_id: str, now: datetime) -> int:
    """Count one wrong password, delay the next attempt when there were many, and return the count."""
    failures: int = connection.execute(
        update(account)
        .where(account.c.id == account_id)
        .values(failures=account.c.failures + 1)
        .returning(account.c.failures)
    ).scalar_one()
    delay = delay_after(failures)
    if delay:
        connection.execute(update(account).where(account.c.id == account_id).values(locked_until=now + delay))
    return failures


def record_success(connection: Connection, *, account_id: str) -> None:
    """Forget the wrong attempts."""
    connection.execute(update(account).where(account.c.id == account_id).values(failures=0, locked_until=None))


def upgrade_hash(connection: Connection, *, stored: StoredPassword, password: str) -> None:
    """Store the password under today's parameters where its hash was made with older ones."""
    if _hasher.check_needs_rehash(stored.password_hash):
        connection.execute(
            update(account).where(account.c.id == stored.account.id).values(password_hash=_hash(password))
        )


def disable_account(connection: Connection, *, name: str) -> bool:
    """Shut an account out at once, its sessions too; False when there is none of that name."""
    return connection.execute(update(account).where(account.c.name == name).values(disabled=True)).rowcount == 1
