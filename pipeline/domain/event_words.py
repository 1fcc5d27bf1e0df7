"""What happened to a case in plain words: every known event, which of its fields may be told, and to whom.

An event that is not named here is only "recorded", and a field that no sentence names is not told: what a later event
carries can therefore reveal nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Blind(StrEnum):
    """What somebody who is yet to read the case, or to see the answer, may know of an event."""

    HIDDEN = "hidden"  #: Nothing: it tells the answer, the round, or what others did.
    OPEN = "open"  #: That it happened: it is about the study and not about its reading.
    THIS_ITEM = "this item"  #: That it happened to the item that waits now, and not who did it.


@dataclass(frozen=True, kw_only=True)
class EventWords:
    """How one event is told: a title, and a sentence with the fields it needs, dropped where one is absent."""

    title: str
    detail: str = ""
    blind: Blind = Blind.HIDDEN
    kind: str = "reading"  #: study, model, reading, alarm or result: which lane of the timeline it stands in


RECORDED: Final = EventWords(title="Recorded", kind="other")

EVENTS: Final[Mapping[str, EventWords]] = {
    "images_received": EventWords(title="Images received", detail="{images} images", blind=Blind.OPEN, kind="study"),
    "study_sealed": EventWords(title="Study sealed", detail="revision {revision}", blind=Blind.OPEN, kind="study"),
    "study_reopened": EventWords(title="More images arrived", blind=Blind.OPEN, kind="study"),
    "revision_sealed": EventWords(title="Study sealed", detail="revision {revision}", blind=Blind.OPEN, kind="study"),
    "newer_revision": EventWords(
        title="Replaced by a newer revision", detail="revision {revision}", blind=Blind.OPEN, kind="study"
    ),
    "case_decided": EventWords(title="Triage decided", detail="{route}: {reasons}", kind="model"),
    "item_scheduled": EventWords(title="Put on the worklist", detail="for {specialty}, {round_words}"),
    "item.escalated": EventWords(
        title="Escalated: waited beyond its limit",
        detail="{minutes_overdue} min overdue",
        blind=Blind.THIS_ITEM,
        kind="alarm",
    ),
    "read.paused": EventWords(title="Put aside", blind=Blind.THIS_ITEM),
    "read.resumed": EventWords(title="Taken up again", blind=Blind.THIS_ITEM),
    "read.handed_over": EventWords(title="Handed over", blind=Blind.THIS_ITEM),
    "read.opened": EventWords(title="Opened for reading", blind=Blind.THIS_ITEM),
    "read.released": EventWords(title="Given back unread"),
    "read.requested": EventWords(title="A read was asked for"),
    "read.committed": EventWords(title="Read committed", detail="{finding}, certainty {certainty} of 5"),
    "read.revealed": EventWords(title="Model's answer revealed", kind="model"),
    "read.compared": EventWords(title="Compared with the model", detail="{agreement}"),
    "round.opened": EventWords(title="Another reader is asked", detail="{round_words}"),
    "round.impossible": EventWords(title="No second reader there", detail="the read stands by itself", kind="alarm"),
    "exposed": EventWords(title="Shown to a person", detail="{kind}"),
    "emergency.opened": EventWords(title="Opened in an emergency", blind=Blind.OPEN, kind="alarm"),
    "record.seen": EventWords(title="Whole record looked at", kind="alarm"),
    "result_delivered": EventWords(title="Result delivered", detail="{kind} as {form} to {destination}", kind="result"),
    "delivery_parked": EventWords(title="A result could not be delivered", detail="to {destination}", kind="alarm"),
}

_ROUNDS = {1: "first read", 2: "second read", 3: "adjudication"}


def words_of(event: str) -> EventWords:
    """How an event is told; RECORDED for one that is not known."""
    return EVENTS.get(event, RECORDED)


def detail_of(words: EventWords, payload: Mapping[str, Any]) -> str:
    """The sentence of an event with its fields filled in; empty where one is absent."""
    fields = {name: _plain(value) for name, value in payload.items()}
    if "round" in payload:
        fields["round_words"] = _ROUNDS.get(payload["round"], "read")
    try:
        return words.detail.format(**fields)
    except (KeyError, IndexError):
        return ""


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    return str(value).replace("_", " ").lower()
