"""Where a flow works: in the house its caller has open, or, for a scheduled run, in the one its settings name.

Why a context variable: a flow's parameters are stored by Prefect, so they hold names and ids and never a house.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from flows.bootstrap import House, open_house
from flows.prefect_server import prefect_server
from pipeline.errors import HaltPipeline
from pipeline.settings import read_settings

OnProgress = Callable[[str, int, int | None, str], None]
"""Told the stage, how much is done, how much there is (None: unknown) and a short note."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """An open house and whom to tell about progress."""

    house: House
    on_progress: OnProgress


_HANDED: ContextVar[Workplace | None] = ContextVar("handed", default=None)


def silent(_stage: str, _done: int, _total: int | None, _note: str = "") -> None:
    """The progress report that tells nobody."""


@contextmanager
def reachable_prefect() -> Iterator[None]:
    """Turns the loss of Prefect's server into HaltPipeline with its cure."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise HaltPipeline(
            f"Prefect's server does not answer ({type(error).__name__}); start it, or unset PREFECT_API_URL"
        ) from error


@contextmanager
def handed(house: House, on_progress: OnProgress) -> Iterator[None]:
    """Flows called in this block work in `house`. Raises HaltPipeline when Prefect's server does not answer."""
    token = _HANDED.set(Workplace(house=house, on_progress=on_progress))
    try:
        with prefect_server(house.settings.home), reachable_prefect():
            yield
    finally:
        _HANDED.reset(token)


@contextmanager
def at_work() -> Iterator[Workplace]:
    """The workplace that was handed over, or a house opened for this block."""
    given = _HANDED.get()
    if given is not None:
        yield given
        return
    with open_house(read_settings()) as house:
        yield Workplace(house=house, on_progress=silent)
