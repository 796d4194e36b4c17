"""The secrets of HS256 tokens: whoever guesses one is anybody."""

from __future__ import annotations

import re
from pathlib import Path

from adaptive_lora.errors import SettingsError

MIN_BYTES = 32
"""As long as the hash of HS256: RFC 7518, section 3.2."""
MIN_DISTINCT = 8
"""Different characters; 32 random ones of 16 have fewer once in ten million."""

MAX_SECRETS = 4
"""In a file. Each costs a hash for every token that none before it has signed."""

_PLACEHOLDER = re.compile(
    r"change.?(me|this|it)|replace.?(me|this|it|with)|your.{0,24}(secret|key|token)|placeholder|example|"
    r"(super|very|top|my|jwt|not).{0,8}secret|secret.?key|default|password|"
    r"(?<![a-z0-9])(todo|dummy|insert)(?![a-z0-9])|0123456789|abcdefgh|qwerty|<.*>|x{8}",
    re.IGNORECASE,
)
"""What documentation and templates have in a secret's place. Short words stand by themselves: one random
secret in twenty thousand has "todo" somewhere."""

HOW_TO = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"


def check_secret(secret: str) -> bytes:
    """The secret's bytes. Raises SettingsError, without the secret, for one that can be guessed."""
    encoded = secret.encode()
    if len(encoded) < MIN_BYTES:
        raise SettingsError(
            f"the secret of tokens (auth.jwt_secret) has {len(encoded)} bytes, and {MIN_BYTES} are needed: "
            + HOW_TO
        )
    if _PLACEHOLDER.search(secret) or len(set(secret)) < MIN_DISTINCT:
        raise SettingsError(f"the secret of tokens (auth.jwt_secret) is a placeholder: {HOW_TO}")
    return encoded


def read_secrets(path: Path) -> list[bytes]:
    """A file's lines, without those that are empty. Raises SettingsError for a file that cannot be read, for
    none or more than MAX_SECRETS, and for one that can be guessed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"auth.jwt_secret_file {path} cannot be read: {reason}") from error
    secrets = [line.strip() for line in lines if line.strip()]
    if not 1 <= len(secrets) <= MAX_SECRETS:
        raise SettingsError(
            f"auth.jwt_secret_file {path} has {len(secrets)} secrets: write one a line, the one that signs "
            f"first, at most {MAX_SECRETS}"
        )
    return [check_secret(secret) for secret in secrets]
