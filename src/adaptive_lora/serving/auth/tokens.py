"""JSON Web Tokens: what is checked before one is believed, and the principal that it is for.

The algorithm is the keyring's, never the token's. `exp`, `aud`, `iss` and `sub` are required. A header that
brings a key along (jwk, jku, x5u, x5c) or demands extensions (crit) is refused. An access token alone is
good: one that says that it is anything else (refresh, ID) is refused.

    sub     who                 scope   "generate adapters:read", as RFC 8693 has it; unknown ones are ignored
    tenant  whose; "default"    agents  list of names; without it all of them
    tier    which limits        jti     by which it can be revoked
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jwt

from adaptive_lora.errors import Unauthenticated
from adaptive_lora.serving.auth.keyring import Keyring
from adaptive_lora.serving.principal import DEFAULT_TENANT, DEFAULT_TIER, SCOPES, Principal

MAX_TOKEN_CHARS = 8_192
MAX_SUBJECT_CHARS = 255
MAX_AGENTS = 256

_COMPACT = re.compile(r"(?:[A-Za-z0-9_-]+\.){2}[A-Za-z0-9_-]+")
"""Three parts in base64url, without padding: RFC 7515, section 3.1."""
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NOT_BELIEVED = frozenset({"jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "crit", "b64", "zip", "enc"})
"""Header fields that say how the token wants to be verified."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_KINDS = frozenset({"access", "access_token", "bearer", "at+jwt"})
_KIND_CLAIMS = ("token_use", "token_type", "type", "typ")
"""Where issuers say what a token is for: Cognito, SimpleJWT, Flask-JWT-Extended, Keycloak."""


class TokenVerifier:
    """Believes tokens of one issuer for one audience."""

    def __init__(
        self,
        keyring: Keyring,
        *,
        issuer: str,
        audience: str,
        leeway_s: float,
        require_agents: bool = False,
    ) -> None:
        """With `require_agents` a token without that claim is refused."""
        self.keyring = keyring
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        self._required = ["exp", "aud", "iss", "sub", *(["agents"] if require_agents else [])]

    def verify(self, token: str) -> tuple[Principal, float]:
        """Who it is for, and until when it is good: seconds of the epoch, leeway included.

        Costs a signature's check. Raises Unauthenticated, whose message tells the caller what to mend and an
        attacker nothing.
        """
        if len(token) > MAX_TOKEN_CHARS or not _COMPACT.fullmatch(token):
            raise Unauthenticated("the credential is neither an API key nor a token")
        self.keyring.look()
        try:
            claims = self._claims(token)
            principal = _principal(claims)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired: get a new one") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise Unauthenticated("the token is not valid here") from None
        return principal, float(claims["exp"]) + self._leeway_s

    def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        if header.get("alg") != self.keyring.algorithm or not _NOT_BELIEVED.isdisjoint(header):
            raise jwt.InvalidTokenError
        if str(header.get("typ", "JWT")).lower() not in _TYPES:
            raise jwt.InvalidTokenError
        for key in self.keyring.keys(header.get("kid")):
            try:
                claims = self._decoded(token, key)
            except jwt.InvalidSignatureError:
                continue
            for name in _KIND_CLAIMS:
                if name in claims and str(claims[name]).lower() not in _KINDS:
                    raise jwt.InvalidTokenError
            return claims
        raise jwt.InvalidKeyError

    def _decoded(self, token: str, key: Any) -> Mapping[str, Any]:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[self.keyring.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway_s,
            options={"require": self._required, "enforce_minimum_key_length": True},
        )
        return claims


def _principal(claims: Mapping[str, Any]) -> Principal:
    scope = claims.get("scope", "")
    agents = claims.get("agents")
    subject, jti = claims["sub"], claims.get("jti")
    tenant, tier = claims.get("tenant", DEFAULT_TENANT), claims.get("tier", DEFAULT_TIER)
    is_sound = (
        _is_label(subject)
        and (jti is None or _is_label(jti))
        and _is_word(tenant)
        and _is_word(tier)
        and isinstance(scope, str)
        and (agents is None or (isinstance(agents, list) and len(agents) <= MAX_AGENTS))
        and all(_is_word(agent) for agent in agents or ())
    )
    if not is_sound:
        raise Unauthenticated("a claim of the token (sub, tenant, scope, agents, ...) has not the right form")
    return Principal(
        subject,
        tenant,
        frozenset(scope.split()) & frozenset(SCOPES),
        None if agents is None else frozenset(agents),
        jti,
        tier,
        datetime.fromtimestamp(claims["exp"], UTC),
        "token",
    )


def _is_label(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= MAX_SUBJECT_CHARS and value.isprintable()


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None
