"""Who is chosen, how surely, and what becomes of it."""

from __future__ import annotations

from dashboards.panels import Dashboard, Panel, Query, quantiles, rate

_FAILED = rate("lora_requests_total", "agent", 'outcome="error"')
_ROUTED = rate("router_decisions_total", where='reason=~"routed|learned"')

ROUTER = Dashboard(
    "adaptive-lora-router",
    "Adaptive LoRA: router",
    {
        "Decisions": (
            Panel(
                "By agent",
                (Query(rate("router_decisions_total", "agent"), "{{agent}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "By reason",
                (Query(rate("router_decisions_total", "reason"), "{{reason}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Coverage",
                (Query(f"({_ROUTED} or vector(0)) / {rate('router_decisions_total')}"),),
                "percentunit",
                description="Share of prompts that an agent answers; the base answers the others.",
            ),
            Panel("Time to decide", quantiles("router_latency_seconds"), "s", limit=0.006),
        ),
        "What became of it": (
            Panel(
                "Generations by agent and outcome",
                (Query(rate("lora_requests_total", "agent, outcome"), "{{agent}} {{outcome}}"),),
                "reqps",
            ),
            Panel(
                "Share that failed",
                (
                    Query(
                        f"({_FAILED} or 0 * {rate('lora_requests_total', 'agent')})"
                        f" / {rate('lora_requests_total', 'agent')}",
                        "{{agent}}",
                    ),
                ),
                "percentunit",
            ),
        ),
    },
)
