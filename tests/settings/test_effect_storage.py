"""The keys of `storage`: where state is kept, where adapters may come from, and how large they may be."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from adaptive_lora.adapters.manifest import read_manifest
from adaptive_lora.adapters.state import state_folder
from adaptive_lora.adapters.store import Store
from adaptive_lora.errors import NotFound, SourceNotAllowed, UnsafeArchive
from adaptive_lora.serving import intake
from adaptive_lora.settings import Settings
from tests.adapter_folders import write_adapter
from tests.settings.effects import key


def settings_of(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate({"model": {"engine": "fake", "base_model": "fake-base"}} | sections)


@key("storage.path")
def test_state_is_kept_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_folder(settings_of(storage={"path": str(tmp_path / "state")})) == tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, two = (settings_of(model={"base_model": name}) for name in ("org/one", "org/two"))
    assert state_folder(one) == tmp_path / "adaptive-lora" / "org--one"
    assert state_folder(one) != state_folder(two), "adapters of one base are no others'"


@key("storage.url")
def test_added_adapters_are_mirrored_for_other_hosts(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "code", name="code")
    version = read_manifest(adapter).version
    url = settings_of(storage={"url": f"file://{tmp_path}/mirror"}).storage.url
    here, there = Store(tmp_path / "here", url), Store(tmp_path / "there", url)
    here.install(adapter, "code", version)
    here.mirror("code", version)
    assert there.fetch("code", version).is_dir()
    alone = Store(tmp_path / "alone", settings_of().storage.url)
    with pytest.raises(NotFound, match=r"storage\.url"):
        alone.fetch("code", version)


@key("storage.allowed_sources", "storage.max_archive_bytes", "storage.max_archive_entries")
def test_only_what_is_allowed_is_fetched_and_only_so_much(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made" / "code", name="code")
    packed = Path(shutil.make_archive(str(tmp_path / "code"), "gztar", adapter.parent))
    allowed = [str(adapter.parent)]
    folders = (tmp_path / f"folder-{n}" for n in itertools.count())

    def fetch(**storage: Any) -> None:
        folder = next(folders)
        folder.mkdir()
        intake.fetch(str(adapter), folder, settings_of(storage=storage).storage)

    def unpack(**storage: Any) -> None:
        folder = next(folders)
        folder.mkdir()
        copy = Path(shutil.copy(packed, folder.with_suffix(".tar.gz")))
        intake.unpack(copy, folder, settings_of(storage=storage).storage)

    fetch(allowed_sources=allowed)
    unpack()
    for refused in ([], [str(adapter.parent / "co")], ["s3://bucket"]):
        with pytest.raises(SourceNotAllowed):
            fetch(allowed_sources=refused)
    for too_little in ({"max_archive_bytes": 1_000}, {"max_archive_entries": 2}):
        with pytest.raises(UnsafeArchive):
            fetch(allowed_sources=allowed, **too_little)
        with pytest.raises(UnsafeArchive):
            unpack(**too_little)
