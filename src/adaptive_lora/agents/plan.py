"""What was decided about a request before the engine is asked."""

from __future__ import annotations

from dataclasses import dataclass

from adaptive_lora.types import AdapterVersion, RouteDecision


@dataclass(frozen=True, slots=True)
class Plan:
    """Who answers one request, and why."""

    decision: RouteDecision
    adapter: AdapterVersion | None
    """None is the base model."""
    base_version: str

    @property
    def agent(self) -> str:
        """An adapter's name, or `BASE`."""
        return self.decision.agent

    @property
    def version(self) -> str:
        """The adapter's content version; for the base model, its own."""
        return self.adapter.version if self.adapter else self.base_version

    @property
    def adapter_id(self) -> str | None:
        return self.adapter.id if self.adapter else None
