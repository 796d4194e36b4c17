"""Which model answers, and while nobody knows, nothing is cached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.engine.fake import FakeEngine
from adaptive_lora.serving.cache.factory import make_cache, model_identity
from adaptive_lora.serving.cache.key import ModelIdentity
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.cache import CacheMetrics

REMOTE = {"engine": "remote", "base_model": "base"}
WORKERS = {"urls": ["http://127.0.0.1:1"], "api_key": "k"}


class Workers(FakeEngine):
    text_fingerprint: str | None = "text"


def identity(engine: FakeEngine, base: BaseModelInfo, /, **model: Any) -> ModelIdentity | None:
    sections = {"workers": WORKERS} if model.get("engine") == "remote" else {}
    return model_identity(Settings.model_validate({"model": model, **sections}), base, engine)()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_of_a_model_on_disk_weights_and_tokenizer_are_known(folder: Path) -> None:
    base = BaseModelInfo(str(folder), "weights")
    first = identity(FakeEngine(), base, base_model=str(folder))
    assert first is not None
    assert identity(FakeEngine(), base, base_model=str(folder)) == first
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert identity(FakeEngine(), base, base_model=str(folder)) not in (None, first)


@pytest.mark.parametrize(
    "other",
    [
        {"quantization": "bitsandbytes"},
        {"dtype": "float32"},
        {"seed": 1},
    ],
)
def test_what_changes_its_numbers_makes_another_model(folder: Path, other: dict[str, Any]) -> None:
    base = BaseModelInfo(str(folder), "weights")
    usual = identity(FakeEngine(), base, base_model=str(folder))
    assert identity(FakeEngine(), base, base_model=str(folder), **other) != usual
    assert identity(FakeEngine(max_model_len=99), base, base_model=str(folder)) != usual
    assert identity(FakeEngine(), replace(base, fingerprint="others"), base_model=str(folder)) != usual


def test_of_remote_workers_it_is_what_they_say_now() -> None:
    engine, base = Workers(), BaseModelInfo("base", "weights")
    settings = Settings.model_validate({"model": REMOTE, "workers": WORKERS})
    now = model_identity(settings, base, engine)
    first = now()
    assert first is not None
    engine.text_fingerprint = None  # two of them differ
    assert now() is None
    engine.text_fingerprint = "another"
    assert now() not in (None, first)


def test_of_what_is_not_known_nothing_is_cached(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert identity(Workers(), BaseModelInfo("base"), **REMOTE) is None
    assert identity(FakeEngine(), BaseModelInfo("org/name", "weights"), base_model="org/name") is None
    assert "nothing is cached" in caplog.text
    (folder / "tokenizer.json").unlink()
    assert identity(FakeEngine(), BaseModelInfo(str(folder), "w"), base_model=str(folder)) is None


def test_there_is_no_cache_unless_it_is_switched_on() -> None:
    base = BaseModelInfo("fake")
    for enabled in (True, False):
        settings = Settings.model_validate(
            {"model": {"engine": "fake"}, "inference": {"cache_enabled": enabled}}
        )
        cache = make_cache(settings, base, FakeEngine(), CacheMetrics(), redis=None)
        assert (cache is not None) == enabled
