"""The story of one case, from the audit trail: whole for who may know it, and blind for who is yet to read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.domain.event_words import Blind, EventWords, detail_of, words_of
from pipeline.errors import NoSuchCase, NotAllowed
from pipeline.store import audit_rows, exposure_rows, read_rows, round_rows, timeline_rows
from pipeline.store.account_rows import Account, May
from pipeline.store.database import Database, Transaction
from pipeline.store.exposure_rows import Exposure
from pipeline.store.timeline_rows import CaseKey, Happened, Trail

_SOMEBODY = "a colleague"
_OF_OTHERS = frozenset(
    {
        "exposed", "item.escalated", "item_scheduled", "read.committed", "read.compared", "read.handed_over", "read.opened",
        "read.paused", "read.released", "read.resumed", "read.revealed", "round.opened",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the timeline. `day_only`: the time of day is withheld, because it can tell what must not be known."""

    at: datetime
    day_only: bool
    actor: str
    title: str
    detail: str
    kind: str
    event: str | None  #: its code, in the whole story alone
    number: int | None


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The story of one case as one person may know it; `trail` and every event stand in the whole story alone."""

    case_id: str
    protocol: str
    is_whole: bool
    entries: tuple[Entry, ...]
    trail: Trail | None


def timeline(database: Database, person: Account, case_id: str) -> Timeline:
    """What happened to a case: whole once this person's read of it is revealed, or they have opened its record.

    Until then nothing that tells the answer, the round or other people's reads. Raises NoSuchCase.
    """
    with database.read() as connection:
        key = _known(connection, case_id)
        if not _may_know(connection, person, case_id):
            return _blind(connection, key, person)
        whole = _whole(connection, key)
        is_lead = exposure_rows.is_noted(connection, case_id=case_id, account_id=person.id, kind=Exposure.RECORD)
        waits = round_rows.open_round(connection, case_id) is not None
        return _without_others(whole, person) if waits and not is_lead else whole


def record(database: Database, person: Account, case_id: str, *, now: datetime) -> Timeline:
    """The whole story for a lead, written down as such; they may not read the case from here on.

    Raises NoSuchCase, or NotAllowed while they hold the case or have not revealed their own read.
    """
    if not person.may(May.SEE_RECORD):
        raise NotAllowed("this account may not see the whole record of a case; ask a lead")
    with database.transaction() as connection:
        key = _known(connection, case_id)
        timeline_rows.hold_items(connection, case_id)
        if timeline_rows.holds(connection, case_id=case_id, account_id=person.id, now=now):
            raise NotAllowed("you hold this case; commit your read or give it back before you open its record")
        own = read_rows.read_by(connection, case_id=case_id, reader_id=person.id)
        if own is not None and own.revealed_at is None:
            raise NotAllowed("reveal the model's answer to your own read before you open the record")
        if exposure_rows.note(connection, case_id=case_id, account_id=person.id, kind=Exposure.RECORD, now=now):
            audit_rows.append(connection, at=now, actor=person.name, event="record.seen", case_id=case_id, payload={})
        return _whole(connection, key)


def _known(connection: Transaction, case_id: str) -> CaseKey:
    key = timeline_rows.case_key(connection, case_id)
    if key is None:
        raise NoSuchCase("there is no such case; go back to the worklist")
    return key


def _may_know(connection: Transaction, person: Account, case_id: str) -> bool:
    if timeline_rows.is_revealed(connection, case_id=case_id, account_id=person.id):
        return True
    own = read_rows.read_by(connection, case_id=case_id, reader_id=person.id)
    looked = exposure_rows.is_noted(connection, case_id=case_id, account_id=person.id, kind=Exposure.RECORD)
    return looked and own is None


def _whole(connection: Transaction, key: CaseKey) -> Timeline:
    events, trail = timeline_rows.events(connection, key)
    rows = [
        *timeline_rows.received(connection, key),
        *timeline_rows.items(connection, key),
        *timeline_rows.sent_results(connection, key),
        *timeline_rows.exposures(connection, key),
        *_without_event(timeline_rows.revisions(connection, key), events, "study_sealed"),
        *_without_event(timeline_rows.emergencies(connection, key), events, "emergency.opened"),
    ]
    story = sorted([*rows, *events], key=_order)
    return Timeline(
        case_id=key.case_id,
        protocol=key.protocol,
        is_whole=True,
        entries=tuple(_told(one) for one in story),
        trail=trail,
    )


def _without_others(whole: Timeline, person: Account) -> Timeline:
    """The story without what colleagues do while one of them still reads: as if nobody else were asked."""
    kept = [one for one in whole.entries if one.actor == person.name or one.event not in _OF_OTHERS]
    return replace(whole, entries=tuple(kept))


def _without_event(rows: list[Happened], events: list[Happened], event: str) -> list[Happened]:
    """Rows whose happening the trail does not hold already."""
    return [] if any(one.event == event for one in events) else rows


def _order(one: Happened) -> tuple[datetime, int]:
    return one.at, one.number or 0


def _told(one: Happened) -> Entry:
    words = words_of(one.event)
    return Entry(
        at=one.at,
        day_only=False,
        actor=one.actor,
        title=words.title,
        detail=detail_of(words, one.payload),
        kind=words.kind,
        event=one.event,
        number=one.number,
    )


def _blind(connection: Transaction, key: CaseKey, person: Account) -> Timeline:
    """Only what the list of words opens, to the day; one's own doings in full."""
    events, _ = timeline_rows.events(connection, key)
    items = timeline_rows.items_told(connection, key.case_id, person.id)
    rows = [
        *timeline_rows.received(connection, key),
        *_without_event(timeline_rows.revisions(connection, key), events, "study_sealed"),
        *_without_event(timeline_rows.emergencies(connection, key), events, "emergency.opened"),
    ]
    shown = [entry for one in [*rows, *events] if (entry := _blindly(one, person, items)) is not None]
    return Timeline(
        case_id=key.case_id, protocol=key.protocol, is_whole=False, entries=tuple(_in_order(shown)), trail=None
    )


def _blindly(one: Happened, person: Account, items: frozenset[str]) -> Entry | None:
    words = words_of(one.event)
    is_own = one.actor == person.name and one.event in _OWN
    of_this_item = words.blind is Blind.THIS_ITEM and one.payload.get("item") in items
    if not (is_own or of_this_item or words.blind is Blind.OPEN):
        return None
    entry = replace(_told(one), event=None, number=None)
    if is_own:
        return entry
    actor = one.actor if one.event in _BY_PROGRAMS else _SOMEBODY
    day = entry.at.replace(hour=0, minute=0, second=0, microsecond=0)
    return replace(entry, at=day, day_only=True, actor=actor, detail=_detail(words, one))


_BY_PROGRAMS = frozenset(
    {"images_received", "study_sealed", "study_reopened", "revision_sealed", "newer_revision", "item.escalated"}
)
_OWN = frozenset({"read.opened", "read.released", "read.paused", "read.committed", "read.requested"})
"""What a person did to a case and may be told again before the answer: it holds nothing they do not know."""


def _detail(words: EventWords, one: Happened) -> str:
    return detail_of(words, one.payload) if words.kind == "study" else ""


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.at, entry.kind != "study"))
