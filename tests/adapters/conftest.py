"""A base model, and adapters for it; the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from adaptive_lora.adapters.base import BaseModelInfo, describe_base
from adaptive_lora.adapters.registry import Registry
from tests import adapter_folders


@pytest.fixture
def write_base() -> Callable[..., Path]:
    return adapter_folders.write_base


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return adapter_folders.write_base(tmp_path / "base")


@pytest.fixture
def base(base_dir: Path) -> BaseModelInfo:
    return describe_base("demo", base_dir)


@pytest.fixture
def lora_weights() -> Callable[..., dict[str, np.ndarray]]:
    return adapter_folders.lora_weights


@pytest.fixture
def peft_config() -> Callable[..., dict[str, object]]:
    return adapter_folders.peft_config


@pytest.fixture
def make_adapter(tmp_path: Path, base: BaseModelInfo) -> Callable[..., Path]:
    """Write an adapter that passes every check, but for what the arguments say."""

    def make(
        folder: str = "code",
        *,
        name: str | None = None,
        weights: dict[str, np.ndarray] | None = None,
        config: dict[str, object] | None = None,
        fingerprint: str | None = base.fingerprint,
        base_model: str = "demo",
    ) -> Path:
        return adapter_folders.write_adapter(
            tmp_path / "adapters" / folder,
            name=name,
            weights=weights,
            config=config,
            base_model=base_model,
            base_fingerprint=fingerprint,
        )

    return make


@pytest.fixture
def registry(database_url: str) -> Iterator[Registry]:
    registry = Registry.open(database_url)
    yield registry
    registry.close()
