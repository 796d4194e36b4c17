"""The store: versions appear and disappear whole, whoever is killed, whatever is full, on one host and on
others."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptive_lora.adapters import transfer
from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.files import WEIGHTS_NAME, Limits
from adaptive_lora.adapters.manifest import MANIFEST_NAME, read_manifest, write_manifest
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.adapters.sources import fetch_source
from adaptive_lora.adapters.store import Store
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.errors import (
    HashMismatch,
    NotFound,
    StorageFull,
    StorageUnavailable,
    UnsafeLink,
    UnsafeName,
)
from tests.adapter_folders import write_adapter
from tests.disks import small_disk
from tests.storage_servers import BUCKET, CREDENTIALS, Fault, FaultyProxy, s3_server

BASE = BaseModelInfo("demo")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "made" / "code", name="code", base_model="demo")


@pytest.fixture
def version(adapter: Path) -> str:
    return read_manifest(adapter).version


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def staged(store_path: Path) -> list[str]:
    return sorted(path.name for path in (store_path / "staging").iterdir())


def test_a_version_is_kept_listed_and_removed(
    store: Store, adapter: Path, version: str, tmp_path: Path
) -> None:
    assert not store.has("code", version)
    path = store.install(adapter, "code", version)
    assert path == store.path_of("code", version) == tmp_path / "store" / "adapters" / "code" / version
    assert contents(path) == contents(adapter), "a folder from elsewhere is copied"
    assert store.list() == (("code", version),)
    assert Store(tmp_path / "store").has("code", version)
    store.remove("code", version)
    store.remove("code", version)
    assert store.list() == ()
    assert staged(tmp_path / "store") == []


def test_a_staged_folder_is_moved(store: Store, adapter: Path, version: str, tmp_path: Path) -> None:
    with store.staging() as folder:
        shutil.copytree(adapter, folder / "adapter")
        inode = (folder / "adapter" / MANIFEST_NAME).stat().st_ino
        path = store.install(folder / "adapter", "code", version)
        assert (path / MANIFEST_NAME).stat().st_ino == inode
        assert not (folder / "adapter").exists()
    with store.staging() as folder:
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
        store.remove("code", version)
        store.install(folder, "code", version)
        assert not folder.exists()
    assert staged(tmp_path / "store") == []


def test_what_is_there_stays_as_it_is(store: Store, adapter: Path, version: str) -> None:
    path = store.install(adapter, "code", version)
    before = path.stat().st_ino
    assert store.install(adapter, "code", version) == path
    assert path.stat().st_ino == before


def test_many_at_once_install_one(store: Store, adapter: Path, version: str, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def install() -> None:
        try:
            Store(tmp_path / "store").install(adapter, "code", version)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert contents(store.path_of("code", version)) == contents(adapter)
    assert staged(tmp_path / "store") == []


@pytest.mark.parametrize("name", ["../code", "a/b", "", ".", "auto", "Code", "code\n", "x" * 64])
def test_a_name_outside_the_grammar_builds_no_path(store: Store, name: str) -> None:
    for ask in (store.path_of, store.has, store.remove, store.mirror, store.fetch, store.unmirror):
        with pytest.raises(UnsafeName):
            ask(name, "0" * 12)


@pytest.mark.parametrize("version", ["..", "0" * 11, "0" * 13, "A" * 12, "0" * 11 + "/", "0" * 12 + "\n", ""])
def test_a_version_outside_the_grammar_builds_no_path(store: Store, version: str) -> None:
    with pytest.raises(UnsafeName):
        store.path_of("code", version)


def test_a_link_is_not_installed(store: Store, adapter: Path, version: str, tmp_path: Path) -> None:
    (adapter / "secret.txt").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeLink):
        store.install(adapter, "code", version)
    assert not store.has("code", version)
    assert staged(tmp_path / "store") == []


def test_leftovers_of_the_dead_are_swept_and_of_the_living_are_not(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "store"
    script = (
        "import sys; from pathlib import Path; from adaptive_lora.adapters.store import Store\n"
        f"with Store(Path({str(path)!r})).staging() as folder:\n"
        "    (folder / 'half').write_text('x'); print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with store.staging():
            before = staged(path)
            assert len(before) == 4
            Store(path)
            assert staged(path) == before, "both hold theirs"
            other.kill()
            other.wait()
            Store(path)
            assert len(staged(path)) == 2
        assert staged(path) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    large = write_adapter(tmp_path / "large", name="large", base_model="demo")
    (large / "notes.txt").write_bytes(os.urandom(2_000_000))
    write_manifest(large, name="large", description="Large", examples=[], base_model="demo")
    with small_disk(tmp_path / "disk") as disk:
        store = Store(disk / "store")
        with pytest.raises(StorageFull, match="no room left"):
            store.install(large, "large", "0" * 12)
        assert store.list() == ()
        assert staged(disk / "store") == []
        with store.staging() as folder:
            with pytest.raises(StorageFull):
                fetch_source(str(large), folder, allowed=[str(tmp_path)], limits=Limits(10_000_000, 8))
            assert list(folder.iterdir()) == []
        small = write_adapter(tmp_path / "small", name="small", base_model="demo")
        store.install(small, "small", "0" * 12)


KILLED_INSTALLER = """
import shutil, sys
from pathlib import Path
from adaptive_lora.adapters.store import Store
store = Store(Path(sys.argv[1]), sys.argv[3] or None)
version = sys.argv[4]
print("ready", flush=True)
while True:
    with store.staging() as folder:
        shutil.copytree(sys.argv[2], folder / "adapter")
        store.install(folder / "adapter", "code", version)
    store.mirror("code", version)
    store.remove("code", version)
    if sys.argv[3]:
        store.fetch("code", version)
        store.remove("code", version)
        store.unmirror("code", version)
