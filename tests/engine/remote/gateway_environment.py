"""The environment of a gateway's image: requirements/gateway.txt and this package; no torch, no vLLM."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "requirements" / "gateway.txt"


def gateway_python(scratch: Path) -> Path:
    """The interpreter of that environment. What the lock names is installed once, this package every time."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = Path(tempfile.gettempdir()) / f"adaptive-lora-gateway-{digest}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        _run(sys.executable, "-m", "venv", "--clear", home)
        _run(python, *PIP, "--require-hashes", "-r", LOCK)
        (home / "complete").touch()
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", scratch, ROOT)
    (wheel,) = scratch.glob("adaptive_lora-*.whl")
    _run(python, *PIP, "--no-index", "--force-reinstall", wheel)
    return python


PIP = ("-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check")


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=tempfile.gettempdir())
