"""A backup is one moment of everything, whatever happens meanwhile; and stores nothing twice."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from adaptive_lora.adapters.registry_database import Database, sqlite_url
from adaptive_lora.adapters.registry_tables import batches, files
from adaptive_lora.backup.repository import Repository
from adaptive_lora.backup.restore import restore
from adaptive_lora.backup.retention import keep_newest
from adaptive_lora.backup.site import Site
from adaptive_lora.backup.tables import Dumped, dump
from adaptive_lora.backup.verify import verify
from adaptive_lora.errors import HashMismatch, NotFound, SettingsError, StorageError

from .conftest import LiveSite, backed_up, rows_of, site_at


def test_everything_comes_back_in_either_kind_of_database(
    live: LiveSite, repository: Repository, tmp_path: Path
) -> None:
    before = live.snapshot()
    assert all(before["rows"][table] for table in ("registry_versions", "access_keys", "batch_jobs"))  # type: ignore[index]
    made = backed_up(live.site, repository)
    restored = site_at(tmp_path / "restored")
    result = restore(restored, repository, made.backup)
    after = LiveSite(restored, tmp_path)
    assert after.snapshot() == before
    assert result.n_files == sum(map(len, made.backup.places.values()))
    after.add_adapter("new", seed=9)  # it is a registry that goes on
    assert len(rows_of(restored)["registry_versions"]) == 3


def test_from_sqlite_to_postgresql(
    sqlite_live: LiveSite, plain: Repository, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("postgres")
    restored = site_at(tmp_path / "restored", server.url(server.new_database()))
    restore(restored, plain, backed_up(sqlite_live.site, plain).backup)
    assert LiveSite(restored, tmp_path).snapshot() == sqlite_live.snapshot()


def test_the_second_backup_stores_only_what_is_new(live: LiveSite, repository: Repository) -> None:
    first = backed_up(live.site, repository)
    assert first.n_new_bytes > 0
    again = backed_up(live.site, repository)
    assert again.n_new_bytes == 0
    before = repository.objects()
    version = live.add_adapter("poet", seed=5)
    third = backed_up(live.site, repository)
    names = {what: repository.object_name(entry) for what, entry in third.backup.entries()}
    new = {what for what, name in names.items() if name not in before}
    assert repository.objects() - before == {names[what] for what in new}
    assert f"store/poet/{version}/adapter_model.safetensors" in new
    assert {what.split("/")[1] for what in new} == {
        "poet", "registry_state", "registry_versions", "registry_aliases", "registry_history"
    }  # fmt: skip
    sizes = repository.folder.list()
    assert third.n_new_bytes == sum(sizes[name] for name in {names[what] for what in new})
    for made in (first, again, third):
        assert verify(repository, repository.load(made.backup_id)[1]).damaged == ()


def test_what_was_backed_up_before_is_not_read_again(sqlite_live: LiveSite, plain: Repository) -> None:
    backed_up(sqlite_live.site, plain)
    for weights in sqlite_live.site.state.glob("adapters/*/*/*.safetensors"):
        weights.write_bytes(b"damaged since")
    assert verify(plain, backed_up(sqlite_live.site, plain).backup).damaged == ()


def test_what_is_deleted_while_it_is_read_is_in_no_table_either(
    live: LiveSite, plain: Repository, tmp_path: Path
) -> None:
    versions = {row["version"] for row in rows_of(live.site)["registry_versions"] if row["name"] == "law"}
    deleted = []

    def delete_once(what: str) -> None:
        if what.startswith("copying") and not deleted:
            deleted.extend(versions)
            live.delete_adapter("law", *deleted)

    made = backed_up(live.site, plain, progress=delete_once)
    assert deleted
    assert made.backup.missing == ()
    restored = site_at(tmp_path / "restored")
    restore(restored, plain, made.backup)
    assert {row["name"] for row in rows_of(restored)["registry_versions"]} == {"code"}
    assert not (restored.state / "adapters" / "law").exists()


def test_a_bundle_that_comes_while_the_database_is_read_is_of_the_same_moment(
    sqlite_live: LiveSite, plain: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fleet changes, and the router with it, between the look at the one and at the other."""
    bundles = sqlite_live.site.folders["bundles"]
    news = iter(["3f9c2a000002"])

    def dump_after_a_change(database: Database, folder: Path) -> Dumped:
        if version := next(news, None):
            (bundles / version).mkdir()
            (bundles / version / "manifest.json").write_text("{}")
            (bundles / "CURRENT").write_text(f"{version}\n")
        return dump(database, folder)

    monkeypatch.setattr("adaptive_lora.backup.make.dump", dump_after_a_change)
    places = backed_up(sqlite_live.site, plain).backup.places
    assert b"".join(plain.read(places["bundles"]["CURRENT"], "CURRENT")) == b"3f9c2a000002\n"
    assert "3f9c2a000002/manifest.json" in places["bundles"]


