"""What was decided about a request before the engine is asked."""

from __future__ import annotations

from dataclasses import dataclass

from adaptive_lora.adapters.manifest import COMPOSITION
from adaptive_lora.adapters.records import PROD
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
    alias: str | None = None
    """The alias that led to this version; None if the version was named, for the base, and for
    compositions."""

    @property
    def agent(self) -> str:
        """An adapter's name, a composition, or `BASE`."""
        return self.decision.agent

    @property
    def version(self) -> str:
        """The adapter's content version; for the base model, its own."""
        return self.adapter.version if self.adapter else self.base_version

    @property
    def labels(self) -> tuple[str, str]:
        """(agent, version) for metrics: all compositions are one, since callers can think of any number."""
        if self.adapter is not None and self.adapter.name == COMPOSITION:
            return COMPOSITION, ""
        return self.agent, self.version

    @property
    def summary(self) -> str:
        """The decision in one short line: reason, doubt, alias and candidate set, as
        `abstained; doubt=unsure; candidates=code|reasoning`."""
        decision = self.decision
        parts: list[str] = [decision.reason]
        if decision.doubt:
            parts.append(f"doubt={decision.doubt}")
        if self.alias not in (None, PROD):
            parts.append(f"alias={self.alias}")
        if decision.candidates:
            shown = decision.candidates[:MAX_SHOWN]
            more = ("...",) if len(decision.candidates) > MAX_SHOWN else ()
            parts.append("candidates=" + "|".join((*shown, *more)))
        return "; ".join(parts)

    @property
    def adapter_id(self) -> str | None:
        return self.adapter.id if self.adapter else None
