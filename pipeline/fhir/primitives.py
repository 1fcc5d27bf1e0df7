"""FHIR's primitive values: moments with a zone, text that it allows, and no empty members."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]+")


def moment(at: datetime) -> str:
    """A moment in UTC, with its zone. Raises ValueError where it has none."""
    if at.utcoffset() is None:
        raise ValueError("a moment without a zone cannot be told outside")
    return at.astimezone(UTC).isoformat()


def clean(text: str | None) -> str:
    """Text without what FHIR forbids in strings: control characters, half characters, outer spaces."""
    return _FORBIDDEN.sub(" ", text or "").strip()


def pruned(tree: Any) -> Any:
    """A resource without empty members, which FHIR forbids, and with clean text."""
    if isinstance(tree, dict):
        kept = {name: pruned(value) for name, value in tree.items()}
        return {name: value for name, value in kept.items() if not _is_empty(value)}
    if isinstance(tree, list):
        return [value for value in map(pruned, tree) if not _is_empty(value)]
    return clean(tree) if isinstance(tree, str) else tree


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)
