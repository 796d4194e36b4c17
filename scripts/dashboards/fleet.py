"""Engine, agents and their adapters."""

from __future__ import annotations

from dashboards.panels import JOB, Dashboard, Panel, Query, gauge, quantiles, rate

FLEET = Dashboard(
    "adaptive-lora-fleet",
    "Adaptive LoRA: fleet",
    {
        "Engine": (
            Panel(
                "Phase",
                (Query(gauge("adaptive_lora_phase", by="phase") + " > 0", "{{phase}}"),),
                stacked=True,
            ),
            Panel(
                "Since the last token",
                (Query(gauge("adaptive_lora_canary_age_seconds", "max", "instance"), "{{instance}}"),),
                "s",
                limit=120,
            ),
            Panel(
                "Requests",
                (
                    Query(gauge("lora_running_requests"), "running"),
                    Query(gauge("lora_queue_size"), "waiting"),
                ),
                limit=100,
            ),
            Panel(
                "KV cache in use",
                (
                    Query(gauge("lora_kv_cache_usage", "max", "instance"), "{{instance}}"),
                    Query("max by (instance) (vllm:kv_cache_usage_perc)", "worker {{instance}}"),
                ),
                "percentunit",
                limit=0.95,
            ),
            Panel(
                "Preemptions a second",
                (
                    Query(rate("lora_preemptions_total", "instance"), "{{instance}}"),
                    Query(
                        "sum by (instance) (rate(vllm:num_preemptions_total[$__rate_interval]))",
                        "worker {{instance}}",
                    ),
                ),
                limit=0.1,
            ),
            Panel(
                "GPU memory in use",
                (Query(gauge("lora_gpu_memory_usage", "max", "instance"), "{{instance}}"),),
                "percentunit",
                description="Near the limit is normal: vLLM takes its share at the start.",
                limit=0.9,
            ),
            Panel("Workers", (Query(gauge("lora_workers", "max", "state"), "{{state}}"),)),
        ),
        "Agents": (
            Panel(
                "Generations",
                (Query(rate("lora_requests_total", "agent"), "{{agent}}"),),
                "reqps",
                stacked=True,
            ),
            Panel("Tokens a second", (Query(f"agent:lora_completion_tokens:rate5m{{{JOB}}}", "{{agent}}"),)),
            Panel(
                "First token, 95th percentile",
                (Query(f"agent:lora_time_to_first_token_seconds:p95{{{JOB}}}", "{{agent}}"),),
                "s",
                limit=2,
            ),
            Panel(
                "Time per token, 95th percentile",
                (Query(f"agent:lora_inter_token_latency_seconds:p95{{{JOB}}}", "{{agent}}"),),
                "s",
            ),
            Panel(
                "Failures by code",
                (Query(rate("lora_request_errors_total", "agent, code"), "{{agent}} {{code}}"),),
                "reqps",
            ),
            Panel(
                "Versions: share that is done",
                (
                    Query(
                        rate("lora_version_requests_total", "agent, version", 'outcome="done"')
                        + " / "
                        + rate("lora_version_requests_total", "agent, version"),
                        "{{agent}}@{{version}}",
                    ),
                ),
                "percentunit",
                description="A canary beside what it may replace.",
            ),
        ),
        "Adapters": (
            Panel("Active", (Query(gauge("lora_active_adapters", by="instance"), "{{instance}}"),)),
            Panel(
                "Refused",
                (Query(gauge("lora_adapters_refused", "max", "instance"), "{{instance}}"),),
                limit=1,
            ),
            Panel(
                "Where they are",
                (Query(gauge("lora_adapter_resident", by="where"), "{{where}}"),),
                stacked=True,
            ),
            Panel(
                "Requests whose adapter was in a slot",
                (
                    Query(
                        f"{rate('lora_adapter_slot_hits_total')} / ({rate('lora_adapter_slot_hits_total')} + "
                        f"({rate('lora_adapter_slot_misses_total')} or vector(0)))"
                    ),
                ),
                "percentunit",
            ),
            Panel("Loads a second", (Query(rate("lora_adapter_loads_total", "agent"), "{{agent}}"),)),
            Panel("Evictions a second", (Query(rate("lora_adapter_evictions_total", "agent"), "{{agent}}"),)),
            Panel("Time to load", quantiles("lora_adapter_load_seconds"), "s"),
            Panel("Wait for a slot", quantiles("lora_queue_wait_seconds"), "s"),
        ),
        "Compositions": (
            Panel("Loaded", (Query(gauge("lora_compositions_loaded")),)),
            Panel("Events", (Query(rate("lora_composition_events_total", "event"), "{{event}}"),)),
            Panel(
                "Time spent building", (Query(rate("lora_composition_build_seconds_total")),), "percentunit"
            ),
        ),
    },
)
