"""Second factors of accounts: a sealed secret, and the newest time step whose code was used, so that none works twice."""

from __future__ import annotations

from sqlalchemy import Connection, or_, select, update

from pipeline.store.tables import account


def sealed_secret(connection: Connection, account_id: str) -> str | None:
    """The sealed secret of an account, or None without a second factor."""
    return connection.execute(select(account.c.totp_secret).where(account.c.id == account_id)).scalar_one_or_none()


def put_secret(connection: Connection, *, account_id: str, sealed: str, step: int) -> None:
    """Give an account a second factor whose code of this time step was just used."""
    changed = {"totp_secret": sealed, "totp_step": step}
    connection.execute(update(account).where(account.c.id == account_id).values(**changed))


def remove_secret(connection: Connection, *, account_id: str) -> bool:
    """Take an account's second factor away; False when it had none."""
    had = (account.c.id == account_id) & account.c.totp_secret.is_not(None)
    return connection.execute(update(account).where(had).values(totp_secret=None, totp_step=None)).rowcount == 1


def use_step(connection: Connection, *, account_id: str, step: int) -> bool:
    """Use the code of a time step up; False where it, or a later one, was used before."""
    unused = or_(account.c.totp_step.is_(None), account.c.totp_step < step)
    mine = (account.c.id == account_id) & account.c.totp_secret.is_not(None) & unused
    return connection.execute(update(account).where(mine).values(totp_step=step)).rowcount == 1
