"""A name that came over the network becomes a verified folder, or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_lora.adapters.base import BaseModelInfo, describe_base
from adaptive_lora.adapters.store import Store
from adaptive_lora.adapters.verify import verify_adapter
from adaptive_lora.errors import HashMismatch, UnknownAdapter
from adaptive_lora.worker.files import AdapterFiles
from tests.adapter_folders import write_adapter, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> BaseModelInfo:
    return describe_base("demo", write_base(tmp_path_factory.mktemp("model") / "base"))


@pytest.fixture
def code(tmp_path: Path, base: BaseModelInfo):
    """A verified adapter, in a folder beside one that is broken."""
    (tmp_path / "adapters" / "broken").mkdir(parents=True)
    folder = write_adapter(tmp_path / "adapters" / "any-name", name="code", base_fingerprint=base.fingerprint)
    return verify_adapter(folder, base=base, max_rank=64)


@pytest.fixture
def files(tmp_path: Path, base: BaseModelInfo):
    def make(*folders: Path, store: Store | None = None) -> AdapterFiles:
        return AdapterFiles(base, max_rank=64, folders=folders, store=store)

    return make


async def test_a_folder_is_found_by_its_content_whatever_it_is_called(files, code):
    assert await files(code.path.parent).find(code.id) == code


async def test_another_version_is_not_served_in_its_place(files, code):
    with pytest.raises(UnknownAdapter):
        await files(code.path.parent).find("code@000000000000")


async def test_files_that_changed_are_refused(files, code):
    with (code.path / "adapter_model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x01")
    with pytest.raises(HashMismatch):
        await files(code.path.parent).find(code.id)


async def test_the_store_and_its_mirror(files, code, tmp_path):
    """What one host has added, another one gets by the id alone."""
    mirror = f"file://{tmp_path}/mirror"
    (tmp_path / "mirror").mkdir()
    ours = Store(tmp_path / "ours", mirror)
    ours.install(code.path, code.name, code.version)
    ours.mirror(code.name, code.version)
    shutil.rmtree(code.path.parent)
    found = await files(store=Store(tmp_path / "theirs", mirror)).find(code.id)
    assert found.id == code.id
    assert found.path.is_relative_to(tmp_path / "theirs")
    with pytest.raises(UnknownAdapter, match="cannot be had here"):
        await files(store=Store(tmp_path / "theirs", mirror)).find("code@000000000000")
    with pytest.raises(UnknownAdapter, match=r"storage\.url"):
        await files(store=Store(tmp_path / "third")).find(code.id)


async def test_what_a_name_in_the_store_really_is_counts(files, code, tmp_path):
    """Somebody has put other files below the version's path."""
    store = Store(tmp_path / "state")
    shutil.copytree(code.path, store.path_of("code", "0" * 12))
    with pytest.raises(HashMismatch, match="other content"):
        await files(store=store).find(f"code@{'0' * 12}")


@given(st.text() | st.from_regex(r"[./]*[a-z@]*[./@]*[0-9a-f]{0,13}", fullmatch=True))
async def test_what_is_no_id_never_becomes_a_path(name):
    class Watched(AdapterFiles):
        def _find(self, name: str, version: str):
            assert "/" not in name + version
            assert "." not in name + version
            assert len(version) == 12
            raise UnknownAdapter("no")

    with pytest.raises(UnknownAdapter):
        await Watched(BaseModelInfo("x"), max_rank=8).find(name)
