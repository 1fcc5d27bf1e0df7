"""Logs: JSON lines that hold only fields known to be harmless.

Why an allow-list: libraries echo attribute values in their warnings and exceptions (a patient's name among them), so what
they say is reduced to who said it and how badly; our own records carry the fields below and no others.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

FIELDS = (
    "case_id",
    "study_id",
    "protocol",
    "release",
    "route",
    "reasons",
    "reason",
    "verdict",
    "event",
    "count",
    "seconds",
    "stage",
    "member",
    "epoch",
    "fence",
    "attempt",
    "error",
)
OURS = ("pipeline", "models", "flows", "secondread")


def log_to(stream: TextIO, *, level: int = logging.INFO) -> None:
    """Send every log record of this process to `stream` as JSON lines, foreign ones from WARNING up and without their text."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(_is_wanted)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message (ours only) and the allowed fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON; tracebacks are reduced to the exception's type."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if _is_ours(record):
            line["message"] = " ".join(record.getMessage().split())
            line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, default=str, allow_nan=False)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.split(".", 1)[0] in OURS


def _is_wanted(record: logging.LogRecord) -> bool:
    return _is_ours(record) or record.levelno >= logging.WARNING
