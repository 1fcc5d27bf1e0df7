"""Errors named by what happens next, so that every caller can act on them.

Each message says what was wrong, where, and the cure, in one line and without patient data.
"""

from __future__ import annotations

from typing import Self


class SecondreadError(Exception):
    """The root of every error raised on purpose; its text is safe to show and to log."""


class RejectInstance(SecondreadError):
    """The received bytes are not taken in as an image: they are kept in quarantine with `reason`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RetryLater(SecondreadError):
    """Something outside is busy or away (database, registry, disk): the same call may succeed later."""


class DeferCase(SecondreadError):
    """The model may not speak about this case: a clinician reads it, with `reason` as the code shown."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class HaltPipeline(SecondreadError):
    """The command cannot run at all: the message names the cure and the exit code is 2."""


class UnfitAccount(HaltPipeline):
    """What was asked of an account or a token cannot be: the message names what to change."""


class NoSuchPerson(SecondreadError):
    """There is no account, or no token, of that id."""


class StaleClaim(SecondreadError):
    """The claim ended or passed to somebody else: nothing was written and the draft is still the caller's."""

    @classmethod
    def ended(cls) -> Self:
        """What is said to a reader whose hold is over."""
        return cls("your hold on this case has ended; your draft is kept, claim the case again to commit it")


class NewerDraft(StaleClaim):
    """The same reader saved a newer draft elsewhere: nothing was written."""


class NotAllowed(SecondreadError):
    """This account may not do this with this case."""


class NoSuchCase(SecondreadError):
    """There is no case of that id."""


class UnfinishedRead(SecondreadError):
    """The read lacks something that it must say."""
