"""Commands of pages, as somebody types them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.project.doc_blocks import ROOT, blocks


def commands(page: str) -> list[str]:
    """The blocks of a runbook that run here; the others say why not."""
    return [block.text for block in blocks(f"docs/runbooks/{page}.md", "bash") if block.run_by]


def typed(text: str, environment: Mapping[str, str] | None = None) -> str:
    """What they print. Fails at the first that fails."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {}), "PATH": programs},
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout
