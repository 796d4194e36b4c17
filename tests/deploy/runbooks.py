"""The commands of the runbooks, as somebody types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.deploy.monitoring_files import ROOT

RUNBOOKS = ROOT / "docs/runbooks"
PAGES = sorted(path.stem for path in RUNBOOKS.glob("*.md"))
_BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    """Those of a page that run here; the others say why not."""
    found = _BLOCK.findall((RUNBOOKS / f"{page}.md").read_text())
    return [commands for why_not, commands in found if not why_not]


def run(commands: str, environment: Mapping[str, str]) -> str:
    """What they print. Fails at the first that fails."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment, "PATH": programs},
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout
