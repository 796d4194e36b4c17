"""The commands of docs/how-to/adapter-storage.md do what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from adaptive_lora.settings_loading import load_settings
from tests.storage_servers import BUCKET, CREDENTIALS, s3_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "adapter-storage.md").read_text()


def test_pushing_and_pulling(tmp_path: Path) -> None:
    (script,) = re.findall(r"^```bash\n(adaptive-lora models.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.json").write_text("{}")
    command = script.replace("your-bucket", BUCKET).replace(
        "adaptive-lora", f"{sys.executable} -m adaptive_lora"
    )
    with s3_server() as url:
        run = subprocess.run(
            ["bash", "-ec", command],
            cwd=tmp_path,
            env=os.environ | CREDENTIALS | {"AWS_ENDPOINT_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "models-copy" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_the_settings_load(block: str, tmp_path: Path) -> None:
    assert yaml.safe_load(block).keys() == {"storage"}
    (tmp_path / "settings.yaml").write_text(block)
    load_settings(tmp_path / "settings.yaml", environ={})


def test_every_test_that_is_named_exists() -> None:
    for name in set(re.findall(r"`(?:tests/adapters/)?(test_\w+\.py)`", PAGE)):
        assert (ROOT / "tests" / "adapters" / name).is_file(), name
