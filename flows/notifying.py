"""Notices on their way out: the listeners of the site's reading-room rules, told once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any

from flows.bootstrap import House
from pipeline.domain.notices import Notice


def notify_once(house: House, *, parked_too: bool = False) -> dict[str, Any]:
    """Escalate what is overdue and tell every listener what is due. Raises RetryLater, HaltPipeline."""
    from pipeline.noticing import notify
    from pipeline.store import notice_rows

    told = listeners(house)
    if parked_too:
        with house.database.transaction() as connection:
            notice_rows.send_parked_again(connection, [one.name for one in told], _now())
    done = notify(house.database, told, now=_now, random=Random())  # noqa: S311 - jitter, not a secret
    with house.database.read() as connection:
        states, untold = notice_rows.counts(connection), notice_rows.untold(connection, before=_now())
        return {**asdict(done), "states": states, "untold": untold}


def listeners(house: House) -> list[Any]:
    """Everybody whom the site's rules name. Raises HaltPipeline."""
    from pipeline.messages import mail, post
    from pipeline.noticing import Listener

    rules = house.reading_room.notices
    found = [Listener(name=hook.name, tell=partial(_tell, post, hook)) for hook in rules.webhooks]
    if rules.mail is not None:
        found.append(Listener(name=rules.mail.name, tell=partial(_tell, mail, rules.mail)))
    return found


def _tell(send: Any, rule: Any, notices: Sequence[Notice], now: datetime) -> None:
    from pipeline.messages import Digest

    send(rule, Digest(notices=notices), now)


def _now() -> datetime:
    return datetime.now(UTC)
