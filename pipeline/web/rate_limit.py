"""How often one address or account may ask: buckets of tokens in memory, for a bounded number of both.

The address is the socket's peer: a header that names another one is anybody's word. Behind a proxy every person signs in
from one bucket, so the limits stop floods and guessing by machine, and the delay per account stops guessing one password.
Whoever is signed in has a bucket of their own, which no stranger can empty.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address
from typing import Final

from fastapi import Request

MOST_ADDRESSES = 10_000  #: or accounts; the one that was silent for longest is forgotten first


class TooMany(Exception):
    """This address or account asked too often; `retry_after` is when it may ask again."""

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__("too many requests came from here; wait a moment and try again")
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many requests at once, and so many more each second."""

    burst: float
    per_second: float


SIGN_IN = Rate(burst=60, per_second=0.5)
PROVIDER = SIGN_IN
UNSAFE = Rate(burst=1000, per_second=20)
PROOFS = Rate(burst=5, per_second=1 / 30)  #: wrong passwords or codes of somebody who is signed in
_NETWORK_BITS: Final = 64  #: of an IPv6 address: one customer has all the others


@dataclass
class Buckets:
    """The buckets of one rate."""

    rate: Rate
    now: Callable[[], datetime]
    most: int = MOST_ADDRESSES
    _left: OrderedDict[str, tuple[float, datetime]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, address: str) -> None:
        """Let one request of this address or account pass; raises TooMany."""
        now = self.now()
        with self._lock:
            left, since = self._left.pop(address, (self.rate.burst, now))
            passed = max(0.0, (now - since).total_seconds())  # a clock that was set back gives nothing
            left = min(self.rate.burst, left + passed * self.rate.per_second)
            self._left[address] = (left - 1 if left >= 1 else left, now)
            while len(self._left) > self.most:
                self._left.popitem(last=False)
        if left < 1:
            raise TooMany(timedelta(seconds=math.ceil((1 - left) / self.rate.per_second)))

    def give_back(self, address: str) -> None:
        """Undo one `take`: what came did not count."""
        with self._lock:
            if address in self._left:
                left, since = self._left[address]
                self._left[address] = (min(self.rate.burst, left + 1), since)

    def __len__(self) -> int:
        """How many addresses and accounts are known."""
        return len(self._left)


@dataclass(frozen=True)
class RateLimits:
    """The buckets of a room."""

    sign_in: Buckets
    provider: Buckets
    unsafe: Buckets

    @classmethod
    def by(
        cls,
        now: Callable[[], datetime],
        *,
        sign_in: Rate = SIGN_IN,
        provider: Rate = PROVIDER,
        unsafe: Rate = UNSAFE,
    ) -> RateLimits:
        """Full buckets on this clock."""
        return cls(Buckets(sign_in, now), Buckets(provider, now), Buckets(unsafe, now))


def address_of(request: Request) -> str:
    """The other end of the socket; of IPv6 its network, since one machine has 2^64 addresses of it."""
    host = "" if request.client is None else request.client.host
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> _NETWORK_BITS << _NETWORK_BITS))


def limits_of(request: Request) -> RateLimits:
    """The buckets of the room that this request came into."""
    limits: RateLimits = request.app.state.limits
    return limits


def sign_in_rate(request: Request) -> None:
    """Count one attempt to sign in; raises TooMany."""
    limits_of(request).sign_in.take(address_of(request))


def provider_rate(request: Request) -> None:
    """Count one way to the provider or back; raises TooMany."""
    limits_of(request).provider.take(address_of(request))


def unsafe_rate(request: Request, account_id: str | None) -> None:
    """Count one request that changes something or comes with a token, of an account or of a stranger; raises TooMany."""
    limits_of(request).unsafe.take(address_of(request) if account_id is None else f"account {account_id}")