def test_half_a_line_of_a_log_is_left_out(sqlite_live: LiveSite, plain: Repository) -> None:
    choices = sqlite_live.site.folders["learning"] / "choices.jsonl"
    whole = choices.read_bytes()
    choices.write_bytes(whole + b'{"request_id": "on its w')
    entry = backed_up(sqlite_live.site, plain).backup.places["learning"]["choices.jsonl"]
    assert b"".join(plain.read(entry, "choices")) == whole


def test_an_input_that_has_expired_is_kept_while_its_batch_reads_it(
    live: LiveSite, plain: Repository
) -> None:
    file_id = live.add_file(b"read later")
    database = live.site.database()
    with database.transaction(change=True) as connection:
        connection.execute(sa.update(files).values(expires_at=datetime.now(UTC)))
    assert file_id in backed_up(live.site, plain).backup.places["files"]
    with database.transaction(change=True) as connection:
        connection.execute(sa.update(batches).values(status="cancelled"))
    database.close()
    assert backed_up(live.site, plain).backup.places["files"] == {}


def test_missing_and_damaged_files_are_told_and_left_out_if_that_is_allowed(
    sqlite_live: LiveSite, plain: Repository, tmp_path: Path
) -> None:
    site = sqlite_live.site
    (weights,) = site.state.glob("adapters/code/*/*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (content,) = site.state.glob("files/file-*")
    content.unlink()
    with pytest.raises(StorageError, match="2 that the database names are not here, or damaged: files/file-"):
        backed_up(site, plain)
    assert plain.ids() == ()
    made = backed_up(site, plain, allow_missing=True)
    assert made.backup.missing == (f"files/{content.name}", f"store/code/{weights.parent.name}")
    restored = site_at(tmp_path / "restored")
    restore(restored, plain, made.backup)
    assert rows_of(restored) == rows_of(site)


def test_a_release_backs_up_its_own_tables_alone(tmp_path: Path, plain: Repository) -> None:
    site = Site(sqlite_url(tmp_path / "empty.db"), tmp_path / "state")
    with pytest.raises(SettingsError, match="schema none, this release has"):
        backed_up(site, plain)


def test_old_backups_go_and_the_contents_that_nobody_else_has(
    sqlite_live: LiveSite, plain: Repository
) -> None:
    made = [backed_up(sqlite_live.site, plain)]
    for i in range(3):
        sqlite_live.mint(f"key-{i}")
        made.append(backed_up(sqlite_live.site, plain))
    ids = sorted(one.backup_id for one in made)
    assert list(plain.ids()) == ids[::-1]
    n_objects = len(plain.objects())
    assert list(keep_newest(plain, 2)) == ids[1::-1]
    assert list(plain.ids()) == ids[:1:-1]
    assert len(plain.objects()) < n_objects
    for backup_id in plain.ids():
        assert verify(plain, plain.load(backup_id)[1]).damaged == ()
    with pytest.raises(NotFound):
        plain.load(ids[0])


def test_contents_stay_while_somebody_else_writes(sqlite_live: LiveSite, plain: Repository) -> None:
    old = backed_up(sqlite_live.site, plain)
    sqlite_live.mint("later")
    backed_up(sqlite_live.site, plain)
    with Repository.open(str(plain.folder.location)).writing():
        assert keep_newest(plain, 1) == (old.backup_id,)
        assert verify(plain, old.backup).damaged == ()
    assert keep_newest(plain, 1) == ()
    assert len(verify(plain, old.backup).damaged) > 0


def test_the_mark_of_who_died_a_day_ago_is_forgotten(plain: Repository) -> None:
    plain.folder.write("running/20200101T000000Z-abc", b"")
    plain.look()
    assert not plain.others_write()
    assert "running/20200101T000000Z-abc" not in plain.folder.list()


def test_verify_tells_what_is_damaged_and_what_is_gone(live: LiveSite, repository: Repository) -> None:
    made = backed_up(live.site, repository)
    root = repository.folder.location.path
    entries = dict(made.backup.entries())
    damaged, gone = (
        name for name in entries if name.endswith("adapter_model.safetensors") and "poem" not in name
    )
    path = root / repository.object_name(entries[damaged])
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (root / repository.object_name(entries[gone])).unlink()
    found = verify(repository, made.backup)
    assert found.n_files == len(entries)
    assert len(found.damaged) == 2
    assert f"{damaged} is damaged in the backups: delete" in found.damaged[0]
    assert f"{gone} is gone" in found.damaged[1]
    path.unlink()  # as it says
    backed_up(live.site, repository)
    assert verify(repository, made.backup).damaged == ()


@pytest.mark.parametrize("kind", ["plain", "repository"])
def test_a_document_that_was_changed_is_no_backup(
    sqlite_live: LiveSite, kind: str, request: pytest.FixtureRequest
) -> None:
    repository: Repository = request.getfixturevalue(kind)
    made = backed_up(sqlite_live.site, repository)
    path = repository.folder.location.path / "backups" / made.backup_id
    content = path.read_bytes()
    path.write_bytes(content.replace(b"code/", b"kode/") if b"code/" in content else content[:-1] + b"x")
    with pytest.raises(HashMismatch, match="is not what was written there"):
        repository.load()


def test_a_repository_wants_its_own_key_and_folder(
    sqlite_live: LiveSite, tmp_path: Path, key_file: Path
) -> None:
    other = tmp_path / "other.key"
    other.write_text("00" * 32)
    with pytest.raises(NotFound, match="there are no backups"):
        Repository.open(f"{tmp_path}/none")
    Repository.open(f"{tmp_path}/sealed", key_file, create=True)
    with pytest.raises(SettingsError, match="are encrypted: give --key-file"):
        Repository.open(f"{tmp_path}/sealed")
    with pytest.raises(SettingsError, match="another key"):
        Repository.open(f"{tmp_path}/sealed", other)
    Repository.open(f"{tmp_path}/open", create=True)
    with pytest.raises(SettingsError, match="not encrypted"):
        Repository.open(f"{tmp_path}/open", key_file)
    with pytest.raises(SettingsError, match="a folder of their own"):
        Repository.open(str(sqlite_live.site.state), create=True)


def test_whoever_reads_an_encrypted_repository_learns_no_content(
    sqlite_live: LiveSite, tmp_path: Path, key_file: Path
) -> None:
    sqlite_live.mint("very-secret-name")
    repository = Repository.open(f"{tmp_path}/sealed", key_file, create=True)
    made = backed_up(sqlite_live.site, repository)
    for path in (tmp_path / "sealed").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for known in (b"very-secret-name", b"custom_id", b"lora_A", b"registry_versions"):
            assert known not in content[:4096], path
        assert all(entry.sha256 not in str(path) for _, entry in made.backup.entries())


def test_rows_are_one_json_document_a_line(sqlite_live: LiveSite, plain: Repository) -> None:
    pieces = backed_up(sqlite_live.site, plain).backup.database.tables["access_keys"]
    (piece,) = pieces
    rows = gzip.decompress(b"".join(plain.read(piece.entry, "keys"))).splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["ci"]
    assert piece.n_rows == 1
