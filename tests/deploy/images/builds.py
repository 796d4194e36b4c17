"""The images, built: on official ones where a registry answers, else on a Debian that is made here."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.install import TORCH_CPU_INDEX
from tests.deploy.images.docker import docker
from tests.deploy.programs import Program

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
FOLDER = ROOT / "build/images"
DEBIAN = "debian:bookworm-slim"
LOCAL_DEBIAN = "localhost/adaptive-lora/bookworm:local"
STAND_INS = {
    "REDIS_IMAGE": "redis",
    "POSTGRES_IMAGE": "postgres",
    "PROMETHEUS_IMAGE": "prometheus",
    "ALERTMANAGER_IMAGE": "alertmanager",
    "PROXY_IMAGE": "caddy",
}
GATEWAY, ENGINE = "adaptive-lora-gateway:test", "adaptive-lora-cpu:test"
TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
OF_PIP = ("cert", "default-timeout", "extra-index-url", "index-url", "proxy", "trusted-host")
"""Options of this machine's pip that are good in a build, too."""
INDEX_PORT = 18765
"""Always the same: what a build is told is a part of its cache's key."""
BUILD_S = 1800


def has_registry() -> bool:
    """Whether official images can be had. TEST_IMAGES_FROM=debian says no without asking."""
    if os.environ.get("TEST_IMAGES_FROM") == "debian":
        return False
    return subprocess.run(["docker", "pull", "-q", DEBIAN], capture_output=True, check=False).returncode == 0


def build_all(*, registry: bool) -> dict[str, float]:
    """Seconds of each build."""
    seconds = {}

    def timed(tag: str, *options: str) -> None:
        began = time.monotonic()
        docker("buildx", "build", "--load", f"--tag={tag}", *options, timeout_s=BUILD_S)
        seconds[tag] = round(time.monotonic() - began)

    with _options(registry=registry) as options:
        for target, tag in (("gateway", GATEWAY), ("engine-cpu", ENGINE)):
            timed(tag, f"--target={target}", "--file=Dockerfile.prod", *options, str(ROOT))
        for name in () if registry else STAND_INS.values():
            file = f"--file={HERE / 'stand-ins.Dockerfile'}"
            timed(stand_in(name), f"--target={name}", file, *options, str(HERE))
    return seconds


def stand_in(name: str) -> str:
    return f"localhost/adaptive-lora/{name}:local"


@contextmanager
def _options(*, registry: bool) -> Iterator[list[str]]:
    """Of `docker build`. Without a registry, packages come from where this machine has them."""
    if registry:
        yield []
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    _make_debian()
    configuration = FOLDER / "pip.conf"
    configuration.write_text(_pip_configuration())
    index = _torch_index()
    try:
        yield [
            "--network=host",
            f"--build-arg=DEBIAN_IMAGE={LOCAL_DEBIAN}",
            f"--build-arg=TORCH_INDEX={index.url}",
            f"--secret=id=pip.conf,src={configuration}",
        ]
    finally:
        index.close()


def _make_debian() -> None:
    """As debian:bookworm-slim is made: the smallest variant, without pages and translations. It trusts what
    this machine trusts."""
    if docker("images", "-q", LOCAL_DEBIAN):
        return
    archive = FOLDER / "bookworm.tar"
    left_out = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*/LC_MESSAGES/*.mo")
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,usr-is-merged"),
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in left_out),
        '--aptopt=Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";',
        f"--customize-hook=upload {TRUSTED} {TRUSTED}",
        *("bookworm", str(archive)),
    ]
    subprocess.run(command, check=True, capture_output=True)
    docker("import", str(archive), LOCAL_DEBIAN)
    archive.unlink()


def _pip_configuration() -> str:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    )
    options = {"cert": str(TRUSTED)}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        name, text = name.rpartition(".")[2], str(ast.literal_eval(value))
        if name in OF_PIP and "file:" not in text:
            options[name] = str(TRUSTED) if name == "cert" else text
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in options.items()), ""])


def _torch_index() -> Program:
    """Serves torch's CPU build, which this machine's pip may have from elsewhere than PyTorch."""
    folder = FOLDER / "index/torch"
    lock = ROOT / "requirements/torch-cpu.txt"
    version = lock.read_text().splitlines()[-1].partition("==")[2]
    if not list(folder.glob(f"torch-{version}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        options = ["--python-version=3.11", f"--extra-index-url={TORCH_CPU_INDEX}", f"--dest={folder}"]
        subprocess.run([*command, *options, f"--requirement={lock}"], check=True, capture_output=True)
    serve = [sys.executable, "-m", "http.server", str(INDEX_PORT), "--bind=127.0.0.1"]
    return Program(FOLDER, INDEX_PORT, *serve, f"--directory={folder.parent}")
