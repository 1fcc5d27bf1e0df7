"""Series that could not be shown a moment ago: whoever asks again hears so at once, instead of having them read again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from pipeline.errors import DeferCase

MOST = 64
SECONDS = 60.0


class UnreadableSeries:
    """The last refusals by the digests of the series, each for a minute of `seconds`; one thread at a time."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._known: OrderedDict[tuple[str, ...], tuple[float, DeferCase]] = OrderedDict()

    def __contains__(self, key: tuple[str, ...]) -> bool:
        """Whether a refusal of this series still counts."""
        return key in self._known and self._known[key][0] > self._seconds()

    def note(self, key: tuple[str, ...], refusal: DeferCase) -> None:
        """Remember a refusal, and forget the oldest where there are too many."""
        self._known[key] = self._seconds() + SECONDS, refusal
        self._known.move_to_end(key)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

    def refuse(self, key: tuple[str, ...]) -> None:
        """Raise the DeferCase of a series that could not be shown a moment ago."""
        if key in self:
            _, refusal = self._known[key]
            raise DeferCase(refusal.reason, refusal.detail)
