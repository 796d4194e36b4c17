"""What does not start, also under `python -O`: a server that would be open to all without being told so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = ("-m", "adaptive_lora", "serve", "--engine", "fake", "--port", "0")


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (["--host", "0.0.0.0"], {}, "authentication is off"),
        (["--host", "::"], {}, "authentication is off"),
        ([], {"ADAPTIVE_LORA_AUTH__ENABLED": "true", "JWT_SECRET": "change-me-" * 5}, "placeholder"),
        ([], {"ADAPTIVE_LORA_AUTH__ENABLED": "true", "JWT_SECRET": "short"}, "32 are needed"),
        (["--insecure"], {"ADAPTIVE_LORA_API__ADMIN_HOST": "0.0.0.0", "ADAPTIVE_LORA_API__ADMIN_PORT": "0"},
         "administrators' endpoints are never served so"),
        ([], {"ADAPTIVE_LORA_AUTH__ENABLD": "true"}, "ADAPTIVE_LORA_AUTH__ENABLED?"),
    ],
)  # fmt: skip
def test_it_does_not_start(
    flags: tuple[str, ...], arguments: list[str], environ: dict[str, str], says: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, *flags, *COMMAND, *arguments],
        env=os.environ | environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode not in (0, -9), run.stderr
    assert says in " ".join(run.stderr.split()), run.stderr
