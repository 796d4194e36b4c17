"""kubectl and its like, locked (requirements/manifests.txt, crds/package-lock.json), in build/manifests."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from scripts import install
from tests.deploy.kube_api import OF_OPERATORS
from tests.deploy.manifests import IN_ORDER, OVERLAYS, ROOT, Manifest

TOOLS = ROOT / "build/manifests"
CRDS = Path(__file__).with_name("crds")
BUILDS = [
    "k8s",
    *(str(path.relative_to(ROOT)) for path in IN_ORDER),
    *(f"k8s/overlays/{name}" for name in OVERLAYS),
]


@cache
def install_tools() -> None:
    """Once in a process; nothing is done for what is there."""
    install.install_tools("manifests")
    if not shutil.which("npm"):
        pytest.fail("npm is not here, which the definitions of custom resources come by: install Node.js")
    packages, stamp = CRDS / "package-lock.json", TOOLS / "crds/.installed-package-lock.json"
    if not stamp.is_file() or stamp.read_bytes() != packages.read_bytes():
        (TOOLS / "crds").mkdir(exist_ok=True)
        shutil.copy(CRDS / "package.json", TOOLS / "crds")
        shutil.copy(packages, TOOLS / "crds")
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=TOOLS / "crds", check=True)
        shutil.copy(packages, stamp)


def tool(name: str, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(TOOLS), "KUBECONFIG": os.devnull}
    command = [str(TOOLS / "bin" / name), *arguments]
    return subprocess.run(
        command, input=given, env=environ, cwd=ROOT, capture_output=True, text=True, check=False
    )


@cache
def built_text(folder: str) -> str:
    run = tool("kubectl", "kustomize", folder)
    assert run.returncode == 0, run.stderr
    return run.stdout


def built(folder: str) -> list[Manifest]:
    return list(yaml.safe_load_all(built_text(folder)))


def is_custom(manifest: Manifest) -> bool:
    return manifest["apiVersion"] in OF_OPERATORS
