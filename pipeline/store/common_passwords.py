"""Passwords of twelve and more characters that strangers try first, and patterns that stand for thousands of them."""

from __future__ import annotations

import re
from typing import Final

_KNOWN: Final = frozenset(
    """
    administrator adminadminadmin changemechangeme correcthorsebatterystaple iloveyou1234 iloveyouforever
    letmeinletmein letmeinplease passw0rdpassw0rd passwordpassword password1234 password12345 password123456
    p@ssw0rd1234 p@ssword1234 qwertyuiop12 qwertyuiop123 qwertyuiopas qwertyuiopasdfghjkl qwertyqwerty qwerty123456
    1q2w3e4r5t6y 1qaz2wsx3edc 1qaz2wsx3edc4rfv q1w2e3r4t5y6 zaq12wsxcde3 asdfghjkl123 asdfasdfasdf zxcvbnmasdfghjkl
    abcdefghijkl abcd1234abcd abc123abc123 0123456789012 123456789012 1234567890123 12345678901234 1234567890qwerty
    123123123123 123456123456 098765432109 987654321098 121212121212 welcome12345 welcome123456 welcome1welcome1
    monkeymonkey dragondragon footballfootball baseballbaseball sunshine1234 princess1234 superman1234 starwars1234
    trustno1trustno1 whatever1234 michael12345 computer1234 internet1234 hospital1234 hospital2024 hospital2025
    hospital2026 radiology123 radiology1234 radiology2024 radiology2025 radiology2026 radiologist1 secondread12
    secondread123 secondread1234 secondread2026 readingroom1 readingroom123 spring2024spring summer2024summer
    winter2025winter thisisapassword thisismypassword mypassword123 mypassword1234 newpassword1 newpassword123
    temppassword1 temporary1234 testpassword testpassword1 testtesttest defaultpassword supersecret1 topsecret123
    """.split()  # noqa: SIM905 - a list in words is what a person can read and extend
)
_REPEATED = re.compile(r"(.{1,4})\1+", re.DOTALL)  #: one to four characters over and over


def is_common(password: str) -> bool:
    """Whether the password is among those that are tried first, whatever its case and the spaces around it."""
    plain = password.strip().casefold()
    return plain in _KNOWN or _REPEATED.fullmatch(plain) is not None
