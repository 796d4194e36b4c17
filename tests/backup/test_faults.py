"""Object storage that fails, and a disk that is full: a backup is whole, or an error; never half."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptive_lora.adapters import transfer
from adaptive_lora.backup.repository import Repository
from adaptive_lora.backup.restore import restore
from adaptive_lora.backup.verify import verify
from adaptive_lora.errors import StorageError, StorageFull, StorageUnavailable
from tests.disks import small_disk
from tests.storage_servers import BUCKET, CREDENTIALS, Fault, FaultyProxy, s3_server

from .conftest import LiveSite, backed_up, site_at


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with s3_server() as url, FaultyProxy(url) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    proxy.fail()
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.01)
    return f"s3://{BUCKET}/{tmp_path.name}"


def test_storage_that_stumbles_holds_up_nobody(
    sqlite_live: LiveSite, url: str, key_file: Path, proxy: FaultyProxy, tmp_path: Path
) -> None:
    faults: tuple[Fault, ...] = ("500", "503", "refuse")
    proxy.fail(*faults)
    repository = Repository.open(url, key_file, create=True)
    made = backed_up(sqlite_live.site, repository)
    proxy.fail(*faults)
    assert verify(repository, made.backup).damaged == ()
    proxy.fail("truncate", *faults, method="GET")
    restored = site_at(tmp_path / "restored")
    restore(restored, Repository.open(url, key_file), made.backup)
    assert not proxy.faults
    assert LiveSite(restored, tmp_path).snapshot() == sqlite_live.snapshot()


@pytest.mark.parametrize("part", ["/objects/", "/backups/"])
def test_storage_that_stays_away_leaves_no_backup(
    sqlite_live: LiveSite, url: str, proxy: FaultyProxy, part: str
) -> None:
    repository = Repository.open(url, create=True)
    proxy.fail(*["503"] * 100, method="PUT", part=part)  # type: ignore[list-item]
    with pytest.raises(StorageUnavailable):
        backed_up(sqlite_live.site, repository)
    proxy.fail()
    assert Repository.open(url).ids() == ()
    proxy.fail("403", method="PUT", part=part)
    with pytest.raises(StorageError, match="not permitted"):
        backed_up(sqlite_live.site, repository)
    made = backed_up(sqlite_live.site, repository)
    assert verify(Repository.open(url), made.backup).damaged == ()


def test_a_byte_that_changes_on_the_way_is_noticed_and_read_again(
    sqlite_live: LiveSite, url: str, proxy: FaultyProxy
) -> None:
    """S3 tells a checksum of its own; what it does not cover is told as damage."""
    repository = Repository.open(url, create=True)
    made = backed_up(sqlite_live.site, repository)
    proxy.fail("flip", method="GET", part="/objects/")
    assert verify(repository, made.backup).damaged == ()
    assert not proxy.faults


def test_a_full_disk_leaves_what_there_was(sqlite_live: LiveSite, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as disk:
        url = f"{disk}/backups"
        repository = Repository.open(url, create=True)
        first = backed_up(sqlite_live.site, repository)
        sqlite_live.add_file(b"x" * 3_000_000)
        with pytest.raises(StorageFull):
            backed_up(sqlite_live.site, repository)
        assert Repository.open(url).ids() == (first.backup_id,)
        assert verify(Repository.open(url), first.backup).damaged == ()
        assert not list(disk.rglob(".*"))


def test_a_full_disk_stops_a_restore_and_more_room_lets_it_end(
    sqlite_live: LiveSite, plain: Repository, tmp_path: Path
) -> None:
    for _ in range(3):
        sqlite_live.add_file(b"x" * 600_000)
    made = backed_up(sqlite_live.site, plain)
    with small_disk(tmp_path / "small") as disk:
        site = site_at(disk / "state")
        with pytest.raises(StorageFull):
            restore(site, plain, made.backup)
        assert not list(disk.glob("state/files/.draft-*"))
    site = site_at(tmp_path / "large")
    restore(site, plain, made.backup)
    assert LiveSite(site, tmp_path).snapshot() == sqlite_live.snapshot()
