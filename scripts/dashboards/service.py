"""Whether the service keeps its promises, and what it depends on."""

from __future__ import annotations

from dashboards.panels import JOB, Dashboard, Panel, Query, gauge, quantiles, rate

TTFT, ITL = "lora_time_to_first_token_seconds", "lora_inter_token_latency_seconds"
OBJECTIVES = {"errors": ("slo:request_errors", 0.005), "first tokens": ("slo:ttft_slow", 0.05)}


def burn(series: str, budget: float) -> tuple[Query, ...]:
    return tuple(
        Query(f"max(({series}:ratio_rate{window}{{{JOB}}}) / {budget})", window)
        for window in ("5m", "1h", "6h", "3d")
    )


SERVICE = Dashboard(
    "adaptive-lora-service",
    "Adaptive LoRA: service",
    {
        "Now": (
            Panel("Gateways ready", (Query(gauge("adaptive_lora_ready")),), kind="stat"),
            Panel("Requests a second", (Query(f"sum(requests_per_second{{{JOB}}})"),), "reqps", "stat"),
            Panel(
                "Latency, 95th percentile",
                (Query(f"max(api_request_latency_seconds_p95{{{JOB}}})"),),
                "s",
                "stat",
                limit=2,
            ),
            Panel("Errors", (Query(f"max(api_error_ratio{{{JOB}}})"),), "percentunit", "stat", limit=0.05),
            Panel("Requests waiting", (Query(gauge("lora_queue_size")),), kind="stat", limit=100),
            Panel("Adapters active", (Query(gauge("lora_active_adapters", "min")),), kind="stat"),
        ),
        "Objectives": tuple(
            Panel(
                f"Burn rate of the budget of {name}",
                burn(series, budget),
                description="1 uses up a month's budget in a month; alerts: 14.4 over an hour, 6 over six.",
                limit=6,
            )
            for name, (series, budget) in OBJECTIVES.items()
        ),
        "Requests": (
            Panel(
                "Requests by outcome", (Query(rate("api_requests_total", "status"), "{{status}}"),), "reqps"
            ),
            Panel(
                "Errors by code",
                (Query(rate("api_requests_total", "code, route", 'status="error"'), "{{code}} {{route}}"),),
                "reqps",
                stacked=True,
            ),
            Panel("Latency", quantiles("api_request_latency_seconds"), "s", limit=2),
            Panel("First token", quantiles(TTFT), "s", limit=2),
            Panel("Time per token after it", quantiles(ITL), "s"),
            Panel(
                "Tokens a second",
                (
                    Query(rate("lora_prompt_tokens_total"), "of prompts"),
                    Query(rate("lora_completion_tokens_total"), "generated"),
                ),
            ),
        ),
        "Queue and limits": (
            Panel("Waiting", (Query(gauge("queue_waiting", by="priority"), "{{priority}}"),), limit=100),
            Panel("In the engine", (Query(gauge("queue_inside", by="priority"), "{{priority}}"),)),
            Panel("Wait", quantiles("queue_wait_seconds", 'priority="interactive"'), "s"),
            Panel(
                "Refused by the queue", (Query(rate("queue_refused_total", "reason"), "{{reason}}"),), "reqps"
            ),
            Panel(
                "Refused by a limit", (Query(rate("rate_limited_total", "reason"), "{{reason}}"),), "reqps"
            ),
            Panel("Limits checked", (Query(rate("rate_limit_checks_total", "where"), "{{where}}"),), "reqps"),
        ),
        "Cache and batches": (
            Panel(
                "Answers asked for", (Query(rate("cache_requests_total", "result"), "{{result}}"),), "reqps"
            ),
            Panel("Tokens saved a second", (Query(rate("cache_saved_tokens_total")),)),
            Panel("Kept in memory", (Query(gauge("cache_bytes")),), "bytes"),
            Panel("Batches running", (Query(gauge("batches_running")),)),
            Panel(
                "Batches' requests", (Query(rate("batch_requests_total", "outcome"), "{{outcome}}"),), "reqps"
            ),
        ),
        "What it depends on": (
            Panel("Redis", (Query(gauge("redis_up", "min", "instance"), "{{instance}}"),), limit=1),
            Panel("Failed commands of Redis", (Query(rate("redis_failures_total", "kind"), "{{kind}}"),)),
            Panel("Registry", (Query(gauge("registry_up", "min", "instance"), "{{instance}}"),), limit=1),
            Panel(
                "Since the last backup",
                (Query("time() - " + gauge("backup_last_success_timestamp_seconds", "max")),),
                "s",
                limit=26 * 3600,
            ),
            Panel(
                "Memory of the gateways",
                (Query(gauge("process_resident_memory_bytes", by="instance"), "{{instance}}"),),
                "bytes",
            ),
            Panel(
                "CPU of the gateways", (Query(rate("process_cpu_seconds_total", "instance"), "{{instance}}"),)
            ),
        ),
    },
)
