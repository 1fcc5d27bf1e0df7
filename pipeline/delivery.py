"""Step 4: results leave the house through the outbox, each once at each destination, with proof that it arrived.

Order of one delivery: hold, make the object, keep its bytes and their digest, commit; then send; then look for it at the
receiver; then note the proof. Whoever dies between two of these begins again with the same object under the same UID,
so that the receiver ends with one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from pipeline.domain.result import Result, ResultForm
from pipeline.domain.retrying import is_over, next_attempt
from pipeline.errors import SecondreadError
from pipeline.store import audit_rows, outbox_rows, result_rows
from pipeline.store.blobs import BlobStore
from pipeline.store.database import Database
from pipeline.store.outbox_rows import DueDelivery

ACTOR = "delivery"
LEASE = timedelta(minutes=10)
"""Longer than any one sending may take."""

Make = Callable[[Result], bytes]
"""The object of a result in one form, as bytes. Raises ValueError where the result cannot take that form."""

Send = Callable[[ResultForm, bytes], Mapping[str, str]]
"""Sends an object and reads it back; the receiver's own words are the proof. Raises RetryLater."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where results go, in which forms, and how they are sent there."""

    name: str
    forms: tuple[str, ...]
    send: Send


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What one run did: deliveries planned, proven, put off, parked, and given up because something newer is told."""

    planned: int
    proven: int
    put_off: int
    parked: int
    overtaken: int


@dataclass(frozen=True, kw_only=True)
class Post:
    """What results are made with and where they go."""

    destinations: Sequence[Destination]
    makers: Mapping[ResultForm, Make]
    version: str
    withhold: bool  #: numbers, until a read is committed


def deliver(
    database: Database, blobs: BlobStore, post: Post, *, now: Callable[[], datetime], random: Random
) -> Delivered:
    """Send everything that is due, until nothing is. Raises RetryLater when the database is away."""
    forms = {destination.name: destination.forms for destination in post.destinations}
    with database.transaction() as connection:
        planned = outbox_rows.plan(connection, forms, now())
        overtaken = outbox_rows.overtake(connection)
    done: list[str] = []
    while (due := _claim(database, now())) is not None:
        done.append(_deliver(database, blobs, post, due, now, random))
    with database.transaction() as connection:
        outbox_rows.close_told(connection, now())
    return Delivered(
        planned=planned,
        proven=done.count("proven"),
        put_off=done.count("put_off"),
        parked=done.count("parked"),
        overtaken=overtaken,
    )


def _claim(database: Database, now: datetime) -> DueDelivery | None:
    """One delivery at a time: a lease covers one sending, and not those that wait behind it."""
    with database.transaction() as connection:
        return next(iter(outbox_rows.claim_due(connection, now=now, lease=LEASE, limit=1)), None)


def _deliver(  # noqa: PLR0917 - what it works with, what it works on
    database: Database,
    blobs: BlobStore,
    post: Post,
    due: DueDelivery,
    now: Callable[[], datetime],
    random: Random,
) -> str:
    send = {destination.name: destination.send for destination in post.destinations}.get(due.destination)
    if send is None:
        return _put_off(database, due, "this destination is no longer in hospital.yaml", now(), random)
    try:
        proof = send(due.form, _object(database, blobs, post, due))
    except (SecondreadError, ValueError) as problem:
        return _put_off(database, due, str(problem), now(), random)
    except Exception as error:  # noqa: BLE001 - whatever a library raises, the result stays in the outbox
        return _put_off(database, due, f"sending failed ({type(error).__name__})", now(), random)
    with database.transaction() as connection:
        return "proven" if outbox_rows.prove(connection, due, proof, now()) else "passed on"


def _object(database: Database, blobs: BlobStore, post: Post, due: DueDelivery) -> bytes:
    """The bytes of this result in this form, made once and kept. Raises RetryLater, DeferCase, ValueError."""
    with database.read() as connection:
        digest = outbox_rows.made_object(connection, due.outbox_id, due.form)
        result = None
        if digest is None:
            result = result_rows.load_result(connection, due.outbox_id, withhold=post.withhold, version=post.version)
    if result is not None:
        made = blobs.put(post.makers[due.form](result))
        with database.transaction() as connection:
            digest = outbox_rows.note_object(connection, due.outbox_id, due.form, made)
    return blobs.read(str(digest))


def _put_off(database: Database, due: DueDelivery, problem: str, now: datetime, random: Random) -> str:
    over = is_over(due.created_at, now)
    again = None if over else next_attempt(due.attempts, now, random)
    with database.transaction() as connection:
        held = outbox_rows.put_off(connection, due, problem, again_at=again)
        if over and held:
            what = {"delivery": due.id, "destination": due.destination, "form": due.form.value}
            audit_rows.append(
                connection, at=now, actor=ACTOR, event="delivery_parked", study_id=due.study_id, payload=what
            )
    return "parked" if over else "put_off"
