"""What records requests, built from settings."""

from __future__ import annotations

from typing import Final

from adaptive_lora.settings import MonitoringSettings, TracingSettings
from adaptive_lora.telemetry.prompts import PromptLog
from adaptive_lora.telemetry.spans import SpanMetrics
from adaptive_lora.telemetry.tracing import Traces

FLUSH_TIMEOUT_S: Final = 3.0
"""For the last traces to be sent, when the server stops."""


def make_traces(settings: TracingSettings, metrics: SpanMetrics) -> Traces:
    """Without an endpoint nothing is recorded, and OpenTelemetry not imported."""
    if settings.endpoint is None:
        return Traces(continues=settings.continue_traces)
    from adaptive_lora.telemetry.otlp import RecordedTraces
    from adaptive_lora.telemetry.span_export import Collector

    headers = "" if settings.headers is None else settings.headers.get_secret_value()
    return RecordedTraces(
        Collector(settings.endpoint, headers, metrics),
        service_name=settings.service_name,
        sample_ratio=settings.sample_ratio,
        continues=settings.continue_traces,
    )


def make_prompt_log(settings: MonitoringSettings) -> PromptLog:
    secret = settings.log_secret
    return PromptLog(settings.log_prompts, None if secret is None else secret.get_secret_value())
