"""The fleet of a running server, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from adaptive_lora.cli.app import app
from adaptive_lora.cli.client import ServerRefused
from adaptive_lora.errors import InvalidRequest
from tests.adapter_folders import verified, write_adapter

BASE = "fake-base"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own process, with the agent `code`."""
    work = tmp_path_factory.mktemp("server")
    write_adapter(work / "fleet" / "code", base_model=BASE)
    config = work / "serving.yaml"
    config.write_text(
        f"api: {{port: 0}}\nmodel: {{engine: fake, base_model: {BASE}}}\n"
        f"adapters: {{path: '{work}/fleet'}}\nstorage: {{path: '{work}/state'}}\n"
        "router: {use_encoder: false}\n"
    )
    command = [sys.executable, "-m", "adaptive_lora", "serve", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = next(line.split("Adaptive LoRA at ")[1].split()[0] for line in process.stderr if " at " in line)
        try:
            while httpx.get(f"{url}/ready").status_code != 200:
                assert process.poll() is None
            yield url
        finally:
            process.terminate()
            process.stderr.read()


@pytest.fixture
def run(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.setenv("ADAPTIVE_LORA_SERVER", server)

    def _run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["adapters", *arguments])

    return _run


def test_a_version_from_its_arrival_to_its_end(run: object, tmp_path: Path) -> None:
    assert callable(run)
    path = write_adapter(tmp_path / "code", base_model=BASE, seed=5)
    version = verified(path, base_model=BASE).version

    added = run("add", str(path), "--why", "fewer mistakes")
    assert added.exit_code == 0, added.output
    assert f"code@{version}: ready" in added.output
    assert "differs from the base by" in added.output
    shown = run("canary", "code", version, "--share", "0.25")
    assert f"code@canary is version {version}, 25% of the traffic" in shown.output
    assert "canary 25%" in run("status").output
    own = run("status", "code").output
    assert version in own
    assert "canary 25%" in own
    assert f"code@prod is version {version}" in run("promote", "code").output
    assert run("rollback", "code").exit_code == 0
    assert "pinned" in run("pin", "code", version).output
    assert "pinned" not in run("unpin", "code", version).output
    stable = json.loads(run("alias", "code", "stable", version, "--json").stdout)
    assert (stable["alias"], stable["version"]) == ("stable", version)
    refused = run("retire", "code", version)
    assert isinstance(refused.exception, ServerRefused)
    assert "stable" in refused.exception.message
    assert run("alias", "code", "stable", "--drop").exit_code == 0
    assert "retired" in run("retire", "code", version).output
    assert "unloaded" in run("restore", "code", version).output
    assert "ready" in run("load", "code", version).output
    assert "unloaded" in run("unload", "code", version).output
    run("retire", "code", version)
    assert run("delete", "code", version, "--why", "enough").exit_code == 0
    actions = [entry["action"] for entry in json.loads(run("history", "code", "--json").stdout)]
    assert actions[0] == "delete"
    assert {"add", "point", "promote", "rollback", "pin", "retire"} <= set(actions)
    history = run("history", "code", "--limit", "100").output
    assert "fewer mistakes" in " ".join(history.split())
    assert "promote prod:" in history


def test_what_is_no_adapters_folder_is_not_sent(run: object, tmp_path: Path) -> None:
    assert callable(run)
    (tmp_path / "weights.bin").write_bytes(bytes(1 << 20))
    refused = run("add", str(tmp_path))
    assert isinstance(refused.exception, InvalidRequest)
    assert "has no manifest.json" in refused.exception.message


def test_a_refusal_is_the_servers_own(run: object, tmp_path: Path) -> None:
    assert callable(run)
    path = write_adapter(tmp_path / "law", base_model="another")
    refused = run("add", str(path))
    assert isinstance(refused.exception, ServerRefused)
    assert "another" in refused.exception.message
    absent = run("add", "./nowhere")
    assert isinstance(absent.exception, InvalidRequest)
    assert "no './nowhere' here" in absent.exception.message
    unknown = run("add", "s3://bucket/law")
    assert isinstance(unknown.exception, ServerRefused)
    assert "storage.allowed_sources" in unknown.exception.message
    nobody = run("history", "cod")
    assert isinstance(nobody.exception, ServerRefused)
    assert "no adapter 'cod'" in nobody.exception.message


def test_a_server_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["adapters", "status", "--server", "http://127.0.0.1:9"])
    assert isinstance(result.exception, ServerRefused)
    assert "is the server running?" in result.exception.message
