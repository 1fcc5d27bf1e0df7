"""Many readers at once over HTTP: they claim, read, give back, lengthen, forget, come back too late and lose connections."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipeline.store import session_rows
from pipeline.store.database import Database
from pipeline.web.app import LEASE
from tests.claim_history import History, Hold
from tests.reading_room_cases import add_account
from tests.served_room import FOREVER, SharedClock

SPECIALTIES = ("neuroradiology", "general_radiology", "neuro_oncology")
PATIENCE = 60.0  #: seconds until a client gives an answer up
SWEPT = 200  #: cases left behind that are claimed again one by one at the end


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One reader's session, at an address of its own as readers have."""

    name: str
    address: str
    headers: dict[str, str]


def seat_readers(database: Database, count: int, now: datetime) -> list[Seat]:
    """Sessions of new accounts; the first is a lead's, and one in ten after it."""
    return [_seat(database, number, now) for number in range(count)]


def _seat(database: Database, number: int, now: datetime) -> Seat:
    name, role = f"reader-{number}", "reader" if number % 10 else "lead"
    account_id = add_account(database, name, role=role, specialties=SPECIALTIES[: number % 3 + 1])
    with database.transaction() as connection:
        value = session_rows.open_session(connection, account_id=account_id, now=now)
        session = session_rows.find_session(connection, token=value, now=now, idle=FOREVER, absolute=FOREVER)
    assert session is not None
    headers = {"Cookie": f"secondread={value}", "X-CSRF-Token": session.csrf_token}
    return Seat(name=name, address=f"127.0.{1 + number // 250}.{1 + number % 250}", headers=headers)


@dataclass(kw_only=True)
class Crowd:
    """What a crowd does together, and what came of it."""

    clock: SharedClock
    claims: int  # to be answered in all
    jumps: int  # how often so much time passes that every lease ends
    history: History = field(default_factory=lambda: History(lease=LEASE))
    waits: list[float] = field(default_factory=list)  # seconds from asking for a case to having one
    seconds: float = 0.0

    def is_done(self) -> bool:
        return len(self.waits) >= self.claims

    def note(self, wait: float) -> None:
        """Count one claim, and let time pass when it is due."""
        before, self.waits = len(self.waits) * (self.jumps + 1) // self.claims, [*self.waits, wait]
        if len(self.waits) * (self.jumps + 1) // self.claims > before:
            self.clock.jump(LEASE + timedelta(minutes=1))


