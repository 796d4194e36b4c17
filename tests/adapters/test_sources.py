"""Adapters fetched from a folder, S3 and the hub: what the manifest lists, checked, pinned, or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptive_lora.adapters import transfer
from adaptive_lora.adapters.files import WEIGHTS_NAME, Limits
from adaptive_lora.adapters.manifest import MANIFEST_NAME
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.adapters.sources import fetch_source
from adaptive_lora.errors import (
    HashMismatch,
    InvalidRequest,
    ManifestInvalid,
    NotFound,
    SourceNotAllowed,
    StorageError,
    StorageUnavailable,
    UnsafeArchive,
    UnsafeLink,
)
from tests.adapter_folders import write_adapter
from tests.hub_server import GOOD_TOKEN, FakeHub, Repo, use_endpoint
from tests.storage_servers import BUCKET, CREDENTIALS, FaultyProxy, s3_server

LIMITS = Limits(max_bytes=1_000_000, max_files=8)
COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """With company that must stay behind."""
    path = write_adapter(tmp_path / "made" / "code", name="code", base_model="demo")
    (path / "optimizer.pt").write_bytes(b"pickle")
    (path / "checkpoint-100").mkdir()
    return path


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    path = tmp_path / "destination"
    path.mkdir()
    return path


def listed(adapter: Path) -> dict[str, bytes]:
    return {
        name: (adapter / name).read_bytes() for name in (MANIFEST_NAME, WEIGHTS_NAME, "adapter_config.json")
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(
    error: type[Exception],
    uri: str,
    destination: Path,
    *,
    allowed: str | None = None,
    limits: Limits = LIMITS,
) -> str:
    with pytest.raises(error) as caught:
        fetch_source(uri, destination, allowed=[allowed or uri], limits=limits)
    assert list(destination.iterdir()) == []
    return str(caught.value)


def test_a_local_folder(adapter: Path, destination: Path) -> None:
    pinned = fetch_source(str(adapter), destination, allowed=[str(adapter.parent)], limits=LIMITS)
    assert pinned == f"file://{adapter}"
    assert contents(destination) == listed(adapter)


def test_what_is_not_allowed_is_not_even_looked_at(adapter: Path, destination: Path) -> None:
    for uri in (str(adapter), str(adapter.parent / "absent"), "s3://bucket/a", "hf://org/repo"):
        refused(SourceNotAllowed, uri, destination, allowed="gs://bucket")


def test_links_are_refused(adapter: Path, destination: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(adapter)
    refused(InvalidRequest, str(tmp_path / "link"), destination, allowed=str(tmp_path))
    (adapter / "adapter_config.json").unlink()
    (adapter / "adapter_config.json").symlink_to("/etc/passwd")
    refused(UnsafeLink, str(adapter), destination)


def test_a_manifest_that_lists_what_it_should_not(adapter: Path, destination: Path) -> None:
    manifest = json.loads((adapter / MANIFEST_NAME).read_text())
    for name in ("../../etc/passwd", "/etc/passwd", "a/b"):
        manifest["files"] = {name: "0" * 64}
        (adapter / MANIFEST_NAME).write_text(json.dumps(manifest))
        with pytest.raises(Exception, match="plain file names"):
            fetch_source(str(adapter), destination, allowed=[str(adapter)], limits=LIMITS)
        assert list(destination.iterdir()) == []


def test_a_folder_without_a_manifest_or_with_less_than_it_lists(adapter: Path, destination: Path) -> None:
    (adapter / "adapter_config.json").unlink()
    refused(NotFound, str(adapter), destination)
    (adapter / MANIFEST_NAME).unlink()
    assert "manifest.json" in refused(ManifestInvalid, str(adapter), destination)


def test_limits(adapter: Path, destination: Path) -> None:
    size = sum(map(len, listed(adapter).values()))
    refused(UnsafeArchive, str(adapter), destination, limits=Limits(size - 1, 8))
    refused(UnsafeArchive, str(adapter), destination, limits=Limits(size, 2))
    refused(UnsafeArchive, str(adapter), destination, limits=Limits(10, 8))
    fetch_source(str(adapter), destination, allowed=[str(adapter)], limits=Limits(size, 3))


def test_a_file_that_differs_from_its_manifest(adapter: Path, destination: Path) -> None:
    content = bytearray((adapter / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (adapter / WEIGHTS_NAME).write_bytes(content)
    refused(HashMismatch, str(adapter), destination)


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with s3_server() as url, FaultyProxy(url) as proxy:
        yield proxy


@pytest.fixture
def s3_uri(adapter: Path, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    proxy.fail()
    monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.01)
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{BUCKET}/{tmp_path.name}/code"
    folder = ObjectFolder.at(uri)
    for name, content in (listed(adapter) | {"optimizer.pt": b"pickle"}).items():
        folder.write(name, content)
    return uri


def test_s3(s3_uri: str, adapter: Path, destination: Path, proxy: FaultyProxy) -> None:
    proxy.fail("500", "cut", method="GET")
    assert fetch_source(s3_uri, destination, allowed=[f"s3://{BUCKET}"], limits=LIMITS) == s3_uri
    assert contents(destination) == listed(adapter)
    assert not any("optimizer" in path for _, path, _ in proxy.seen)


def test_s3_that_stays_away(s3_uri: str, destination: Path, proxy: FaultyProxy) -> None:
    proxy.fail(*["500"] * 50, method="GET", part=WEIGHTS_NAME)
    refused(StorageUnavailable, s3_uri, destination)


@pytest.fixture
def hub(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    files = listed(adapter) | {"training_args.bin": b"pickle", ".gitattributes": b""}
    below = {f"adapters/code/{name}": content for name, content in files.items()}
    repos = {
        "org/code": Repo(files, {"v1": COMMIT, OTHER_COMMIT: OTHER_COMMIT}, commit=COMMIT),
        "org/many": Repo(below, commit=COMMIT),
        "org/gated": Repo(files, gated=True),
        "org/private": Repo(files, private=True),
    }
    with FakeHub(repos) as hub:
        use_endpoint(hub.url, monkeypatch)
        monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.01)
        monkeypatch.setenv("HF_TOKEN", "")
        yield hub
        assert hub.leaks == []


@pytest.mark.parametrize(
    ("uri", "pinned"),
    [
        ("hf://org/code", f"hf://org/code@{COMMIT}"),
        ("hf://org/code@v1", f"hf://org/code@{COMMIT}"),
        (f"hf://org/code@{OTHER_COMMIT}", f"hf://org/code@{OTHER_COMMIT}"),
        ("hf://org/many/adapters/code", f"hf://org/many@{COMMIT}/adapters/code"),
    ],
)
def test_the_hub_is_pinned_to_a_commit(
    hub: FakeHub, uri: str, pinned: str, adapter: Path, destination: Path
) -> None:
    assert fetch_source(uri, destination, allowed=["hf://org"], limits=LIMITS) == pinned
    assert contents(destination) == listed(adapter)
    assert not any(".bin" in path for path in hub.seen)
    commit = pinned.partition("@")[2][:40]
    assert all(commit in path for path in hub.seen if "/resolve/" in path), (
        "read at the commit, not the branch"
    )


def test_what_the_hub_refuses(
    hub: FakeHub, destination: Path, monkeypatch: pytest.MonkeyPatch, adapter: Path
) -> None:
    assert "set HF_TOKEN" in refused(NotFound, "hf://org/private", destination)
    assert "knows no model" in refused(NotFound, "hf://org/absent", destination)
    assert "no such revision" in refused(NotFound, "hf://org/code@v9", destination, allowed="hf://org")
    assert "accept its conditions" in refused(StorageError, "hf://org/gated", destination)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "accept its conditions" in refused(StorageError, "hf://org/gated", destination)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    fetch_source("hf://org/gated", destination, allowed=["hf://"], limits=LIMITS)
    assert contents(destination) == listed(adapter)


def test_a_hub_that_is_not_there(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.01)
    assert "failed 5 times" in refused(StorageUnavailable, "hf://org/code", destination)


def test_the_cdn_behind_a_bad_network(hub: FakeHub, adapter: Path, destination: Path) -> None:
    with FaultyProxy(hub.cdn_url) as network:
        hub.cdn_url = network.url
        network.fail("500", "cut", "truncate", "refuse")
        fetch_source("hf://org/code", destination, allowed=["hf://org"], limits=LIMITS)
        assert not network.faults
    assert contents(destination) == listed(adapter)


def test_a_destination_that_is_not_empty_is_our_own_mistake(adapter: Path, destination: Path) -> None:
    (destination / "there").write_bytes(os.urandom(1))
    with pytest.raises(ValueError, match="not empty"):
        fetch_source(str(adapter), destination, allowed=[str(adapter)], limits=LIMITS)
