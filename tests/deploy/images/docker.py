"""The docker command, of an engine that is there."""

from __future__ import annotations

import json
import subprocess
from typing import Any


def docker(*arguments: str, timeout_s: float = 60) -> str:
    """What it printed. Raises AssertionError if it fails, with all that it said."""
    run = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert run.returncode == 0, f"docker {' '.join(arguments)}: {run.stdout[-20_000:]}{run.stderr[-20_000:]}"
    return run.stdout


def missing() -> str | None:
    """What a stack needs and is not there."""
    for command in (["version"], ["buildx", "version"], ["compose", "version"]):
        try:
            docker(*command)
        except (AssertionError, FileNotFoundError) as problem:
            return str(problem)
    return None


def inspect(name: str) -> dict[str, Any]:
    """A container or an image."""
    found: list[dict[str, Any]] = json.loads(docker("inspect", name))
    return found[0]


def run_in(image: str, *command: str) -> str:
    """The output of a command in a new container, without network, as the image's own user."""
    return docker("run", "--rm", "--network=none", "--entrypoint", command[0], image, *command[1:])
