"""`models push` and `models pull`: both sides alike, whatever is killed or fails on the way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptive_lora.adapters import transfer
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.adapters.sync import INDEX_NAME, JOURNAL_NAME, WORK_NAME, plan_pull, plan_push, pull, push
from adaptive_lora.errors import (
    Conflict,
    HashMismatch,
    NotFound,
    StorageError,
    StorageFull,
    StorageUnavailable,
    UnsafeLink,
    UnsafeName,
)
from tests.disks import small_disk
from tests.storage_servers import BUCKET, CREDENTIALS, FaultyProxy, s3_server

FILES = {
    "base/config.json": b"{}",
    "base/model.safetensors": os.urandom(400_000),
    "adapters/code/manifest.json": b'{"name": "code"}',
    "adapters/code/copy.bin": b"same content",
    "adapters/code/copy2.bin": b"same content",
    "empty": b"",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write(tmp_path / "models", FILES)


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with s3_server() as url, FaultyProxy(url) as proxy:
        yield proxy


@pytest.fixture(params=["s3", "file"])
def remote(
    request: pytest.FixtureRequest, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectFolder:
    proxy.fail()
    monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(transfer, "PIECE_BYTES", 100_000)
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{tmp_path.name}" if request.param == "s3" else f"file://{tmp_path}/remote"
    return ObjectFolder.at(url)


on_s3 = pytest.mark.parametrize("remote", ["s3"], indirect=True)


def push_all(folder: Path, remote: ObjectFolder, **options: Any) -> list[str]:
    plan = plan_push(folder, remote, **options)
    push(plan, folder, remote)
    return sorted(plan.transfer)


def pull_all(remote: ObjectFolder, folder: Path, **options: Any) -> list[str]:
    plan = plan_pull(remote, folder, **options)
    pull(plan, remote, folder)
    return sorted(plan.transfer)


def test_there_and_back(remote: ObjectFolder, models: Path, tmp_path: Path) -> None:
    assert push_all(models, remote) == sorted(FILES)
    assert sorted(remote.list()) == sorted([*FILES, INDEX_NAME])
    assert pull_all(remote, tmp_path / "copy") == sorted(FILES)
    assert contents(tmp_path / "copy") == FILES
    assert push_all(models, remote) == push_all(tmp_path / "copy", remote) == []
    assert pull_all(remote, tmp_path / "copy") == []


def test_only_what_differs_is_transferred(remote: ObjectFolder, models: Path, tmp_path: Path) -> None:
    push_all(models, remote)
    pull_all(remote, tmp_path / "copy")
    changed = bytes(len(FILES["base/model.safetensors"]))  # of the same size
    write(models, {"base/model.safetensors": changed, "new": b"new"})
    assert push_all(models, remote) == ["base/model.safetensors", "new"]
    assert pull_all(remote, tmp_path / "copy") == ["base/model.safetensors", "new"]
    assert contents(tmp_path / "copy") == contents(models)


def test_deleting_is_asked_for(remote: ObjectFolder, models: Path, tmp_path: Path) -> None:
    push_all(models, remote)
    pull_all(remote, tmp_path / "copy")
    for name in ("adapters/code/manifest.json", "adapters/code/copy.bin", "adapters/code/copy2.bin"):
        (models / name).unlink()
    push_all(models, remote)
    assert pull_all(remote, tmp_path / "second") == sorted(FILES), "another machine may have pushed them"
    push_all(models, remote, delete=True)
    assert sorted(remote.list()) == sorted([*contents(models), INDEX_NAME])
    pull_all(remote, tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES
    pull_all(remote, tmp_path / "copy", delete=True)
    assert contents(tmp_path / "copy") == contents(models)
    assert not (tmp_path / "copy" / "adapters").exists()


def test_what_is_not_to_be_pushed(remote: ObjectFolder, models: Path) -> None:
    write(models, {"big.partial/half": b"x", f"{WORK_NAME}/part": b"x"})
    assert not [name for name in push_all(models, remote) if "half" in name or "part" in name]
    (models / "link").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeLink):
        plan_push(models, remote)
    (models / "link").unlink()
    write(models, {"back\\slash": b""})
    with pytest.raises(UnsafeName, match="rename the file"):
        plan_push(models, remote)
    with pytest.raises(NotFound):
        plan_push(models / "absent", remote)


def test_what_was_never_pushed_is_not_pulled(remote: ObjectFolder, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="models push"):
        plan_pull(remote, tmp_path / "copy")
    remote.write("file", b"uploaded by another program")
    with pytest.raises(NotFound, match="models push"):
        plan_pull(remote, tmp_path / "copy")


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "", ".", "a\\b", f"{WORK_NAME}/lock", INDEX_NAME]
)
def test_an_index_that_leaves_the_folder_is_refused(
    remote: ObjectFolder, models: Path, path: str, tmp_path: Path
) -> None:
    push_all(models, remote)
    index = json.loads(remote.read(INDEX_NAME, 0, remote.size_of(INDEX_NAME)))
    index["files"][path] = index["files"]["empty"]
    remote.write(INDEX_NAME, json.dumps(index).encode())
    with pytest.raises(StorageError, match="is damaged"):
        plan_pull(remote, tmp_path / "copy")


def test_a_folder_that_became_a_link_is_not_written_through(
    remote: ObjectFolder, models: Path, tmp_path: Path
) -> None:
    push_all(models, remote)
    (tmp_path / "copy").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "copy" / "base").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeLink):
        plan_pull(remote, tmp_path / "copy")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@on_s3
def test_a_push_that_fails_is_not_pulled_and_goes_on(
    remote: ObjectFolder, models: Path, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.fail(*["503"] * transfer.ATTEMPTS, method="PUT", part="model.safetensors")
    plan = plan_push(models, remote)
    with pytest.raises(StorageUnavailable):
        push(plan, models, remote, jobs=1)
    proxy.fail()
    with pytest.raises(Conflict, match="interrupted"):
        plan_pull(remote, tmp_path / "copy")
    rest = push_all(models, remote)
    assert "base/model.safetensors" in rest
    assert "adapters/code/manifest.json" not in rest, "it has been uploaded before the failure"
    pull_all(remote, tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES


@on_s3
def test_an_overwriting_push_that_fails_trusts_only_what_is_sure(
    remote: ObjectFolder, models: Path, proxy: FaultyProxy
) -> None:
    """New content has gone up, its index has not; then the old content comes back here."""
    push_all(models, remote)
    write(models, {"base/config.json": b"[]", "zzz": b"z"})
    plan = plan_push(models, remote)
    proxy.fail(*["503"] * transfer.ATTEMPTS, method="PUT", part="zzz")
    with pytest.raises(StorageUnavailable):
        push(plan, models, remote, jobs=1)
    proxy.fail()
    write(models, FILES)
    assert "base/config.json" in push_all(models, remote)
    assert remote.read("base/config.json", 0, 2) == b"{}"


@on_s3
def test_a_pull_that_fails_goes_on(
    remote: ObjectFolder, models: Path, proxy: FaultyProxy, tmp_path: Path
) -> None:
    push_all(models, remote)
    plan = plan_pull(remote, tmp_path / "copy")
    read: list[int] = []

    def fail_in_the_middle(n_bytes: int) -> None:
        read.append(n_bytes)
        if sum(read) > 200_000 and not proxy.faults:
            proxy.fail(*["500"] * 50, method="GET", part="model.safetensors")

    with pytest.raises(StorageUnavailable):
        pull(plan, remote, tmp_path / "copy", jobs=1, progress=fail_in_the_middle)
    assert "base/config.json" not in contents(tmp_path / "copy"), "without it nobody takes it for a model"
    proxy.fail()
    pull_all(remote, tmp_path / "copy")
    assert contents(tmp_path / "copy") == FILES
    ranges = [r for method, path, r in proxy.seen if method == "GET" and "model.safetensors" in path and r]
    assert ranges
    assert "bytes=0-99999" not in ranges, "it went on from the partial file"


def test_content_that_is_not_the_indexs_is_refused(
    remote: ObjectFolder, models: Path, tmp_path: Path
) -> None:
    push_all(models, remote)
    remote.write("base/model.safetensors", os.urandom(400_000))
    with pytest.raises(HashMismatch):
        pull_all(remote, tmp_path / "copy")
    assert "base/model.safetensors" not in contents(tmp_path / "copy")


def test_one_pull_at_a_time(remote: ObjectFolder, models: Path, tmp_path: Path) -> None:
    push_all(models, remote)
    plan = plan_pull(remote, tmp_path / "copy")
    seen: list[type[Exception]] = []

    def pull_again(n_bytes: int) -> None:
        try:
            pull(plan, remote, tmp_path / "copy")
        except Conflict as error:
            seen.append(type(error))

    pull(plan, remote, tmp_path / "copy", jobs=1, progress=pull_again)
    assert set(seen) == {Conflict}
    assert contents(tmp_path / "copy") == FILES


def test_a_full_disk(remote: ObjectFolder, models: Path, tmp_path: Path) -> None:
    write(models, {"base/large": os.urandom(2_000_000)})
    push_all(models, remote)
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(StorageFull, match="make some, then try again"):
            pull_all(remote, disk / "copy")
        found = contents(disk / "copy")
        assert all(found[name] == FILES[name] for name in found if not name.startswith(WORK_NAME))


def cli(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "adaptive_lora", "models", *arguments]


def test_the_commands(remote: ObjectFolder, models: Path, tmp_path: Path) -> None:
    url, copy = str(remote.location), str(tmp_path / "copy")

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(cli(*arguments, "--json"), capture_output=True, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    dry = run("push", str(models), url, "--dry-run")
    assert (dry["dry_run"], dry["transferred"]) == (True, sorted(FILES))
    assert remote.list() == {}
    pushed = run("push", str(models), url)
    assert pushed["transferred_bytes"] == sum(map(len, FILES.values()))
    write(models, {"extra": b"x"})
    assert run("push", str(models), url)["unchanged"] == len(FILES)
    assert run("pull", url, copy)["transferred"] == sorted([*FILES, "extra"])
    assert contents(tmp_path / "copy") == contents(models)
    (models / "extra").unlink()
    assert run("push", str(models), url, "--delete")["deleted"] == ["extra"]
    plain = subprocess.run(cli("pull", url, copy, "--delete"), capture_output=True, text=True, check=True)
    assert plain.stdout.splitlines() == [
        "deleted: extra",
        f"0 files (0.0 MB) pulled, {len(FILES)} unchanged, 1 deleted",
    ]
    nowhere = subprocess.run(cli("pull", url + "/no", copy), capture_output=True, text=True, check=False)
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith("error: ")


KILLED_SYNC = """
import shutil, sys
from pathlib import Path
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.adapters.sync import plan_pull, plan_push, pull, push
models, copy, remote = Path(sys.argv[1]), Path(sys.argv[2]), ObjectFolder.at(sys.argv[3])
remote.list()
print("ready", flush=True)
while True:
    push(plan_push(models, remote), models, remote)
    pull(plan_pull(remote, copy), remote, copy)
    shutil.rmtree(copy)
    for name in remote.list():
        remote.delete(name)
"""


def test_killed_at_any_moment_both_ways(remote: ObjectFolder, models: Path, tmp_path: Path) -> None:
    """A pulled file is whole at every moment; the next run brings both sides to the end."""
    files = FILES | {f"base/shard-{n}.safetensors": os.urandom(300_000) for n in range(20)}
    write(models, files)
    url, copy = str(remote.location), tmp_path / "copy"
    for _ in range(8):
        command = [sys.executable, "-c", KILLED_SYNC, str(models), str(copy), url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(random.uniform(0, 1.0))
            assert process.poll() is None, "it ended by itself"
            process.kill()
        if copy.exists():
            whole = {name: content for name, content in contents(copy).items() if WORK_NAME not in name}
            assert whole.items() <= files.items()
    subprocess.run(cli("push", str(models), url), check=True, stdout=subprocess.DEVNULL)
    subprocess.run(cli("pull", url, str(copy)), check=True, stdout=subprocess.DEVNULL)
    assert contents(copy) == files
    assert sorted(remote.list()) == sorted([*files, INDEX_NAME])
    assert JOURNAL_NAME not in remote.list()