@dataclass(kw_only=True)
class _Reader:
    seat: Seat
    url: str
    crowd: Crowd
    dice: random.Random
    client: httpx.AsyncClient
    ended: list[Hold] = field(default_factory=list)

    @property
    def history(self) -> History:
        return self.crowd.history

    async def work(self) -> None:
        """One case after the other until the crowd has had its claims."""
        while not self.crowd.is_done():
            if self.dice.random() < 0.04:
                await self._ask_and_hang_up()
            if self.ended and self.dice.random() < 0.15:
                await self._write_too_late()
            started = time.perf_counter()
            hold = await self.claim()
            if hold is not None:
                self.crowd.note(time.perf_counter() - started)
                await self._do_something(hold)

    async def claim(self, case_id: str | None = None) -> Hold | None:
        """The next case or this one, and the hold in the history."""
        asked = self.crowd.clock()
        answer = await self._send("/api/claim", case_id=case_id)
        told = self.crowd.clock()
        if answer is None:
            self.history.cut += 1
            return None
        if answer.status_code != 200:
            self._be_surprised(f"claim {case_id or 'next'}", answer)
            return None
        said = answer.json()
        until = datetime.fromisoformat(said["lease_until"])
        hold = Hold(
            reader=self.seat.name,
            case_id=said["case_id"],
            fence=said["fence"],
            asked=asked,
            told=told,
            since=until - LEASE,
            until=until,
        )
        self.history.holds.append(hold)
        return hold

    async def _do_something(self, hold: Hold) -> None:
        what = self.dice.random()
        if what < 0.20:
            await self._lengthen(hold)
        if 0.08 <= what < 0.60:
            await self._commit(hold)
        elif 0.60 <= what < 0.75:
            await self._release(hold)
        else:
            self.ended.append(hold)  # a crash: not a word

    async def _lengthen(self, hold: Hold) -> None:
        answer = await self._send(f"/api/cases/{hold.case_id}/extend", fence=hold.fence)
        if answer is not None and answer.status_code == 200:
            hold.until = max(hold.until, datetime.fromisoformat(answer.json()["lease_until"]))
        else:
            self._must_have_ended(hold, answer)

    async def _commit(self, hold: Hold) -> None:
        hold.let_go = self.crowd.clock()
        answer = await self._send_read(hold)
        if answer is not None and answer.status_code == 201:
            hold.read = True
        else:
            self._must_have_ended(hold, answer)

    async def _send_read(self, hold: Hold) -> httpx.Response | None:
        return await self._send(
            f"/api/cases/{hold.case_id}/commit", fence=hold.fence, finding="no_tumour", certainty=4, comment=""
        )

    async def _release(self, hold: Hold) -> None:
        hold.let_go = self.crowd.clock()
        answer = await self._send(f"/api/cases/{hold.case_id}/release", fence=hold.fence)
        if answer is None or answer.status_code != 204:
            self._must_have_ended(hold, answer)

    async def _write_too_late(self) -> None:
        hold = self.dice.choice(self.ended)
        if hold.until > self.crowd.clock():
            return
        self.ended.remove(hold)
        answer = await self._send_read(hold)
        if answer is not None and answer.status_code == 201:
            self.history.late_writes.append(f"{hold.case_id}: {hold.reader} wrote after the hold had ended")
        elif answer is None or answer.status_code == (403 if self._has_read(hold.case_id) else 409):
            self.history.late_refused += 1
        else:
            self._be_surprised("a late write", answer)

    def _has_read(self, case_id: str) -> bool:
        name = self.seat.name
        return any(hold.read for hold in self.history.holds if (hold.case_id, hold.reader) == (case_id, name))

    def _must_have_ended(self, hold: Hold, answer: httpx.Response | None) -> None:
        """A refusal is right only when the lease may have ended before the answer came."""
        if answer is None or (answer.status_code == 409 and self.crowd.clock() >= hold.until):
            return
        self._be_surprised(f"{hold.case_id} under fence {hold.fence}", answer)

    def _be_surprised(self, what: str, answer: httpx.Response) -> None:
        self.history.surprises.append(f"{what}: {answer.status_code} {answer.text[:200]}")

    async def _send(self, path: str, **content: Any) -> httpx.Response | None:
        """The answer, asked for again as long as the room says that it is busy; None when the connection broke."""
        while True:
            try:
                answer = await self.client.post(path, json=content, headers={"Origin": self.url})
            except httpx.TransportError:
                return None
            if answer.status_code not in (429, 503):
                return answer
            if answer.status_code == 503:
                self.history.busy += 1
            else:
                self.history.too_often += 1
            await asyncio.sleep(self.dice.uniform(0.02, 0.2))

    async def _ask_and_hang_up(self) -> None:
        """A claim whose connection is cut before, while or after the room answers."""
        address, body = urlsplit(self.url), json.dumps({"case_id": None})
        head = {"Host": address.netloc, "Origin": self.url, "Content-Type": "application/json", **self.seat.headers}
        lines = [f"{name}: {value}" for name, value in (head | {"Content-Length": str(len(body))}).items()]
        self.history.cut += 1
        with suppress(OSError):
            _, writer = await asyncio.open_connection(address.hostname, address.port, local_addr=(self.seat.address, 0))
            writer.write("\r\n".join(["POST /api/claim HTTP/1.1", *lines, "", body]).encode())
            await writer.drain()
            await asyncio.sleep(self.dice.choice((0.0, 0.005, 0.02)))
            writer.transport.abort()


def send_crowd(
    addresses: Sequence[str], seats: Sequence[Seat], clock: SharedClock, *, claims: int, jumps: int = 3, seed: int = 17
) -> Crowd:
    """Let every reader work until `claims` cases were claimed, then claim again what was left behind."""
    crowd = Crowd(clock=clock, claims=claims, jumps=jumps)
    asyncio.run(_all_work(addresses, seats, crowd, seed))
    return crowd


async def _all_work(addresses: Sequence[str], seats: Sequence[Seat], crowd: Crowd, seed: int) -> None:
    readers = [
        _reader(url, seat, crowd, random.Random(seed + number))
        for number, (url, seat) in enumerate(zip(cycle(addresses), seats, strict=False))
    ]
    try:
        started = time.perf_counter()
        await asyncio.gather(*(reader.work() for reader in readers))
        crowd.seconds = time.perf_counter() - started
        crowd.clock.jump(LEASE + timedelta(minutes=1))
        await _claim_again(readers[0])
    finally:
        await asyncio.gather(*(reader.client.aclose() for reader in readers))


def _reader(url: str, seat: Seat, crowd: Crowd, dice: random.Random) -> _Reader:
    transport = httpx.AsyncHTTPTransport(local_address=seat.address, verify=False)
    client = httpx.AsyncClient(transport=transport, base_url=url, headers=seat.headers, timeout=PATIENCE)
    return _Reader(seat=seat, url=url, crowd=crowd, dice=dice, client=client)


async def _claim_again(lead: _Reader) -> None:
    """Whatever was left behind is anybody's again once its lease has ended."""
    last = {hold.case_id: hold for hold in sorted(lead.history.holds, key=lambda hold: hold.fence)}
    left = sorted(case_id for case_id, hold in last.items() if not hold.read)
    for case_id in left[:SWEPT]:
        await lead.claim(case_id)
