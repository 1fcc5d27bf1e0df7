"""Keeping claimed cases while they are worked on: a thread that renews their leases until the block ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pipeline.errors import SecondreadError
from pipeline.store import case_rows
from pipeline.store.case_rows import ClaimedCase
from pipeline.store.database import Database

_log = logging.getLogger(__name__)
RENEWALS_PER_LEASE = 3.0


@contextmanager
def kept(database: Database, held: Callable[[], list[ClaimedCase]], *, owner: str, lease: timedelta) -> Iterator[None]:
    """Renew the leases of what `held` returns, three times per lease, while the block runs.

    A renewal that fails is tried again; when the lease is lost all the same, the fence refuses the late write.
    """
    done = threading.Event()

    def renew() -> None:
        while not done.wait(lease.total_seconds() / RENEWALS_PER_LEASE):
            try:
                _renew(database, held(), owner=owner, lease=lease)
            except SecondreadError as error:
                _log.warning("a lease could not be renewed", extra={"error": type(error).__name__})

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _renew(database: Database, cases: list[ClaimedCase], *, owner: str, lease: timedelta) -> None:
    now = datetime.now(UTC)
    with database.transaction() as connection:
        for case in cases:
            case_rows.renew(connection, case_id=case.case_id, owner=owner, fence=case.fence, lease=lease, now=now)
