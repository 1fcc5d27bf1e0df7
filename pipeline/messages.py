"""Digests of notices on their way out: posted as signed JSON, or mailed. What they hold was checked where it was made.

A webhook's body is signed so that its receiver knows who speaks: HMAC-SHA256 of '<seconds>.<body>' under the shared
secret, in `X-Secondread-Signature: t=<seconds>,v1=<hex>`. A digest that is sent again keeps its id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

import httpx

from pipeline.domain.notices import Notice, heading, sentence
from pipeline.errors import RetryLater
from pipeline.reading_room import Mail, Webhook

_SECONDS: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Digest:
    """Notices that go out together."""

    notices: Sequence[Notice]

    @property
    def id(self) -> str:
        """The same for the same notices, so that a receiver can tell a repetition."""
        return hashlib.sha256(" ".join(sorted(notice.id for notice in self.notices)).encode()).hexdigest()[:32]

    def as_json(self) -> bytes:
        """The body of a webhook."""
        notices = [
            {
                **dict(notice.content),
                "id": notice.id,
                "kind": notice.kind.value,
                "at": notice.created_at.isoformat(),
                "text": sentence(notice),
            }
            for notice in self.notices
        ]
        return json.dumps({"id": self.id, "heading": heading(self.notices), "notices": notices}).encode()


def signature(body: bytes, secret: str, now: datetime) -> str:
    """What proves to the receiver that the body is ours and when it was sent."""
    seconds = str(int(now.timestamp()))
    made = hmac.digest(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256)
    return f"t={seconds},v1={made.hex()}"


def post(hook: Webhook, digest: Digest, now: datetime) -> None:
    """Post a digest; any answer but 2xx, a redirect too, raises RetryLater."""
    body = digest.as_json()
    headers = {"Content-Type": "application/json", "X-Secondread-Id": digest.id}
    if hook.secret is not None:
        headers["X-Secondread-Signature"] = signature(body, hook.secret.get_secret_value(), now)
    try:
        with (
            httpx.Client(timeout=_SECONDS, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", str(hook.url), content=body, headers=headers) as answer,
        ):
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RetryLater(f"the webhook '{hook.name}' does not answer ({type(error).__name__})") from None
    if not 200 <= status < 300:
        raise RetryLater(f"the webhook '{hook.name}' answered {status}; check its address and what it accepts")


def mail(rule: Mail, digest: Digest, now: datetime) -> None:
    """Mail a digest to everybody named; raises RetryLater when the server does not take it for each of them."""
    message = _message(rule, digest, now)
    try:
        with _server(rule) as server:
            if rule.user is not None:
                server.login(rule.user, rule.password.get_secret_value() if rule.password else "")
            refused = server.send_message(message, rule.sender, list(rule.to))
    except (OSError, smtplib.SMTPException) as error:
        raise RetryLater(
            f"the mail server did not take the message ({type(error).__name__}); check its rules"
        ) from None
    if refused:
        raise RetryLater(f"the mail server refused {len(refused)} of {len(rule.to)} recipients; check their addresses")


def _message(rule: Mail, digest: Digest, now: datetime) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = f"secondread: {heading(digest.notices)}"
    message["From"], message["To"] = rule.sender, ", ".join(rule.to)
    message["Date"] = format_datetime(now)
    message["Message-ID"] = f"<{digest.id}@{rule.sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    lines = [f"{notice.created_at:%Y-%m-%d %H:%M} UTC  {sentence(notice)}" for notice in digest.notices]
    message.set_content("\n".join(lines) + "\n")
    return message


def _server(rule: Mail) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if rule.tls == "tls":
        return smtplib.SMTP_SSL(rule.server, rule.port, timeout=_SECONDS, context=context)
    server = smtplib.SMTP(rule.server, rule.port, timeout=_SECONDS)
    if rule.tls == "starttls":
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server
