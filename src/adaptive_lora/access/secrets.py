"""The form of an API key: alk_<id>_<secret>.

    alk_    a fixed beginning, by which scanners find keys that were committed
    id      12 hexadecimal digits, public: what lists and logs show
    secret  43 characters of base64url, 32 random bytes

The secret cannot be guessed, so a plain SHA-256 keeps it as well as a slow hash would, and costs a request a
microsecond.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

_KEY = re.compile(r"alk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
PREFIX = "alk_"


def new_secret() -> tuple[str, str]:
    """(id, the whole key)."""
    key_id = secrets.token_hex(6)
    return key_id, f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def id_of(secret: str) -> str | None:
    """The public part of a key; None if it has not the form of one."""
    found = _KEY.fullmatch(secret)
    return found[1] if found else None


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, digest: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(digest_of(secret), digest)
