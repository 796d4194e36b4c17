from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.catalog import load_catalog
from adaptive_lora.errors import HashMismatch, ManifestInvalid, SettingsError, UnsafeLink

Make = Callable[..., Path]


def test_one_bad_folder_never_keeps_the_others_out(
    make_adapter: Make, base: BaseModelInfo, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("code", "analysis", "broken"):
        folder = make_adapter(name)
    (folder / "adapter_config.json").write_text("{}")
    (folder.parent / "link").symlink_to(folder.parent / "code")
    (folder.parent / "empty").mkdir()
    (folder.parent / ".git").mkdir()
    (folder.parent / "README.md").write_text("not an adapter")
    with caplog.at_level(logging.WARNING):
        catalog = load_catalog(folder.parent, base=base, max_rank=8)
    assert [version.name for version in catalog.versions] == ["analysis", "code"]
    assert {name: type(error) for name, error in catalog.rejected.items()} == {
        "broken": HashMismatch, "empty": ManifestInvalid, "link": UnsafeLink,
    }  # fmt: skip
    assert len(caplog.records) == 3


def test_two_folders_with_one_name_are_both_refused(make_adapter: Make, base: BaseModelInfo) -> None:
    for folder, name in (("old", "code"), ("new", "code"), ("other", "other")):
        root = make_adapter(folder, name=name).parent
    catalog = load_catalog(root, base=base, max_rank=8)
    assert [version.name for version in catalog.versions] == ["other"]
    assert set(catalog.rejected) == {"old", "new"}


def test_an_empty_folder_is_an_empty_fleet(tmp_path: Path, base: BaseModelInfo) -> None:
    (tmp_path / "none").mkdir()
    assert load_catalog(tmp_path / "none", base=base, max_rank=8).versions == ()


def test_a_missing_folder_is_a_wrong_setting(tmp_path: Path, base: BaseModelInfo) -> None:
    with pytest.raises(SettingsError, match=r"adapters\.path"):
        load_catalog(tmp_path / "missing", base=base, max_rank=8)
