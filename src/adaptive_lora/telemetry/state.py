"""How a gateway is, as gauges that alerts ask for: its phase, its last sign of life, what it should serve and
does not, and whether its registry answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PHASES: Final = ("starting", "ready", "stalled", "draining", "failed", "stopped")


@dataclass(frozen=True, slots=True)
class GatewayState:
    phase: str
    """One of PHASES."""
    canary_age_s: float | None
    """Seconds since a generation is known to have worked; None before the first."""
    n_refused: int
    """Adapters that should be served, and are not."""
    registry_is_up: bool | None
    """None before it was first asked."""


class StateGauges(Collector):
    """Reads the state when it is scraped. `read` is set by whoever serves."""

    def __init__(self) -> None:
        self.read: Callable[[], GatewayState] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        phases = GaugeMetricFamily(
            "adaptive_lora_phase", "1 for the phase that the gateway is in, else 0", labels=["phase"]
        )
        age = GaugeMetricFamily(
            "adaptive_lora_canary_age_seconds", "Time since a generation is known to have worked"
        )
        refused = GaugeMetricFamily(
            "lora_adapters_refused", "Adapters that should be served, and are not: their checks failed"
        )
        up = GaugeMetricFamily("registry_up", "1 while the registry answers")
        if self.read is not None:
            state = self.read()
            for phase in PHASES:
                phases.add_metric([phase], float(phase == state.phase))
            if state.canary_age_s is not None:
                age.add_metric([], state.canary_age_s)
            refused.add_metric([], state.n_refused)
            if state.registry_is_up is not None:
                up.add_metric([], float(state.registry_is_up))
        yield from (phases, age, refused, up)
