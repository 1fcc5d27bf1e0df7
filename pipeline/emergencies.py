"""Emergencies: somebody without the ordinary right opens one case, for an hour, with a reason, and it is told."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from pipeline.domain.notices import NoticeKind
from pipeline.errors import NotAllowed, UnfinishedRead
from pipeline.store import audit_rows, emergency_rows, notice_rows, reading_rows
from pipeline.store.account_rows import Account, May
from pipeline.store.database import Database

LENGTH: Final = timedelta(minutes=60)
SHORTEST_REASON = 10  #: characters
LONGEST_REASON = 1000


def open_in_emergency(database: Database, account: Account, case_id: str, reason: str, *, now: datetime) -> datetime:
    """Let this person see this case, and claim it where they read at all; returns until when.

    While it stands open to them, asking again changes nothing and tells nobody.
    Raises NotAllowed, NoSuchCase, and UnfinishedRead without a proper reason.
    """
    if not account.may(May.BREAK_GLASS):
        raise NotAllowed("this account may not open a case in an emergency; ask a lead")
    words = " ".join(reason.split())
    if not SHORTEST_REASON <= len(words) <= LONGEST_REASON:
        raise UnfinishedRead(f"say in {SHORTEST_REASON} to {LONGEST_REASON} characters why this cannot wait")
    until = now + LENGTH
    with database.transaction() as connection:
        case = reading_rows.known_case(connection, case_id)
        specialty = None if case.item is None else case.item.specialty
        if is_ordinary(account, specialty):
            raise NotAllowed("you may open this case without an emergency")
        emergency_rows.hold(connection)
        if already := emergency_rows.open_until(connection, account_id=account.id, case_id=case_id, now=now):
            return already
        row = emergency_rows.add_emergency(
            connection, account_id=account.id, case_id=case_id, reason=words, now=now, until=until
        )
        what = {"emergency": row, "until": until.isoformat()}
        audit_rows.append(
            connection, at=now, actor=account.name, event="emergency.opened", case_id=case_id, payload=what
        )
        told = {"case": case_id, "actor": account.name, "path": "/lead"}
        notice_rows.add(connection, kind=NoticeKind.EMERGENCY, subject=row, content=told, now=now)
    return until


def is_ordinary(account: Account, specialty: str | None) -> bool:
    """Whether the account sees the case, and may claim it where it reads at all, without any emergency."""
    if not account.may(May.SEE_CASES):
        return False
    return not account.may_read or specialty is None or account.may_claim(specialty)
