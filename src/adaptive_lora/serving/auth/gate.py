"""From the header of a request to the principal: the one place where credentials are believed.

Nothing here knows paths: who calls does not depend on what is asked. Everything is answered from memory.
A token's signature is checked once, then it is known by its hash until it expires or the keys change; whether
it has been revoked is looked up each time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC

from adaptive_lora.access import secrets
from adaptive_lora.access.records import ApiKey
from adaptive_lora.errors import Unauthenticated
from adaptive_lora.serving import loading
from adaptive_lora.serving.auth.credentials import Credentials
from adaptive_lora.serving.auth.jwt_auth import make_keyring
from adaptive_lora.serving.auth.tokens import TokenVerifier
from adaptive_lora.serving.principal import Principal
from adaptive_lora.settings import AuthSettings, Settings

MAX_KNOWN = 10_000
"""Tokens whose signature need not be checked again; some 5 MB."""
INVALID_KEY = "the API key is not valid here"

Headers = Sequence[tuple[bytes, bytes]]


class Gate:
    """Tells who calls."""

    def __init__(
        self,
        credentials: Credentials,
        verifier: TokenVerifier | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without `verifier` there are API keys only. `clock` gives seconds of the epoch."""
        self.credentials = credentials
        self._verifier = verifier
        self._clock = clock
        self._known: dict[bytes, tuple[Principal, float]] = {}
        self._generation = 0
        self._principals: dict[str, tuple[ApiKey, Principal]] = {}

    @classmethod
    def of(cls, settings: Settings) -> Gate | None:
        """None if authentication is off. Raises SettingsError for secrets and keys that must not serve."""
        if not settings.auth.enabled:
            return None
        return cls(Credentials(lambda: loading.open_access(settings)), make_verifier(settings.auth))

    def identify(self, headers: Headers) -> Principal | None:
        """Who calls; None without credentials.

        Raises Unauthenticated for credentials that prove nothing, RegistryUnavailable if that cannot be
        known.
        """
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            return None
        if len(given) > 1:
            raise Unauthenticated("the request has several Authorization headers: send one")
        scheme, _, credential = given[0].decode("latin-1").partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("send an API key or a token as: Authorization: Bearer ...")
        if credential.startswith(secrets.PREFIX):
            return self._owner(credential)
        return self._bearer(credential)

    def check_still(self, principal: Principal) -> None:
        """For work that goes on after its request: raises Unauthenticated if the credential that it began
        with is good no more, RegistryUnavailable if that cannot be known."""
        if principal.credential is None:
            raise Unauthenticated("it was asked for without a credential, and one is needed now")
        if principal.expires_at is not None and principal.expires_at.timestamp() <= self._clock():
            raise Unauthenticated("the credential that it was asked for with has expired")
        if principal.key_id is None:
            self.credentials.check()
            return
        if principal.credential == "key":
            is_good = self.credentials.key(principal.key_id) is not None
        else:
            is_good = not self.credentials.is_revoked(principal.tenant, principal.key_id)
        if not is_good:
            raise Unauthenticated("the credential that it was asked for with has been revoked")

    def _owner(self, secret: str) -> Principal:
        key_id = secrets.id_of(secret)
        key = None if key_id is None else self.credentials.key(key_id)
        if key is None or not secrets.matches(secret, key.digest):
            raise Unauthenticated(INVALID_KEY)
        if key.expires_at is not None and key.expires_at.timestamp() <= self._clock():
            raise Unauthenticated("the API key has expired: ask for a new one")
        self.credentials.note_use(key)
        known = self._principals.get(key.id)
        if known is None or known[0] is not key:
            if len(self._principals) >= MAX_KNOWN:
                self._principals.clear()
            known = self._principals[key.id] = (key, _principal_of(key))
        return known[1]

    def _bearer(self, token: str) -> Principal:
        verifier = self._verifier
        if verifier is None:
            raise Unauthenticated("tokens are not accepted here: send an API key")
        verifier.keyring.look()
        if verifier.keyring.generation != self._generation:
            self._known.clear()
            self._generation = verifier.keyring.generation
        digest = hashlib.sha256(token.encode("latin-1")).digest()
        known = self._known.get(digest)
        if known is None or known[1] <= self._clock():
            self._known.pop(digest, None)
            known = verifier.verify(token)
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[digest] = known
        principal = known[0]
        if principal.key_id is None:
            self.credentials.check()
        elif self.credentials.is_revoked(principal.tenant, principal.key_id):
            raise Unauthenticated("the token has been revoked")
        return principal


def make_verifier(auth: AuthSettings) -> TokenVerifier | None:
    """None if neither a secret nor a JWKS file is configured. Raises SettingsError."""
    secret = None if auth.jwt_secret is None else auth.jwt_secret.get_secret_value()
    files = (auth.jwks_file, auth.jwt_secret_file)
    if secret is None and files == (None, None) and auth.algorithm == "HS256":
        return None
    return TokenVerifier(
        make_keyring(secret, auth.algorithm, *files),
        issuer=auth.issuer,
        audience=auth.audience,
        leeway_s=auth.leeway,
        require_agents=auth.require_agents,
    )


def _principal_of(key: ApiKey) -> Principal:
    expires_at = None if key.expires_at is None else key.expires_at.astimezone(UTC)
    return Principal(key.name, key.tenant, key.scopes, key.agents, key.id, key.tier, expires_at, "key")
