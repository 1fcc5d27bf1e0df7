"""The open door: a DICOM node whose objects go through this house's intake, and whose commitments are answered."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Self

from flows.bootstrap import House
from pipeline.dicom.commitments import CommitmentRequest, send_answer
from pipeline.dicom.receiver import ReceivedObject, Receiver
from pipeline.dicom.sandbox import Sandbox
from pipeline.domain.retrying import is_over, next_attempt
from pipeline.errors import RetryLater
from pipeline.hospital import Peer
from pipeline.intake import accept_stream
from pipeline.store import commitment_rows
from pipeline.store.commitment_rows import CommitmentState, WaitingCommitment

LOGGER = logging.getLogger(__name__)
INSPECTORS = 2
"""Children that inspect side by side, so that one odd file does not hold everybody up."""

COMMITMENT_SECONDS = 2.0


@dataclass
class Counts:
    """What came through the door since it was opened."""

    received: int = 0
    quarantined: int = 0
    refused: int = 0


class Reception:
    """A receiver at work in `house` until it is closed. Raises HaltPipeline where it cannot listen."""

    def __init__(self, house: House) -> None:
        self.counts = Counts()
        self._house = house
        self._inspectors: queue.Queue[Sandbox] = queue.Queue()
        for _ in range(INSPECTORS):
            self._inspectors.put(house.new_sandbox())
        self._closing = threading.Event()
        self._receiver = Receiver(house.hospital.reception, accept=self._accept, note_commitment=self._note)
        self._answering = threading.Thread(target=self._answer_commitments, name="commitments", daemon=True)
        self._answering.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._receiver.port

    def close(self) -> None:
        """Close the door and end the children."""
        self._closing.set()
        self._receiver.close()
        self._answering.join(timeout=30)
        while not self._inspectors.empty():
            self._inspectors.get_nowait().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _inspector(self) -> Iterator[Sandbox]:
        sandbox = self._inspectors.get()
        try:
            yield sandbox
        finally:
            self._inspectors.put(sandbox)

    def _accept(self, received: ReceivedObject, peer: str) -> None:
        """One object through the intake. Raises RetryLater."""
        house = self._house
        try:
            with self._inspector() as sandbox:
                receipt = accept_stream(
                    house.database,
                    house.blobs,
                    sandbox,
                    received,
                    source=f"receiver:{peer}",
                    pseudonym_key=house.keys.pseudonym,
                    now=_now(),
                )
        except RetryLater:
            self.counts.refused += 1
            raise
        self.counts.received += 1
        self.counts.quarantined += receipt.reason is not None

    def _note(self, request: CommitmentRequest) -> None:
        with self._house.database.transaction() as connection:
            commitment_rows.note(
                connection,
                transaction_uid=request.transaction_uid,
                peer=request.peer,
                asked=request.asked,
                now=_now(),
            )

    def _answer_commitments(self) -> None:
        while not self._closing.wait(COMMITMENT_SECONDS):
            try:
                answer_commitments(self._house, now=_now(), random=Random())  # noqa: S311 - jitter, not a secret
            except Exception:
                LOGGER.exception("storage commitments could not be answered")


def answer_commitments(house: House, *, now: datetime, random: Random) -> int:
    """Answer what is due and return how many peers confirmed. Raises RetryLater when the database is away."""
    with house.database.read() as connection:
        due = commitment_rows.waiting(connection, now=now)
    return sum(_answer(house, request, now, random) for request in due)


def _answer(house: House, due: WaitingCommitment, now: datetime, random: Random) -> bool:
    reception = house.hospital.reception
    peer = next((peer for peer in reception.peers if peer.ae_title == due.peer), None)
    with house.database.read() as connection:
        failures = commitment_rows.failures(connection, house.blobs, due.asked)
    request = CommitmentRequest(transaction_uid=due.transaction_uid, peer=due.peer, asked=due.asked)
    try:
        send_answer(request, failures, own_title=reception.ae_title, address=_address(peer))
    except RetryLater:
        with house.database.transaction() as connection:
            if is_over(due.asked_at, now):
                commitment_rows.close(connection, due.id, CommitmentState.PARKED, now)
            else:
                commitment_rows.postpone(connection, due.id, next_attempt(due.attempts, now, random))
        return False
    with house.database.transaction() as connection:
        commitment_rows.close(connection, due.id, CommitmentState.ANSWERED, now)
    return True


def _address(peer: Peer | None) -> tuple[str, int]:
    """Where the peer listens. Raises RetryLater where nobody said so."""
    if peer is None or peer.port is None:
        raise RetryLater("the peer that asked for storage commitment has no port in hospital.yaml; give it one")
    return peer.addresses[0], peer.port


def _now() -> datetime:
    return datetime.now(UTC)
