"""S3, by a real server, with what goes wrong on the way there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptive_lora.adapters import transfer
from adaptive_lora.adapters.locations import parse_location
from adaptive_lora.adapters.object_storage import UPLOAD_PIECE_BYTES, ObjectFolder, Timeouts
from adaptive_lora.adapters.transfer import Checksum, download
from adaptive_lora.errors import (
    HashMismatch,
    InvalidRequest,
    NotFound,
    SettingsError,
    StorageError,
    StorageUnavailable,
)
from tests.storage_servers import BUCKET, CREDENTIALS, Fault, FaultyProxy, s3_server

CONTENT = os.urandom(300_000)
CHECKSUM = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with s3_server() as url, FaultyProxy(url) as proxy:
        yield proxy


@pytest.fixture(params=["s3", "file"])
def folder(
    request: pytest.FixtureRequest, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectFolder:
    """The same promises on S3 and on a disk."""
    if request.param == "file":
        return ObjectFolder.at(f"file://{tmp_path}/remote")
    use_s3(proxy, monkeypatch)
    return ObjectFolder.at(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def s3(proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectFolder:
    """With CONTENT as `file`."""
    use_s3(proxy, monkeypatch)
    location = parse_location(f"s3://{BUCKET}/{tmp_path.name}")
    folder = ObjectFolder(location, Timeouts(connect=5, read=0.5, request=5))
    folder.write("file", CONTENT)
    return folder


def use_s3(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.fail()
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(transfer, "PIECE_BYTES", 100_000)


def test_what_is_written_is_read_listed_and_deleted(folder: ObjectFolder, tmp_path: Path) -> None:
    assert folder.list() == {}
    folder.write("a/b.json", b"{}")
    folder.write("c", CONTENT)
    folder.write("empty", b"")
    assert folder.list() == {"a/b.json": 2, "c": len(CONTENT), "empty": 0}
    assert folder.size_of("c") == len(CONTENT)
    assert folder.read("c", 10, 20) == CONTENT[10:20]
    folder.write("c", b"new")
    assert folder.read("c", 0, 3) == b"new"
    folder.delete("c")
    folder.delete("c")
    assert folder.list() == {"a/b.json": 2, "empty": 0}
    with pytest.raises(NotFound):
        folder.size_of("c")
    with pytest.raises(NotFound):
        folder.read("c", 0, 1)
    download(folder, "empty", tmp_path / "empty", size=0, checksum=None)
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_neighbour_with_the_same_beginning_is_not_below(folder: ObjectFolder) -> None:
    folder.write("a/file", b"")
    sibling = ObjectFolder.at(f"{folder.location}/a")
    ObjectFolder.at(f"{folder.location}/ab").write("other", b"")
    assert sibling.list() == {"file": 0}


def test_large_files_go_up_in_parts(
    folder: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PIECE_BYTES", 8 << 20)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(2 * UPLOAD_PIECE_BYTES + 1))
    folder.upload(large, "large")
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    size = large.stat().st_size
    download(folder, "large", tmp_path / "copy", size=size, checksum=Checksum("sha256", digest))
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("fault", ["500", "503", "slow", "refuse", "cut", "truncate"])
def test_what_passes_is_tried_again(
    s3: ObjectFolder, proxy: FaultyProxy, fault: Fault, tmp_path: Path
) -> None:
    proxy.fail(fault, fault, fault, method="GET")
    download(s3, "file", tmp_path / "copy", size=len(CONTENT), checksum=CHECKSUM)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert not proxy.faults
    proxy.fail(fault, method="PUT")
    s3.write("again", CONTENT)
    assert s3.list()["again"] == len(CONTENT)
    assert not proxy.faults


@pytest.mark.parametrize("fault", ["500", "slow", "refuse", "cut", "truncate"])
def test_what_does_not_pass_is_given_up(
    s3: ObjectFolder, proxy: FaultyProxy, fault: Fault, tmp_path: Path
) -> None:
    proxy.fail(*[fault] * 50, method="GET", part="file")
    with pytest.raises(StorageUnavailable, match="failed 5 times"):
        download(s3, "file", tmp_path / "copy", size=len(CONTENT), checksum=CHECKSUM)
    # aiohttp asks once more, over a new connection, when an idle one turns out to be closed. Nobody else
    # does.
    assert len(proxy.seen) <= transfer.ATTEMPTS * (2 if fault == "refuse" else 1)


def test_a_download_goes_on_where_it_stopped(s3: ObjectFolder, proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.fail(*["500"] * 50, method="GET")
    (tmp_path / "copy").write_bytes(CONTENT[:250_000])
    with pytest.raises(StorageUnavailable):
        download(s3, "file", tmp_path / "copy", size=len(CONTENT), checksum=CHECKSUM)
    proxy.fail()
    download(s3, "file", tmp_path / "copy", size=len(CONTENT), checksum=CHECKSUM)
    assert [ranges for _, _, ranges in proxy.seen] == ["bytes=250000-299999"]
    assert (tmp_path / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [b"other" * 1_000, os.urandom(400_000), b"x" * 300_000])
def test_the_beginning_of_another_file_is_thrown_away(s3: ObjectFolder, there: bytes, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(there)
    told: list[int] = []
    download(s3, "file", tmp_path / "copy", size=len(CONTENT), checksum=CHECKSUM, progress=told.append)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert sum(told) == len(CONTENT)


def test_other_content_than_the_checksum_says_is_refused(
    s3: ObjectFolder, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.fail("flip", method="GET")
    with pytest.raises(HashMismatch):
        download(s3, "file", tmp_path / "copy", size=len(CONTENT), checksum=CHECKSUM)
    assert not (tmp_path / "copy").exists()


def test_no_permission_is_said_at_once(s3: ObjectFolder, proxy: FaultyProxy) -> None:
    proxy.fail("403", method="GET")
    with pytest.raises(StorageError, match="not permitted: check the credentials"):
        s3.read("file", 0, 1)
    assert len(proxy.seen) == 1


def test_no_credentials_are_said(
    proxy: FaultyProxy, s3: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageError, match="not permitted: check the credentials"):
        ObjectFolder(s3.location).read("file", 0, 1)


def test_no_bucket_is_said(s3: ObjectFolder) -> None:
    absent = ObjectFolder.at("s3://no-such-bucket/a")
    with pytest.raises(NotFound):
        absent.read("file", 0, 1)
    with pytest.raises(NotFound):
        absent.write("file", b"x")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(SettingsError, match=r"pip install 'adaptive-lora\[cloud\]'"):
        ObjectFolder.at("s3://bucket/a")


def test_azure_without_an_account_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="az:// is not configured"):
        ObjectFolder.at("az://container/a")


def test_the_hub_is_not_written_to() -> None:
    with pytest.raises(InvalidRequest, match="downloads only"):
        ObjectFolder.at("hf://org/repo")


def test_the_hash_of_a_git_blob(tmp_path: Path) -> None:
    """`printf hello | git hash-object --stdin`"""

    class Hello:
        def size_of(self, name: str) -> int:
            return 5

        def read(self, name: str, start: int, end: int) -> bytes:
            return b"hello"[start:end]

    checksum = Checksum("git-sha1", "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0")
    download(Hello(), "hello", tmp_path / "hello", size=5, checksum=checksum)
