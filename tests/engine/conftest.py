from __future__ import annotations

from pathlib import Path

import pytest

from adaptive_lora.types import AdapterVersion


def adapter_version(path: Path, rank: int = 8) -> AdapterVersion:
    return AdapterVersion(
        name=path.name,
        version=f"{abs(hash(str(path))):012x}"[:12],
        path=path,
        rank=rank,
        description="",
        examples=(),
        size_bytes=1,
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama in float32 with a chat template."""
    pytest.importorskip("torch")
    from adaptive_lora.engine.random_models import make_model

    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterVersion]:
    """Nine random adapters of rank 8 for `tiny_model`."""
    from adaptive_lora.engine.random_models import make_adapters

    folder = tmp_path_factory.mktemp("adapters")
    return [adapter_version(path) for path in make_adapters(folder, 9, 8, base=tiny_model)]
