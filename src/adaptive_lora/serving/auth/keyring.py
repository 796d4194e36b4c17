"""The keys that tokens may be signed with: secrets, or the public keys of a JWKS file.

A public key is found by the `kid` in the token's header, as a word in a table and nothing else: never as a
path, an address or a query. Rotation: add the new key to the file, let the issuer use it, remove the old one
when its last token has expired. A file is read again when it changes; one that cannot be used leaves the keys
that were there, and says so in the log, once.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from adaptive_lora.errors import SettingsError
from adaptive_lora.secret_files import WatchedFile
from adaptive_lora.serving.auth.signing_secret import check_secret, read_secrets

_log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1_000_000
MIN_RSA_BITS = 2048
_KINDS = {"RS256": ("RSA", None), "EdDSA": ("OKP", "Ed25519")}
"""What a key of an algorithm is: `kty` and `crv`."""


class Keyring(Protocol):
    """Keys, all of one algorithm."""

    algorithm: str
    generation: int
    """Another one whenever the keys are others: what was verified before may have to be refused."""

    def look(self) -> None:
        """Notice whether the keys have changed. Cheap; called before each use."""
        ...

    def keys(self, kid: object) -> Sequence[Any]:
        """What a token whose header says `kid` (None: says nothing) may be signed with; the first signs."""
        ...


class SecretKeyring:
    """One secret. Tokens need no `kid`, and theirs is not looked at."""

    algorithm = "HS256"
    generation = 0

    def __init__(self, secret: str) -> None:
        """Raises SettingsError for a secret that can be guessed."""
        self._secrets = [check_secret(secret)]

    def look(self) -> None:
        pass

    def keys(self, kid: object) -> Sequence[bytes]:
        return self._secrets


class SecretFileKeyring(SecretKeyring):
    """The secrets in a file, one a line: the first signs, all are believed."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the file. Raises SettingsError if it has no secret, or one that can be guessed."""
        self._file = WatchedFile(path, clock=clock)
        self._secrets = read_secrets(self._file.path)

    def look(self) -> None:
        if not self._file.has_changed():
            return
        try:
            self._secrets = read_secrets(self._file.path)
        except SettingsError as error:
            _log.error("the secrets of tokens stay as they were: %s", error.message)
            return
        self.generation += 1
        _log.info("the secrets of tokens are read again; there are %d", len(self._secrets))


class JWKSKeyring:
    """The public keys of one algorithm in a JWKS file, by `kid`."""

    def __init__(self, path: Path, algorithm: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the file. Raises SettingsError if it has no key of the algorithm, or one that is unsafe."""
        if algorithm not in _KINDS:
            raise SettingsError(f"auth.jwks_file is for {' and '.join(_KINDS)}, not for {algorithm}")
        self.algorithm = algorithm
        self.generation = 0
        self._file = WatchedFile(path, clock=clock)
        self._path = self._file.path
        self._keys = self._read()

    def look(self) -> None:
        if not self._file.has_changed():
            return
        try:
            self._keys = self._read()
        except SettingsError as error:
            _log.error("the keys of tokens stay as they were: %s", error.message)
            return
        self.generation += 1
        _log.info("the keys of tokens are now %s", ", ".join(map(repr, self._keys)))

    def keys(self, kid: object) -> Sequence[Any]:
        return [self._keys[kid]] if isinstance(kid, str) and kid in self._keys else []

    def _read(self) -> Mapping[str, Any]:
        try:
            with self._path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
            content = json.loads(text)
        except OSError as error:
            raise SettingsError(f"auth.jwks_file {self._path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"auth.jwks_file {self._path} is not JSON") from error
        listed = content.get("keys") if isinstance(content, dict) else None
        if not isinstance(listed, list):
            raise SettingsError(f'auth.jwks_file {self._path} must be a JWK Set: {{"keys": [...]}}')
        keys: dict[str, Any] = {}
        for entry in listed:
            if not isinstance(entry, dict) or not self._is_ours(entry):
                continue
            kid = entry.get("kid")
            if not isinstance(kid, str) or not kid or kid in keys:
                raise SettingsError(f"auth.jwks_file {self._path}: each key needs a kid of its own")
            keys[kid] = self._public_key(kid, entry)
        if not keys:
            raise SettingsError(f"auth.jwks_file {self._path} has no {self.algorithm} key for signatures")
        return keys

    def _is_ours(self, entry: Mapping[str, Any]) -> bool:
        """Whether it signs tokens of our algorithm; a set may hold keys for other purposes."""
        kind, curve = _KINDS[self.algorithm]
        is_kind = entry.get("kty") == kind and curve in (None, entry.get("crv"))
        is_for_signatures = entry.get("use", "sig") == "sig"
        return is_kind and is_for_signatures and entry.get("alg", self.algorithm) == self.algorithm

    def _public_key(self, kid: str, entry: Mapping[str, Any]) -> Any:
        if "d" in entry:
            raise SettingsError(
                f"auth.jwks_file {self._path} has the private key {kid!r}: keep the public one"
            )
        try:
            key = jwt.PyJWK(dict(entry), self.algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise SettingsError(f"auth.jwks_file {self._path}: the key {kid!r} cannot be read") from error
        if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
            raise SettingsError(
                f"auth.jwks_file {self._path}: the key {kid!r} has {key.key_size} bits, and {MIN_RSA_BITS} "
                "are needed"
            )
        return key
