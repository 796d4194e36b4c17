"""Blocks of README and the how-to pages, typed as they stand but for addresses and versions.

Pages: manage-adapters, batches, backup, authentication, observe, shutdown-and-drain, adapter-manifest,
deploy. Others have their tests elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from adaptive_lora.adapters.manifest import read_manifest
from tests.adapter_folders import verified, write_adapter, write_base
from tests.ports import free_port
from tests.postgres import PostgresServer
from tests.project.doc_blocks import block_with, blocks
from tests.storage_servers import BUCKET, CREDENTIALS, s3_server

URL = "http://127.0.0.1:8000"
BASE = "fake-base"


def typed(text: str, folder: Path, environ: Mapping[str, str] | None = None) -> str:
    """What the commands print. Fails at the first that fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"} | dict(environ or {}) | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"{text}\n{run.stdout}{run.stderr}"
    return run.stdout


@contextmanager
def serving(config: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = next(url for line in process.stderr for url in re.findall(r" at (http://\S+:\d+)", line))
            while httpx.get(f"{url}/ready").status_code != 200:
                assert process.poll() is None
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.stderr.read()


def write_config(folder: Path, **sections: Mapping[str, object]) -> Path:
    write_adapter(folder / "fleet" / "code", base_model=BASE)
    settings: dict[str, object] = {
        "api": {"port": 0},
        "model": {"engine": "fake", "base_model": BASE},
        "adapters": {"path": str(folder / "fleet")},
        "storage": {"path": str(folder / "kept")},
        "router": {"use_encoder": False},
    }
    config = folder / "serving.yaml"
    config.write_text(json.dumps(settings | sections))
    return config


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(write_config(tmp_path_factory.mktemp("server"))) as url:
        yield url


def test_a_version_is_rolled_out_and_back(server: str, tmp_path: Path) -> None:
    """The blocks of docs/how-to/manage-adapters.md, then README.md's."""
    versions = {}
    for seed, folder in enumerate(("law", "law-2", "code-2"), start=1):
        name = folder.removesuffix("-2")
        path = write_adapter(tmp_path / "my-adapters" / folder, name=name, base_model=BASE, seed=seed)
        versions[folder] = verified(path, base_model=BASE).version
    environ = {"ADAPTIVE_LORA_SERVER": server}
    law, rolled_out, aliased = (block.text for block in blocks("docs/how-to/manage-adapters.md", "bash"))
    assert f"law@{versions['law']}: ready" in typed(law, tmp_path, environ)
    shown = typed(rolled_out.replace("5d21c0", versions["law-2"][:6]), tmp_path, environ)
    assert f"law@canary is version {versions['law-2']}, 10% of the traffic" in shown
    typed(aliased.replace("3f9c2a", versions["law"][:6]), tmp_path, environ)
    readme = block_with("README.md", "adapters promote code").text.replace(".venv/bin/", "")
    assert "code@prod" in typed(readme.replace("5d21c0", versions["code-2"][:6]), tmp_path, environ)
    served = httpx.get(f"{server}/adapters/law").json()
    assert {alias["version"] for alias in served["aliases"] if alias["alias"] == "prod"} == {versions["law"]}


def test_a_batch(server: str, tmp_path: Path) -> None:
    begin, read, python = (
        block.text for block in blocks("docs/how-to/batches.md") if block.language != "text"
    )
    batch = json.loads(typed(begin.replace(URL, server), tmp_path))
    while batch["status"] != "completed":
        assert batch["status"] in ("validating", "in_progress", "finalizing")
        time.sleep(0.1)
        batch = httpx.get(f"{server}/v1/batches/{batch['id']}").json()
    environ = {"URL": f"{server}/v1", "OUTPUT_FILE_ID": batch["output_file_id"]}
    (line,) = typed(read, tmp_path, environ).splitlines()
    assert json.loads(line)["custom_id"] == "one"
    script = tmp_path / "batch.py"
    script.write_text(python.replace(URL, server))
    shown = typed(f"{sys.executable} {script}", tmp_path)
    assert shown.startswith("completed")
    assert '"two"' in shown


class Guarded(NamedTuple):
    """A server that asks who calls, and a key that may do everything."""

    url: str
    admin_port: int
    config: Path
    key: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, admin_port = tmp_path_factory.mktemp("guarded"), free_port()
    config = write_config(folder, auth={"enabled": True}, api={"port": 0, "admin_port": admin_port})
    minted = typed(f"adaptive-lora keys mint root --scope admin --json -c {config}", folder)
    with serving(config) as url:
        yield Guarded(url, admin_port, config, json.loads(minted)["key"])


def test_keys(guarded: Guarded, tmp_path: Path) -> None:
    """docs/how-to/authentication.md: keys by the database, with a key, and by the administrators' port."""
    page, environ = "docs/how-to/authentication.md", {"ADAPTIVE_LORA_CONFIG": str(guarded.config)}
    shown = typed(block_with(page, "keys mint ops").text, tmp_path, environ)
    ops, _ = re.findall(r"\balk_[\w-]+", shown)
    # An administrator revokes keys of its own tenant; the page's shop has another.
    (shop,) = re.findall(
        r"\balk_[\w-]+", typed("adaptive-lora keys mint shop --scope generate", tmp_path, environ)
    )
    called = block_with(page, "export ADAPTIVE_LORA_API_KEY").text
    called = called.replace("alk_...", ops).replace(URL, guarded.url).replace("curl", "curl -sf")
    while status_for(guarded, ops) != 200:  # within a second
        time.sleep(0.1)
    assert '"code"' in typed(called, tmp_path, {"ADAPTIVE_LORA_SERVER": guarded.url})
    elsewhere = block_with(page, "export ADAPTIVE_LORA_ADMIN_SERVER").text
    elsewhere = elsewhere.replace("8001", str(guarded.admin_port))
    identity = shop.removeprefix("alk_").partition("_")[0]
    typed(elsewhere.replace("e516b3a75f24", identity), tmp_path, {"ADAPTIVE_LORA_API_KEY": ops})
    while status_for(guarded, shop) != 401:  # within a second
        time.sleep(0.1)


def status_for(server: Guarded, key: str) -> int:
    return httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def test_verify(guarded: Guarded, tmp_path: Path) -> None:
    """docs/how-to/deploy.md"""
    script = block_with("docs/how-to/deploy.md", "export API=").text
    script = script.replace("https://api.your-domain.com", guarded.url).replace("alk_...", guarded.key)
    shown = typed(script, tmp_path)
    for expected in ('"status"', '"confidence"', "api_requests_total"):
        assert expected in shown
    assert httpx.post(f"{guarded.url}/generate", json={"prompt": "hello"}).status_code == 401


def test_a_look_into_a_process(guarded: Guarded, tmp_path: Path) -> None:
    """docs/how-to/observe.md, a second each."""
    script = "".join(block.text for block in blocks("docs/how-to/observe.md", "bash"))
    script = script.replace("alk_...", guarded.key).replace("8001", str(guarded.admin_port))
    script = re.sub(r"(seconds[ =])10", r"\g<1>1", script).replace("curl", "curl -sf")
    assert "gpu_memory_allocated" in typed(script, tmp_path)
    assert json.loads((tmp_path / "profile.speedscope.json").read_text())["profiles"]
    assert (tmp_path / "stacks.txt").read_text()


def test_a_token(tmp_path: Path) -> None:
    script = block_with("docs/how-to/authentication.md", "token mint ann").text
    assert re.search(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", typed(script, tmp_path))


@pytest.mark.acceptance  # twenty seconds, most of them the clients of S3
def test_back_up_and_restore(tmp_path: Path, state_home: Path) -> None:
    script = block_with("docs/how-to/backup.md", "openssl rand").text.replace("your-bucket", BUCKET)
    save, restore, rest = script.partition("adaptive-lora restore")
    with s3_server() as url:
        environ = CREDENTIALS | {"AWS_ENDPOINT_URL": url}
        typed("adaptive-lora keys mint ops --scope admin", tmp_path, environ)
        typed(save, tmp_path, environ)
        shutil.rmtree(state_home)
        state_home.mkdir()
        typed(restore + rest, tmp_path, environ)
    assert "ops" in typed("adaptive-lora keys list", tmp_path)


def test_from_sqlite_to_postgresql(tmp_path: Path, postgres: PostgresServer) -> None:
    (script,) = (block.text for block in blocks("docs/how-to/backup.md", "bash") if "./move" in block.text)
    url = postgres.url(postgres.new_database())
    typed("adaptive-lora keys mint ops --scope admin", tmp_path)
    typed(script.replace("postgresql://user:password@host:5432/database", f"'{url}'"), tmp_path)
    assert "ops" in typed("adaptive-lora keys list", tmp_path, {"DATABASE_URL": url})


def test_a_drain(tmp_path: Path) -> None:
    """docs/how-to/shutdown-and-drain.md. The server is up when it says so, not after the page's 5 s."""
    port = str(free_port())
    script = block_with("docs/how-to/shutdown-and-drain.md", "DRAIN_SECONDS=5").text
    waits = "until curl -sf localhost:8000/ready; do sleep 0.2; done;"
    script = script.replace("sleep 5;", waits).replace("sleep 1", "sleep 0.5")
    assert waits in script
    script = script.replace("localhost:8000", f"localhost:{port}") + "wait\n"
    shown = typed(script, tmp_path, {"ADAPTIVE_LORA_API__PORT": port})
    assert "draining" in shown
    assert "200 OK" in shown


def test_a_manifest_is_written(tmp_path: Path) -> None:
    (block,) = blocks("docs/reference/adapter-manifest.md", "python")
    write_base(tmp_path / "base")
    folder = write_adapter(tmp_path / "my-adapters" / "code")
    (folder / "manifest.json").unlink()
    script = tmp_path / "write.py"
    script.write_text(block.text.replace("/models/Meta-Llama-3-8B", str(tmp_path / "base")))
    typed(f"{sys.executable} {script}", tmp_path)
    assert read_manifest(folder).description == "Writes Python functions"
