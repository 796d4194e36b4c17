"""What was decided about a request before the engine is asked."""

from __future__ import annotations

from dataclasses import dataclass

from adaptive_lora.types import AdapterVersion, RouteDecision

MAX_SHOWN = 8
"""Candidates in `Plan.summary`."""


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
    def summary(self) -> str:
        """The decision in one short line: reason, doubt and candidate set, as
        `abstained; doubt=unsure; candidates=code|reasoning`."""
        decision = self.decision
        parts: list[str] = [decision.reason]
        if decision.doubt:
            parts.append(f"doubt={decision.doubt}")
        if decision.candidates:
            shown = decision.candidates[:MAX_SHOWN]
            more = ("...",) if len(decision.candidates) > MAX_SHOWN else ()
            parts.append("candidates=" + "|".join((*shown, *more)))
        return "; ".join(parts)

    @property
    def adapter_id(self) -> str | None:
        return self.adapter.id if self.adapter else None
