"""Each key of `admission` does what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptive_lora.engine.admission import AdmissionQueue
from adaptive_lora.engine.factory import build_engine
from adaptive_lora.engine.scheduled import ScheduledEngine
from adaptive_lora.engine.vllm import VLLMInferenceEngine
from tests.settings.effects import key, settings_of


def queue_of(**keys: Any) -> AdmissionQueue:
    """One slot and three places, the first of them taken for adapter "a"."""
    settings = settings_of(adapters={"max_loras": 1}, inference={"max_batch_size": 1}, admission=keys)
    engine = build_engine(settings.model, settings.adapters, settings.inference, admission=settings.admission)
    assert isinstance(engine, ScheduledEngine)
    engine.queue.add("0", "a")
    assert engine.queue.next() is not None
    return engine.queue


def admitted(queue: AdmissionQueue) -> list[str]:
    ids = []
    while (admission := queue.next()) is not None:
        ids.append(admission.ticket.request_id)
    return ids


@key("admission.policy")
def test_by_residency_or_by_age() -> None:
    order = {}
    for policy in ("residency", "fifo"):
        settings = settings_of(adapters={"max_loras": 2}, admission={"policy": policy})
        engine = build_engine(
            settings.model, settings.adapters, settings.inference, admission=settings.admission
        )
        assert isinstance(engine, ScheduledEngine)
        for request_id, adapter_id in enumerate("abab"):
            engine.queue.add(str(request_id), adapter_id)
        order[policy] = admitted(engine.queue)
    assert order == {"residency": ["0", "2", "1", "3"], "fifo": ["0", "1", "2", "3"]}


@key("admission.max_wait_rounds")
def test_how_often_a_request_is_passed() -> None:
    for bound, expected in ((0, []), (1, ["2"]), (9, ["2", "3"])):
        queue = queue_of(max_wait_rounds=bound)
        for request_id, adapter_id in (("1", "b"), ("2", "a"), ("3", "a")):
            queue.add(request_id, adapter_id)
        assert admitted(queue) == expected


@key("admission.prefetch")
def test_what_is_next_is_read_ahead_or_not(tmp_path: Path) -> None:
    engines = {}
    for prefetch in (True, False):
        settings = settings_of(
            model={"engine": "vllm", "base_model": str(tmp_path)}, admission={"prefetch": prefetch}
        )
        engine = build_engine(
            settings.model, settings.adapters, settings.inference, admission=settings.admission
        )
        assert isinstance(engine, ScheduledEngine)
        assert isinstance(engine.inner, VLLMInferenceEngine)
        engines[prefetch] = engine._prefetcher is engine.inner
    assert engines == {True: True, False: False}
