"""What is known about API keys, revocations and administrative acts, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

AuditAction = Literal[
    "key.mint", "key.revoke", "token.revoke", "profile.cpu", "profile.memory", "backup.make", "backup.restore"
]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to mint: whose, and what it will be good for."""

    name: str
    """Who uses it, for logs and the history; several keys may have one name while one replaces another."""
    tenant: str
    scopes: frozenset[str]
    agents: frozenset[str] | None = None
    """Names of the agents that it may ask for; None is all of them."""
    tier: str = "default"
    expires_at: datetime | None = None
    """None: it stays valid until it is revoked."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key; all but the key itself."""

    id: str
    """The public part, which stands in the key after its first underscore."""
    digest: str
    """SHA-256 of the whole key, hexadecimal."""
    name: str
    tenant: str
    scopes: frozenset[str]
    agents: frozenset[str] | None
    tier: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""


@dataclass(frozen=True, slots=True)
class Minted:
    """A new key, and the only copy of its secret."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a gateway needs to tell good credentials from bad, at one revision."""

    revision: int
    keys: Mapping[str, ApiKey]
    """By id, without those that are revoked; some may have expired."""
    revoked_tokens: frozenset[tuple[str, str]]
    """(tenant, jti)."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One administrative act. Entries are never changed nor removed."""

    id: int
    """1, 2, 3, ... in the order in which it happened; no number is missing."""
    at: datetime
    who: str
    tenant: str
    """Whose credentials it was about, or who looked."""
    action: AuditAction
    subject: str
    """A key's id, a token's jti, or the process that was looked into."""
    detail: Mapping[str, Any]
