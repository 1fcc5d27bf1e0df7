"""Speaking with the site's OpenID Connect provider: authorization code with PKCE, and a token that is believed after checks.

Nothing that a browser sends decides whom we speak with: every address comes from the site's rules or from what the
provider says of itself at its own address, is https or this very machine, and is not followed when it redirects.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry
from pydantic import TypeAdapter, ValidationError

from pipeline.reading_room import Address, Provider
from pipeline.store.account_rows import Role

_TIMEOUT = httpx.Timeout(5.0)
_LEEWAY = 60  #: seconds that the clocks may differ
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_ADDRESS: TypeAdapter[Any] = TypeAdapter(Address)
_MOST_GROUPS = 1000


class ProviderAway(Exception):
    """The provider does not answer, or not as a provider should."""


class NotVouchedFor(Exception):
    """The provider's word does not hold; the text says in general what is wrong and is safe to show."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What binds one sign-in to one browser: all of it follows from a cookie's random value and a key of the house."""

    state: str
    nonce: str
    verifier: str

    @classmethod
    def of(cls, key: bytes, visit: str) -> Flow:
        """The values of the visit."""

        def draw(purpose: str) -> str:
            return hmac.new(key, f"provider {purpose}:{visit}".encode(), hashlib.sha256).hexdigest()

        return cls(state=draw("state"), nonce=draw("nonce"), verifier=draw("verifier"))


@dataclass(frozen=True, kw_only=True)
class Vouched:
    """Whom the provider vouches for, in the room's own words."""

    subject: str  #: SHA-256 of issuer and subject
    names: tuple[str, ...]
    role: Role
    specialties: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Places:
    """What the provider says of itself."""

    issuer: str
    authorization: str
    token: str
    keys: str
    scopes: tuple[str, ...]
    secret_in_form: bool  #: the client's secret goes into the form and not into the header


def address_to_ask(provider: Provider, flow: Flow, *, back_to: str) -> str:
    """Where to send the browser. Raises ProviderAway."""
    places = _places(provider)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(flow.verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": back_to,
        "scope": " ".join(places.scopes),
        "state": flow.state,
        "nonce": flow.nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    joint = "&" if urlsplit(places.authorization).query else "?"
    return f"{places.authorization}{joint}{urlencode(asked)}"


def vouch(provider: Provider, flow: Flow, code: str, *, back_to: str, now: Callable[[], datetime]) -> Vouched:
    """Exchange the code and check the token that comes for it. Raises ProviderAway, NotVouchedFor."""
    places = _places(provider)
    token = _exchange(provider, places, flow, code, back_to)
    keys = _keys(places.keys)
    claims = _checked_claims(provider, places, flow, token, keys=keys, now=now())
    return _in_our_words(provider, claims)


def _places(provider: Provider) -> _Places:
    issuer = str(provider.issuer).rstrip("/")
    found = _fetch(f"{issuer}/.well-known/openid-configuration")
    if str(found.get("issuer", "")).rstrip("/") != issuer:
        raise ProviderAway("the provider calls itself by another name than the site's rules do")
    try:
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        authorization, token, keys = (str(_ADDRESS.validate_python(found.get(name))) for name in names)
    except ValidationError:
        raise ProviderAway("the provider names an address that is neither https nor this machine") from None
    return _Places(
        issuer=str(found["issuer"]),
        authorization=authorization,
        token=token,
        keys=keys,
        scopes=("openid", "profile", *(("groups",) if "groups" in _listed(found, "scopes_supported") else ())),
        secret_in_form="client_secret_basic"
        not in (_listed(found, "token_endpoint_auth_methods_supported") or ("client_secret_basic",)),
    )


def _listed(found: Mapping[str, Any], name: str) -> Sequence[object]:
    value = found.get(name)
    return value if isinstance(value, list) else ()


def _fetch(url: str) -> Mapping[str, Any]:
    try:
        answer = httpx.get(url, timeout=_TIMEOUT, follow_redirects=False)
        found = answer.json() if answer.status_code == HTTPStatus.OK else None
    except (httpx.HTTPError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ProviderAway("the provider does not answer")
    return found


def _exchange(provider: Provider, places: _Places, flow: Flow, code: str, back_to: str) -> str:
    """The id_token that the provider gives for the code."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back_to, "code_verifier": flow.verifier}
    secret = provider.client_secret
    if secret is None or places.secret_in_form:
        form["client_id"] = provider.client_id
    if secret is not None and places.secret_in_form:
        form["client_secret"] = secret.get_secret_value()
    in_header = None
    if secret is not None and not places.secret_in_form:
        in_header = (quote(provider.client_id, safe=""), quote(secret.get_secret_value(), safe=""))
    try:
        answer = httpx.post(places.token, data=form, auth=in_header, timeout=_TIMEOUT, follow_redirects=False)
        found = answer.json()
    except (httpx.HTTPError, ValueError):
        raise ProviderAway("the provider does not answer") from None
    if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise ProviderAway("the provider does not answer")
    token = found.get("id_token") if answer.status_code == HTTPStatus.OK and isinstance(found, dict) else None
    if not isinstance(token, str):
        raise NotVouchedFor("the provider did not accept this sign-in, or it was used before")
    return token


def _keys(url: str) -> KeySet:
    found = _fetch(url)
    try:
        return KeySet.import_key_set({"keys": found["keys"]})
    except (JoseError, KeyError, TypeError, ValueError):
        raise ProviderAway("the provider's keys cannot be read") from None


def _checked_claims(
    provider: Provider, places: _Places, flow: Flow, token: str, *, keys: KeySet, now: datetime
) -> Mapping[str, Any]:
    """What the token says, after signature, issuer, audience, times and nonce were found in order."""
    rules = JWTClaimsRegistry(
        now=int(now.timestamp()),
        leeway=_LEEWAY,
        iss={"essential": True, "value": places.issuer},
        aud={"essential": True, "value": provider.client_id},
        exp={"essential": True},
        iat={"essential": True},
        sub={"essential": True},
        nonce={"essential": True, "value": flow.nonce},
    )
    try:
        claims = jwt.decode(token, keys, algorithms=list(_ALGORITHMS)).claims
        rules.validate(claims)
    except (JoseError, ValueError, TypeError):
        raise NotVouchedFor("the provider's word about this person does not hold") from None
    for_several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", None if for_several else provider.client_id) != provider.client_id or not claims["sub"]:
        raise NotVouchedFor("the provider speaks of this person to somebody else")
    return claims


def _in_our_words(provider: Provider, claims: Mapping[str, Any]) -> Vouched:
    groups = _groups(claims.get(provider.groups_claim))
    roles = [role for group, role in provider.roles.items() if group in groups]
    if not roles:
        raise NotVouchedFor(
            "you are in none of the groups that may come into the reading room; ask whoever manages them"
        )
    subject = f"{len(claims['iss'])}:{claims['iss']}{claims['sub']}"
    names = (claims.get("preferred_username"), claims["sub"])
    return Vouched(
        subject=hashlib.sha256(subject.encode()).hexdigest(),
        names=tuple(name for name in names if isinstance(name, str)),
        role=Role(roles[0]),
        specialties=tuple(sorted({name for group, name in provider.specialties.items() if group in groups})),
    )


def _groups(claim: object) -> frozenset[str]:
    named: Sequence[object] = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(name for name in named[:_MOST_GROUPS] if isinstance(name, str))
