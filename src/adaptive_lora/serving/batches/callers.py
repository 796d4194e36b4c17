"""Who asked for a batch, kept as JSON: its requests are answered with what that credential may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adaptive_lora.serving.principal import Principal


@dataclass(frozen=True, slots=True)
class Caller:
    principal: Principal
    address: str
    """By which limits know who is nobody in particular."""

    def to_json(self) -> dict[str, Any]:
        who = self.principal
        return {
            "subject": who.subject,
            "tenant": who.tenant,
            "scopes": sorted(who.scopes),
            "agents": None if who.agents is None else sorted(who.agents),
            "key_id": who.key_id,
            "tier": who.tier,
            "expires_at": None if who.expires_at is None else who.expires_at.isoformat(),
            "credential": who.credential,
            "address": self.address,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Caller:
        agents, expires_at = kept["agents"], kept["expires_at"]
        principal = Principal(
            kept["subject"],
            kept["tenant"],
            frozenset(kept["scopes"]),
            None if agents is None else frozenset(agents),
            kept["key_id"],
            kept["tier"],
            None if expires_at is None else datetime.fromisoformat(expires_at),
            kept["credential"],
        )
        return cls(principal, kept["address"])
