"""What is in the files: whole or not at all, here and for other hosts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptive_lora.batches import contents as module
from adaptive_lora.batches.contents import Contents
from adaptive_lora.batches.records import new_file_id
from adaptive_lora.errors import NotFound, StorageUnavailable
from tests.storage_servers import BUCKET, CREDENTIALS, FaultyProxy, s3_server


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with s3_server() as url, FaultyProxy(url) as proxy:
        yield proxy


@pytest.fixture(params=["s3", "file"])
def url(
    request: pytest.FixtureRequest, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Object storage, or a folder in its place."""
    if request.param == "file":
        return f"file://{tmp_path}/mirror"
    proxy.fail()
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


def put(contents: Contents, content: bytes) -> str:
    file_id = new_file_id()
    with contents.draft() as draft:
        draft.write_bytes(content)
        contents.put(draft, file_id)
    return file_id


def test_a_draft_becomes_a_content_or_nothing(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    file_id = put(contents, b"abc")
    assert contents.fetch(file_id, 3).read_bytes() == b"abc"
    with contents.draft() as draft:
        draft.write_bytes(b"half")
    assert [path.name for path in (tmp_path / "files").iterdir()] == [file_id]
    contents.delete(file_id)
    contents.delete(file_id)
    assert list((tmp_path / "files").iterdir()) == []


def test_without_object_storage_another_host_says_what_is_missing(tmp_path: Path) -> None:
    file_id = put(Contents(tmp_path / "here"), b"abc")
    there = Contents(tmp_path / "there")
    assert not there.can_read(file_id)
    with pytest.raises(StorageUnavailable, match=r"storage\.url"):
        there.fetch(file_id, 3)


def test_other_hosts_read_what_is_in_object_storage(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 1_000)
    content = os.urandom(3_500)
    here, there = Contents(tmp_path / "here", url), Contents(tmp_path / "there", url)
    file_id = put(here, content)
    assert there.can_read(file_id)
    assert there.fetch(file_id, len(content)).read_bytes() == content
    here.delete(file_id)
    there.drop_copy(file_id)
    with pytest.raises(NotFound):
        there.fetch(file_id, len(content))


def test_what_object_storage_does_not_take_is_not_kept_here(
    tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
        monkeypatch.setenv(name, value)
    proxy.fail(*["403"] * 20)
    contents = Contents(tmp_path, f"s3://{BUCKET}/{tmp_path.name}")
    with pytest.raises(Exception, match="not permitted"):
        put(contents, b"abc")
    assert list((tmp_path / "files").iterdir()) == []


def test_old_drafts_go_and_old_copies_are_named(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    old, new = put(contents, b"old"), put(contents, b"new")
    draft = tmp_path / "files" / ".draft-of-a-dead-process"
    draft.touch()
    long_ago = time.time() - module.OLD_S - 60
    for path in (draft, tmp_path / "files" / old):
        os.utime(path, (long_ago, long_ago))
    assert contents.old_copies() == (old,)
    assert {path.name for path in (tmp_path / "files").iterdir()} == {old, new}


@pytest.mark.parametrize(
    "file_id", ["../x", "file-" + "0" * 31, "file-" + "0" * 31 + "/", "", "file-" + "G" * 32]
)
def test_only_ids_of_ours_become_paths(tmp_path: Path, file_id: str) -> None:
    with pytest.raises(ValueError, match="no id"):
        Contents(tmp_path).fetch(file_id, 1)
