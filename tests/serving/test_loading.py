"""What is wrong with settings is said before an engine is started on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptive_lora.errors import SettingsError
from adaptive_lora.serving.loading import build_engine
from adaptive_lora.settings import Settings


@pytest.mark.parametrize("name", ["{folder}/nope", "./nope", "../nope"])
def test_a_base_model_that_is_no_folder(name: str, tmp_path: Path) -> None:
    name = name.format(folder=tmp_path)
    with pytest.raises(SettingsError, match=r"model\.base_model is .*nope, which is not a folder"):
        build_engine(Settings(model={"base_model": name, "engine": "vllm"}))
