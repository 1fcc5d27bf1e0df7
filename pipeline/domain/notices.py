"""Notices: what the people in charge are told outside the reading room, and where each telling stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class NoticeKind(StrEnum):
    """Why somebody is told something."""

    ESCALATION = "ESCALATION"  #: A case waits beyond the limit of its class.
    SAFE_STATE = "SAFE_STATE"  #: Automation was stopped or armed again.
    EMERGENCY = "EMERGENCY"  #: Somebody opened a case in an emergency.


class SendingState(StrEnum):
    """Where one notice stands on its way to one destination."""

    WAITING = "WAITING"  #: To be sent, or to be sent again.
    SENT = "SENT"  #: The destination took it.
    PARKED = "PARKED"  #: Not taken for three days: kept and shown, and no longer tried by itself.


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing to be told; `subject` is an opaque id, `content` holds no patient data."""

    id: str
    kind: NoticeKind
    subject: str
    content: Mapping[str, Any]
    created_at: datetime


_HEADINGS = {
    NoticeKind.ESCALATION: ("A case waits beyond its limit", "{} cases wait beyond their limits"),
    NoticeKind.SAFE_STATE: ("The safe state was switched", "The safe state was switched {} times"),
    NoticeKind.EMERGENCY: ("A case was opened in an emergency", "{} cases were opened in an emergency"),
}


def heading(notices: Sequence[Notice]) -> str:
    """What a digest is about, in one line; the safe state comes first."""
    kinds = (NoticeKind.SAFE_STATE, NoticeKind.EMERGENCY, NoticeKind.ESCALATION)
    counted = {kind: sum(notice.kind is kind for notice in notices) for kind in kinds}
    return "; ".join(_counted(kind, count) for kind, count in counted.items() if count)


def _counted(kind: NoticeKind, count: int) -> str:
    one, many = _HEADINGS[kind]
    return one if count == 1 else many.format(count)


def sentence(notice: Notice) -> str:
    """One notice as one sentence for a person."""
    content = notice.content
    if notice.kind is NoticeKind.ESCALATION:
        return (
            f"Case {content.get('case')} ({content.get('protocol')}, {content.get('specialty')}, priority "
            f"{content.get('priority')}) is overdue by {content.get('minutes_overdue')} min: {content.get('path')}"
        )
    if notice.kind is NoticeKind.SAFE_STATE:
        switched = "Automation was stopped" if content.get("on") else "Automation was armed again"
        return f"{switched} by {content.get('actor')}; the reason is on the lead's page: {content.get('path')}"
    opened = f"{content.get('actor')} opened case {content.get('case')} in an emergency"
    return f"{opened}; the reason is on the lead's page: {content.get('path')}"


SAID: Mapping[NoticeKind, frozenset[str]] = {
    NoticeKind.ESCALATION: frozenset({"protocol", "specialty", "priority", "minutes_overdue", "case", "path"}),
    NoticeKind.SAFE_STATE: frozenset({"on", "actor", "path"}),
    NoticeKind.EMERGENCY: frozenset({"case", "actor", "path"}),
}
"""All that a notice of each kind may say: nothing here can hold a patient."""


def checked(kind: NoticeKind, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a notice; raises ValueError where it says more than its kind may."""
    if foreign := sorted(set(content) - SAID[kind]):
        raise ValueError(f"a notice of kind {kind} may not say '{foreign[0]}'; leave it out")
    return dict(content)
