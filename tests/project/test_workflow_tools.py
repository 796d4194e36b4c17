"""zizmor and bandit find nothing: `make test-workflows`, half a minute, in an environment of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts import install

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.acceptance]


def tool(*command: str) -> subprocess.CompletedProcess[str]:
    command = (str(install.install_tools("workflows") / "bin" / command[0]), *command[1:])
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_workflows_give_nothing_away() -> None:
    run = tool("zizmor", "--offline", "--strict-collection", ".github")
    assert run.returncode == 0, run.stdout + run.stderr


def test_what_gives_something_away_is_found(tmp_path: Path) -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    (tmp_path / "ci.yml").write_text(text.replace("  pull_request:", "  pull_request_target:"))
    run = tool("zizmor", "--offline", str(tmp_path / "ci.yml"))
    assert "dangerous-triggers" in run.stdout


def test_the_code_has_no_finding_of_medium_severity() -> None:
    """B615, a model without a revision: which one is the operator's to say, by a folder or a commit."""
    run = tool("bandit", "-q", "-ll", "--skip", "B615", "-r", "src", "scripts", "experiments")
    assert run.returncode == 0, run.stdout
