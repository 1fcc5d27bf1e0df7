"""A PACS that cannot hold us up: every question ends in bounded time, however slowly the answer trickles.

Time limits of sockets count from byte to byte, so a peer that sends one every second is never late. Here the question is
asked in a thread of its own and given up from outside. What a given-up fetch still brings later is taken in all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, Generic, TypeVar

from pydicom import Dataset

from pipeline.dicom.pacs import Bytes, Pacs, PacsSeries, PacsStudy, Take
from pipeline.errors import RetryLater

T = TypeVar("T")
TIMES: Final = 4.0  #: a whole answer may take so many times as long as one step of it


class PatientPacs:
    """Another PACS, whose answers must be whole within `TIMES * seconds`, and a fetch bring one object in that time."""

    def __init__(self, pacs: Pacs, *, seconds: float) -> None:
        self._pacs, self._limit = pacs, TIMES * seconds

    def echo(self) -> None:
        """Whether it answers at all. Raises RetryLater."""
        self._asked(self._pacs.echo)

    def studies(self, since: datetime, until: datetime) -> list[PacsStudy]:
        """Studies of these days. Raises RetryLater."""
        return self._asked(lambda: self._pacs.studies(since, until))

    def study(self, study_uid: str) -> PacsStudy | None:
        """One study. Raises RetryLater."""
        return self._asked(lambda: self._pacs.study(study_uid))

    def series(self, study_uid: str) -> list[PacsSeries]:
        """What it holds of a study. Raises RetryLater."""
        return self._asked(lambda: self._pacs.series(study_uid))

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        """SOP instance UIDs of a series. Raises RetryLater."""
        return self._asked(lambda: self._pacs.instances(study_uid, series_uid))

    def store(self, dataset: Dataset) -> str:
        """Send one object. Raises RetryLater."""
        return self._asked(lambda: self._pacs.store(dataset))

    def holds(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> bool:
        """Whether it finds an object. Raises RetryLater."""
        return self._asked(lambda: self._pacs.holds(study_uid, series_uid, sop_instance_uid))

    def fetch(self, study_uid: str, take: Take) -> None:
        """Have a study brought here. Raises RetryLater when nothing came for too long."""
        asked: _Asked[None] = _Asked(lambda: self._pacs.fetch(study_uid, asked.noting(take)))
        asked.answer(self._limit)

    def _asked(self, ask: Callable[[], T]) -> T:
        return _Asked(ask).answer(self._limit)


class _Asked(Generic[T]):
    """A question under way in a thread of its own."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._done = threading.Event()
        self._progress = time.monotonic()
        self._found: list[T] = []
        self._problem: BaseException | None = None

    def noting(self, take: Take) -> Take:
        """`take` that counts as progress."""

        def noted(content: Bytes) -> None:
            self._progress = time.monotonic()
            take(content)
            self._progress = time.monotonic()

        return noted

    def answer(self, limit: float) -> T:
        """What was found. Raises what was raised, or RetryLater after `limit` seconds without progress."""
        self._progress = time.monotonic()
        threading.Thread(target=self._run, name="pacs", daemon=True).start()
        while not self._done.wait(max(0.01, self._progress + limit - time.monotonic())):
            if time.monotonic() - self._progress >= limit:
                raise RetryLater("the PACS answers too slowly; ask its keeper, the same is tried again later")
        if self._problem is not None:
            raise self._problem
        return self._found[0]

    def _run(self) -> None:
        try:
            self._found.append(self._ask())
        except BaseException as problem:  # noqa: BLE001 - raised again where the answer is awaited
            self._problem = problem
        finally:
            self._done.set()