"""


def kill_at_random(command: list[str], after_s: float, environ: dict[str, str] | None = None) -> None:
    """Start, wait until it is at work, then kill -9 a random time later."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(random.uniform(0, after_s))
        assert process.poll() is None, "it ended by itself"
        process.kill()


def test_killed_at_any_moment_it_holds_whole_versions_only(
    adapter: Path, version: str, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    found = 0
    for _ in range(25):
        kill_at_random([sys.executable, "-c", KILLED_INSTALLER, str(path), str(adapter), "", version], 0.08)
        store = Store(path)
        assert staged(path) == []
        for name, there in store.list():
            verify_adapter(store.path_of(name, there), base=BASE, max_rank=64)
            found += 1
            store.remove(name, there)
    assert found < 25, "some were killed before the version was there"
    store.install(adapter, "code", version)
    assert contents(store.path_of("code", version)) == contents(adapter)


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with s3_server() as url, FaultyProxy(url) as proxy:
        yield proxy


@pytest.fixture(params=["s3", "file"])
def url(
    request: pytest.FixtureRequest, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    proxy.fail()
    monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.01)
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}" if request.param == "s3" else f"file://{tmp_path}/mirror"


def test_another_host_fetches_what_was_mirrored(
    url: str, adapter: Path, version: str, tmp_path: Path
) -> None:
    here, there = Store(tmp_path / "here", url), Store(tmp_path / "there", url)
    with pytest.raises(NotFound):
        there.fetch("code", version)
    here.install(adapter, "code", version)
    here.mirror("code", version)
    here.mirror("code", version)
    path = there.fetch("code", version)
    assert contents(path) == contents(adapter)
    assert there.fetch("code", version) == path
    here.unmirror("code", version)
    here.unmirror("code", version)
    with pytest.raises(NotFound):
        Store(tmp_path / "third", url).fetch("code", version)
    assert staged(tmp_path / "here") == staged(tmp_path / "there") == staged(tmp_path / "third") == []


def test_a_version_that_is_not_mirrored_and_no_mirror_at_all(
    store: Store, adapter: Path, version: str
) -> None:
    store.install(adapter, "code", version)
    store.mirror("code", version)
    store.unmirror("code", version)
    store.remove("code", version)
    with pytest.raises(NotFound, match=r"storage\.url"):
        store.fetch("code", version)


@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_a_mirror_that_was_cut_off_is_not_taken_for_whole(
    url: str, proxy: FaultyProxy, adapter: Path, version: str, tmp_path: Path
) -> None:
    """Cut off at each of its uploads in turn."""
    here = Store(tmp_path / "here", url)
    here.install(adapter, "code", version)
    uploads = ["adapter_config.json", "adapter_model.safetensors", MANIFEST_NAME]
    for part in uploads:
        proxy.fail(*["503"] * transfer.ATTEMPTS, method="PUT", part=part)
        with pytest.raises(StorageUnavailable):
            here.mirror("code", version)
        proxy.fail()
        with pytest.raises(NotFound):
            Store(tmp_path / part, url).fetch("code", version)
    here.mirror("code", version)
    assert Store(tmp_path / "there", url).fetch("code", version)


@pytest.mark.parametrize("url", ["s3"], indirect=True)
@pytest.mark.parametrize("fault", ["500", "slow", "refuse", "cut", "truncate"])
def test_fetching_survives_what_passes(
    url: str, proxy: FaultyProxy, fault: Fault, adapter: Path, version: str, tmp_path: Path
) -> None:
    here = Store(tmp_path / "here", url)
    here.install(adapter, "code", version)
    here.mirror("code", version)
    proxy.fail(fault, fault)
    assert contents(Store(tmp_path / "there", url).fetch("code", version)) == contents(adapter)
    assert not proxy.faults


def test_damage_in_storage_is_seen(url: str, adapter: Path, version: str, tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here", url), Store(tmp_path / "there", url)
    here.install(adapter, "code", version)
    here.mirror("code", version)
    damaged = bytearray((adapter / WEIGHTS_NAME).read_bytes())
    damaged[-1] ^= 1
    ObjectFolder.at(url).write(f"code/{version}/{WEIGHTS_NAME}", bytes(damaged))
    with pytest.raises(HashMismatch):
        there.fetch("code", version)
    assert there.list() == ()
    assert staged(tmp_path / "there") == []


def test_a_version_under_another_name_is_refused(
    url: str, adapter: Path, version: str, tmp_path: Path
) -> None:
    here = Store(tmp_path / "here", url)
    here.install(adapter, "other", "0" * 12)
    here.mirror("other", "0" * 12)
    with pytest.raises(HashMismatch, match="calls itself"):
        Store(tmp_path / "there", url).fetch("other", "0" * 12)


def test_killed_while_mirroring_and_fetching(url: str, adapter: Path, version: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    command = [sys.executable, "-c", KILLED_INSTALLER, str(path), str(adapter), url, version]
    for _ in range(6):
        kill_at_random(command, 0.6)
        store, other = Store(path, url), Store(tmp_path / "other", url)
        for name, there in store.list():
            verify_adapter(store.path_of(name, there), base=BASE, max_rank=64)
        try:
            fetched = other.fetch("code", version)
        except NotFound:
            continue
        verify_adapter(fetched, base=BASE, max_rank=64)
        other.remove("code", version)
    store.install(adapter, "code", version)
    store.mirror("code", version)
    assert contents(other.fetch("code", version)) == contents(adapter)
