"""The base model's download: the script itself, against a hub of our own, interrupted in every way."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptive_lora.adapters.base import describe_base
from adaptive_lora.adapters.hub import SOURCE_NAME, HubRepo, download_model
from adaptive_lora.adapters.transfer import ATTEMPTS, PIECE_BYTES, download
from adaptive_lora.errors import Conflict, HashMismatch, StorageFull, StorageUnavailable, UnsafeFile
from tests.adapter_folders import write_base
from tests.disks import small_disk
from tests.hub_server import GOOD_TOKEN, FakeHub, Repo, use_endpoint
from tests.storage_servers import FaultyProxy

ROOT = Path(__file__).parents[2]
COMMIT = "c" * 40
LARGE_BYTES = 2 * PIECE_BYTES + 1_000_000
JUNK = {
    "pytorch_model.bin": b"pickle",
    "original/consolidated.00.pth": b"pickle",
    "modeling_custom.py": b"import os",
    "consolidated.safetensors": b"twice",
    ".gitattributes": b"",
    "onnx/model.onnx": b"",
}


@pytest.fixture
def model(tmp_path: Path) -> dict[str, bytes]:
    folder = write_base(tmp_path / "made" / "base")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {
        "tokenizer.json": b"{}" + b" " * 5_000,
        "merges.txt": b"a b",
        "large.safetensors": os.urandom(LARGE_BYTES),
        "LICENSE": b"free",
    }


@pytest.fixture
def hub(model: dict[str, bytes]) -> Iterator[FakeHub]:
    repos = {
        "org/model": Repo(model | JUNK, {"v1": COMMIT}, commit=COMMIT),
        "org/gated": Repo(model, gated=True, commit=COMMIT),
        "org/pickled": Repo({"config.json": b"{}", "pytorch_model.bin": b"pickle"}),
    }
    with FakeHub(repos) as hub:
        yield hub
        assert hub.leaks == []


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), *arguments]


def environment(endpoint: str, **more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ADAPTIVE_LORA_"))
    }
    kept.pop("BASE_MODEL", None)
    return kept | {"HF_ENDPOINT": endpoint, "HF_HOME": "/nonexistent"} | more


def run(folder: Path, endpoint: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("--download-model", *arguments),
        cwd=folder,
        env=environment(endpoint, **more),
        capture_output=True,
        text=True,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SOURCE_NAME}


def test_the_guides_command_downloads_the_base_model(
    hub: FakeHub, model: dict[str, bytes], tmp_path: Path
) -> None:
    done = run(tmp_path, hub.url, BASE_MODEL="org/model")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "model"
    assert contents(folder) == model, "and nothing that could run"
    assert f"org/model is at commit {COMMIT}" in done.stderr
    assert json.loads(done.stdout)["commit"] == COMMIT
    source = json.loads((folder / SOURCE_NAME).read_text())
    assert (source["repository"], source["commit"]) == ("org/model", COMMIT)
    assert sorted(source["files"]) == sorted(model)
    n_read = sum("/resolve/" in path for path in hub.seen)
    again = run(tmp_path, hub.url, "--model", "org/model", "--revision", "v1")
    assert again.returncode == 0
    assert "complete and unchanged" in again.stderr
    assert sum("/resolve/" in path for path in hub.seen) == n_read, "nothing was downloaded twice"


def test_the_folder_is_a_base_model(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(hub.url, monkeypatch)
    hub.repos["org/model"].files = {  # type: ignore[misc]
        name: content for name, content in hub.repos["org/model"].files.items() if name != "large.safetensors"
    }
    downloaded = download_model("org/model", tmp_path / "model")
    assert describe_base("model", downloaded.folder).fingerprint is not None
    original = describe_base("base", tmp_path / "made" / "base")
    assert describe_base("model", downloaded.folder).fingerprint == original.fingerprint


def test_the_demo_and_a_folder_need_no_download(hub: FakeHub, tmp_path: Path) -> None:
    demo = run(tmp_path, hub.url)
    assert demo.returncode == 0
    assert "part of the repository" in demo.stderr
    folder = run(tmp_path, hub.url, BASE_MODEL=str(tmp_path))
    assert folder.returncode == 0
    assert "nothing to download" in folder.stderr
    nothing = subprocess.run(command(), capture_output=True, text=True, check=False)
    assert nothing.returncode == 2
    assert "--download-model" in nothing.stderr


def test_a_gated_model_says_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    for more in ({}, {"HF_TOKEN": "hf_other"}):
        refused = run(tmp_path, hub.url, BASE_MODEL="org/gated", **more)
        assert refused.returncode == 1
        assert "accept its conditions at https://huggingface.co/org/gated" in refused.stderr
        assert "HF_TOKEN" in refused.stderr
        assert "hf_other" not in refused.stderr
    assert run(tmp_path, hub.url, BASE_MODEL="org/gated", HF_TOKEN=GOOD_TOKEN).returncode == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/absent", "check the name, or set HF_TOKEN"),
        ("org/pickled", "no config.json with safetensors weights"),
        ("a/b/c", "is no name of a model"),
    ],
)
def test_what_cannot_be_downloaded_is_one_line(hub: FakeHub, name: str, says: str, tmp_path: Path) -> None:
    refused = run(tmp_path, hub.url, "--model", name)
    assert refused.returncode == 1
    assert says in refused.stderr
    assert refused.stderr.strip().count("\n") == 0
    assert not (tmp_path / "models").exists()


def test_no_network_is_one_line(tmp_path: Path) -> None:
    refused = run(tmp_path, "http://127.0.0.1:9", BASE_MODEL="org/model")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: asking for org/model failed 5 times (ConnectError")
    offline = run(tmp_path, "http://127.0.0.1:9", BASE_MODEL="org/model", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in offline.stderr


def test_killed_at_any_moment_it_goes_on(hub: FakeHub, model: dict[str, bytes], tmp_path: Path) -> None:
    """Through a network that is slow and cuts. The folder appears only when it is whole."""
    folder = tmp_path / "models" / "model"
    partial = folder.with_name("model.partial")
    n_partial = 0
    with FaultyProxy(hub.cdn_url) as network:
        hub.cdn_url = network.url
        for _ in range(8):
            network.fail(*random.choices(["slow", "cut", "500"], k=4), method="GET", part="large")
            with subprocess.Popen(
                command("--download-model"),
                cwd=tmp_path,
                env=environment(hub.url, BASE_MODEL="org/model"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                while process.poll() is None and not partial.exists():
                    time.sleep(0.01)
                time.sleep(random.uniform(0, 1.0))
                process.kill()
            n_partial += partial.exists()
            if folder.exists():
                assert contents(folder) == model
                assert not partial.exists()
                shutil.rmtree(folder)
        network.fail()
        done = run(tmp_path, hub.url, BASE_MODEL="org/model")
    assert done.returncode == 0, done.stderr
    assert contents(folder) == model
    assert not partial.exists()
    assert n_partial > 0, "some were killed in the middle"


def test_an_interrupted_file_is_not_downloaded_again(
    hub: FakeHub, model: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(hub.url, monkeypatch)
    partial = tmp_path / "model.partial"
    partial.mkdir()
    (partial / "large.safetensors").write_bytes(model["large.safetensors"][:-1_000])
    (partial / "stranger.py").write_text("import os")
    download_model("org/model", tmp_path / "model")
    assert contents(tmp_path / "model") == model
    (large,) = [seen for seen in hub.seen if "large.safetensors" in seen]
    assert large.endswith(f"bytes={LARGE_BYTES - 1_000}-{LARGE_BYTES - 1}")


def test_what_is_in_the_way_is_said(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(hub.url, monkeypatch)
    (tmp_path / "other").mkdir()
    with pytest.raises(Conflict, match="something else"):
        download_model("org/model", tmp_path / "other")
    downloaded = download_model("org/model", tmp_path / "model")
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    with pytest.raises(Conflict, match="org/model at cccccccccccc, not org/gated"):
        download_model("org/gated", tmp_path / "model")
    (downloaded.folder / "merges.txt").write_bytes(b"a c")
    with pytest.raises(HashMismatch, match=r"merges\.txt"):
        download_model("org/model", tmp_path / "model")


def test_damage_on_the_way_is_never_served(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(hub.url, monkeypatch)
    with FaultyProxy(hub.cdn_url) as network:
        hub.cdn_url = network.url
        network.fail("flip", part="large")
        with pytest.raises(HashMismatch):
            download_model("org/model", tmp_path / "model")
        assert not (tmp_path / "model").exists()
        download_model("org/model", tmp_path / "model")


def test_a_full_disk_is_said_and_can_be_made_room_on(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(hub.url, monkeypatch)
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull):
            download_model("org/model", disk / "model")
        assert not (disk / "model").exists()


def test_a_model_without_safetensors_is_refused(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(hub.url, monkeypatch)
    with pytest.raises(UnsafeFile):
        download_model("org/pickled", tmp_path / "model")


def test_a_hub_that_answers_with_nothing_is_given_up(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that knows no ranges, and sends less than the file has: no reading gets further."""
    monkeypatch.setattr("adaptive_lora.adapters.transfer.FIRST_WAIT_S", 0.001)
    use_endpoint(hub.url, monkeypatch)
    repo = HubRepo("org/model")
    size = repo.size_of("LICENSE")
    hub.empty.add("LICENSE")
    n_before = len(hub.seen)
    with pytest.raises(StorageUnavailable, match="0 bytes came instead of 4"):
        download(repo, "LICENSE", tmp_path / "LICENSE", size=size, checksum=None)
    assert len(hub.seen) - n_before == ATTEMPTS
