"""How codes, moments and numbers read on the pages: plain words, and never 'normal', 'negative' or 'cleared'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pipeline.domain.reason_words import REASON_WORDS
from pipeline.review import CANNOT_BE_READ
from pipeline.store.worklist_rows import REQUESTED

_REASONS = REASON_WORDS | {REQUESTED: ("A colleague asked", "A colleague asked for this read.")}
_PRIORITIES = {2: "High", 1: "Medium", 0: "Low"}
_ROUTES = {
    "PRIORITY": "Priority: to the front of the list",
    "ROUTINE": "Ordinary place, no priority flag",
    "REVIEW": "Deferred to a reader",
    "OUT_OF_SCOPE": "Outside the protocol's scope",
}


_DETECTORS = {
    "histogram": "overall brightness pattern",
    "pixels": "sharpness, noise or framing",
    "entropy": "an answer unusually undecided",
    "early": "fine texture",
    "shallow": "shapes",
    "penultimate": "what the network makes of them",
}


def detector(name: str) -> str:
    """In what the images are unlike the known ones, by the detector that says so."""
    return _DETECTORS.get(name.partition(".")[0], plain(name))


def chip(reason: str) -> str:
    """A reason in two or three words."""
    return _REASONS.get(reason, (plain(reason), ""))[0]


def sentence(reason: str) -> str:
    """A reason in one sentence."""
    return _REASONS.get(reason, ("", "This study asks for a reader."))[1]


def plain(code: str) -> str:
    """A code as words: 'no_tumour' becomes 'No tumour'."""
    words = code.replace("_", " ").replace("-", " ").strip().lower()
    return words[:1].upper() + words[1:]


def finding(code: str) -> str:
    """What a read says, in words."""
    return "Cannot be read" if code == CANNOT_BE_READ else plain(code)


def priority(level: int | None) -> str:
    """A UPS priority in a word."""
    return _PRIORITIES.get(1 if level is None else level, "Medium")


def route(code: str) -> str:
    """A route in words."""
    return _ROUTES.get(code, plain(code))


def span(length: timedelta) -> str:
    """A length of time in its two largest units."""
    minutes = max(0, int(length.total_seconds() // 60))
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def since(moment: datetime, now: datetime) -> str:
    """How long ago a moment was."""
    return span(now - moment)


def due(moment: datetime, now: datetime) -> str:
    """How long until a moment, or by how much it has passed."""
    return f"overdue {span(now - moment)}" if moment <= now else f"in {span(moment - now)}"


def clock(moment: datetime) -> str:
    """A moment as UTC, shown until the browser turns it into its own time."""
    return moment.strftime("%d %b %H:%M UTC")


def iso(moment: datetime) -> str:
    """A moment for machines."""
    return moment.isoformat()


def percent(share: float) -> str:
    """A probability as per cent with one decimal, never rounded to certainty."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def person_name(name: str | None) -> str:
    """A DICOM person name (PS3.5 6.2.1.1) as 'Family, Given'."""
    parts = [part.strip() for part in (name or "").split("=")[0].split("^")]
    return ", ".join(part for part in parts[:2] if part) or "Name not given"


def dicom_date(value: str | None) -> str:
    """A DICOM date as YYYY-MM-DD, or as it is when it is not one."""
    text = value or ""
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else text


def study_words(header: Mapping[str, Any]) -> str:
    """Modality and description of a study in a few words."""
    described = header.get("study_description") or header.get("body_part_examined") or "study"
    return f"{header.get('modality') or '?'} · {described}"


FILTERS: dict[str, Callable[..., Any]] = {
    "chip": chip,
    "sentence": sentence,
    "detector": detector,
    "plain": plain,
    "finding": finding,
    "priority": priority,
    "route": route,
    "span": span,
    "since": since,
    "due": due,
    "clock": clock,
    "iso": iso,
    "percent": percent,
    "person_name": person_name,
    "dicom_date": dicom_date,
    "study_words": study_words,
}
