"""scripts/install.py: which build, which Python, and what it says when it cannot go on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install.py"
A100 = ("NVIDIA A100-SXM4-80GB", 580, 8.0, 81920)


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nvidia_smis_rows_are_read(install: ModuleType) -> None:
    output = "NVIDIA A100-SXM4-80GB, 580.65.06, 8.0, 81920\nTesla, K80, 470.1, 3.7, 11441\n"
    assert install.parse_gpus(output) == [A100, ("Tesla, K80", 470, 3.7, 11441)]
    assert "not understood: Field" in install.parse_gpus("Field not found\n")
    assert "not understood" in install.parse_gpus("NVIDIA GB10, 580.95, 12.1, [N/A]\n")


@pytest.mark.parametrize(
    ("gpus", "engine", "why"),
    [
        ([A100], "gpu", "NVIDIA A100-SXM4-80GB, driver 580"),
        ([("old", 570, 8.0, 81920)], "cpu", "old: driver 570, at least 580 is needed"),
        ([("V100", 580, 7.0, 32768)], "cpu", "V100: compute capability 7.0, 7.5 is needed"),
        ([("small", 580, 8.6, 8192)], "cpu", "small: 8192 MiB of memory"),
        ([("small", 580, 8.6, 8192), A100], "gpu", "A100"),
        ([], "cpu", "nvidia-smi lists no GPU"),
        ("nvidia-smi failed: x", "cpu", "nvidia-smi failed: x"),
    ],
)
def test_the_cuda_build_only_where_it_can_run(
    install: ModuleType, gpus: object, engine: str, why: str
) -> None:
    chosen, reason = install.choose_engine("", gpus)
    assert chosen == engine
    assert why in reason


def test_the_engine_can_be_forced(install: ModuleType) -> None:
    assert install.choose_engine("gpu", "no GPU")[0] == "gpu"
    assert install.choose_engine("cpu", [A100])[0] == "cpu"
    with pytest.raises(install.Stop, match="must be cpu or gpu"):
        install.choose_engine("tpu", [])


def test_no_gpu_here_or_a_readable_one(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert install.query_gpus() == "no NVIDIA driver here (nvidia-smi not found)"


def test_macos_and_windows_get_a_container_command(install: ModuleType) -> None:
    for system, name in (("Darwin", "macOS"), ("Windows", "Windows")):
        with pytest.raises(install.Stop) as caught:
            install.check_platform(system, "arm64")
        assert name in str(caught.value)
        assert "docker run" in str(caught.value)
    with pytest.raises(install.Stop, match="riscv64"):
        install.check_platform("Linux", "riscv64")
    for machine in ("x86_64", "aarch64"):
        install.check_platform("Linux", machine)


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_an_interpreter_of_a_supported_version_is_found(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    old = executable(tmp_path / "old", "echo 3.10")
    executable(tmp_path / "python3.12", "exit 127")  # a shim without its version
    executable(tmp_path / "python3", "echo 3.14")
    with pytest.raises(install.Stop, match=r"Python 3\.11, 3\.12 or 3\.13 is needed"):
        install.find_python(old)
    good = executable(tmp_path / "python3.13", "echo 3.13")
    assert install.find_python(old) == good


def test_a_python_without_venv_is_told_how_to_get_it(install: ModuleType, tmp_path: Path) -> None:
    said = "The virtual environment was not created successfully because ensurepip is not available."
    python = executable(tmp_path / "python", f'case "$1" in -c) echo 3.12;; *) echo "{said}"; exit 1;; esac')
    with pytest.raises(install.Stop, match=r"apt-get install python3\.12-venv"):
        install.make_venv(python, tmp_path / "venv")


def test_a_lock_is_installed_once_and_again_when_it_changes(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "cpu.txt"
    lock.write_text("a==1\n")
    calls = []
    monkeypatch.setattr(install, "pip_install", lambda venv, *arguments: calls.append(arguments))
    assert not install.is_installed(tmp_path, lock)
    install.install_lock(tmp_path, lock)
    assert install.is_installed(tmp_path, lock)
    lock.write_text("a==2\n")
    assert not install.is_installed(tmp_path, lock)
    assert "--require-hashes" in calls[0]


def test_a_failed_pip_leaves_no_stamp(install: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "cpu.txt"
    lock.write_text("a==1\n")
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "python", "exit 1")
    with pytest.raises(install.Stop, match="pip failed"):
        install.install_lock(tmp_path, lock)
    assert not install.is_installed(tmp_path, lock)


def test_wrong_use_is_one_line() -> None:
    run = subprocess.run([sys.executable, SCRIPT, "everything"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == "usage: install.py dev|encoder|manifests|serve|train|workflows\n"
