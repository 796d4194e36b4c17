"""Who makes a request, and what that allows. Authentication makes it; limits, cache and routing read it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

DEFAULT_TENANT: Final = "default"
DEFAULT_TIER: Final = "default"

SCOPES: Final = ("generate", "feedback", "adapters:read", "adapters:write", "metrics", "admin")
"""What a credential may be good for. `admin` includes all others."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. Frozen for the length of a request."""

    subject: str
    """Who, for logs and the history: a user's or a service's name; never a secret."""
    tenant: str = DEFAULT_TENANT
    """Whose limits, cache and adapters."""
    scopes: frozenset[str] = frozenset()
    agents: frozenset[str] | None = None
    """Names of the agents that it may ask for; None is all of them. The base model is everybody's."""
    key_id: str | None = None
    """Public part of the API key, or a token's `jti`; for limits per credential and for revocation."""
    tier: str = DEFAULT_TIER
    """Which limits apply."""
    expires_at: datetime | None = None
    """When its credential does; what it hands on (minted keys) cannot outlive it. None: never."""
    credential: Literal["key", "token"] | None = None
    """What `key_id` is of; None where nobody asks for credentials."""

    def has(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def may_use(self, agent: str) -> bool:
        """Whether an agent may answer it, be routed to, or be seen by it."""
        return self.agents is None or agent in self.agents


ANYBODY: Final = Principal("anonymous", scopes=frozenset(SCOPES))
"""The caller where authentication is off."""
