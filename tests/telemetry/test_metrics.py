from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.types import EngineStats, RouteDecision, TokenChunk


def test_the_guides_metrics_exist_under_their_names() -> None:
    metrics = Metrics()
    metrics.request(route="/generate", status="success", code=200, seconds=0.5)
    metrics.engine.stats = EngineStats(
        running=1, waiting=2, kv_cache_usage=0.25, gpu_memory_usage=0.5, loaded_adapters=4
    )
    text = metrics.render().decode()
    assert 'api_requests_total{code="200",route="/generate",status="success"} 1.0' in text
    assert 'api_request_latency_seconds_count{route="/generate"} 1.0' in text
    assert "\nlora_active_adapters 4.0" in text
    assert "\nlora_queue_size 2.0" in text
    assert "\nlora_gpu_memory_usage 0.5" in text


def test_what_a_machine_cannot_know_is_absent() -> None:
    metrics = Metrics()
    assert "lora_active_adapters" not in metrics.render().decode()
    metrics.engine.stats = EngineStats(0, 0, kv_cache_usage=None, gpu_memory_usage=None, loaded_adapters=0)
    text = metrics.render().decode()
    assert "lora_gpu_memory_usage" not in text
    assert "lora_active_adapters 0.0" in text


def test_preemptions_and_workers_are_told_by_engines_that_have_them() -> None:
    metrics = Metrics()
    metrics.engine.stats = EngineStats(0, 0, None, None, loaded_adapters=0)
    assert not {"lora_preemptions_total", "lora_workers"} & set(metrics.render().decode().split())
    metrics.engine.stats = EngineStats(
        0, 0, None, None, loaded_adapters=0, n_preemptions=3, workers={"usable": 2, "away": 1}
    )
    text = metrics.render().decode()
    assert "\nlora_preemptions_total 3.0" in text
    assert '\nlora_workers{state="away"} 1.0' in text


def test_abstentions_are_decisions_with_that_reason() -> None:
    metrics = Metrics()
    metrics.routed(RouteDecision("base", 0.3, "abstained", {}), seconds=0.001)
    labels = {"agent": "base", "reason": "abstained"}
    assert metrics.registry.get_sample_value("router_decisions_total", labels) == 1
    assert metrics.registry.get_sample_value("router_latency_seconds_count") == 1


def test_a_chunk_of_several_tokens_counts_each() -> None:
    metrics = Metrics()
    meter = metrics.meter("code", "3f9c2a000001", started=0.0)
    for n_tokens in (1, 3, 0):
        meter.chunk(TokenChunk(0, "x", n_tokens, 7))
    meter.end("done")

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"agent": "code"})

    assert value("lora_completion_tokens_total") == 4
    assert value("lora_prompt_tokens_total") == 7
    assert value("lora_inter_token_latency_seconds_count") == 3
    assert value("lora_time_to_first_token_seconds_count") == 1


def test_two_processes_worth_of_metrics_do_not_share_a_registry() -> None:
    first, second = Metrics(), Metrics()
    first.request(route="/generate", status="error", code=404, seconds=0.1)
    assert b"/generate" not in second.render()


def test_versions_are_counted_apart_until_they_go() -> None:
    metrics = Metrics()
    for version, outcome in (("old", "done"), ("new", "done"), ("new", "error")):
        metrics.meter("code", version, started=0.0).end(outcome)
    text = metrics.render().decode()
    assert 'lora_version_requests_total{agent="code",outcome="error",version="new"} 1.0' in text
    metrics.forget_version("code", "new")
    text = metrics.render().decode()
    assert 'version="new"' not in text
    assert 'version="old"' in text
    assert 'lora_requests_total{agent="code",outcome="done"} 2.0' in text
