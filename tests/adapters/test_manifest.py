from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptive_lora.adapters.manifest import MAX_EXAMPLES, Manifest, read_manifest, write_manifest
from adaptive_lora.errors import AdapterError, ManifestInvalid, UnsafeFile, UnsafeLink, UnsafeName


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "README.md").write_text("prose")
    return tmp_path


def write(folder: Path, **changes: object) -> Manifest:
    values: dict[str, object] = {
        "name": "code", "description": "Writes code", "examples": ["Write a function"], "base_model": "demo",
    }  # fmt: skip
    return write_manifest(folder, **(values | changes))  # type: ignore[arg-type]


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_reads_what_it_wrote(folder: Path) -> None:
    written = write(folder, examples=["Écris une fonction", "two\nlines"], base_fingerprint="a" * 64)
    assert read_manifest(folder) == written
    assert set(written.files) == {"adapter_model.safetensors", "adapter_config.json"}


def test_writing_again_replaces_the_manifest_and_leaves_nothing_else(folder: Path) -> None:
    write(folder)
    write(folder, description="Second")
    assert read_manifest(folder).description == "Second"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json",
    ]  # fmt: skip


def test_a_refused_manifest_leaves_the_old_one(folder: Path) -> None:
    written = write(folder)
    with pytest.raises(UnsafeName):
        write(folder, name="../code")
    assert read_manifest(folder) == written


@pytest.mark.parametrize("name", ["a", "code", "0-1_2", "x" * 63])
def test_good_names(folder: Path, name: str) -> None:
    assert write(folder, name=name).name == name


@pytest.mark.parametrize(
    "name",
    ["", "../code", "a/b", "Code", "-a", "_a", "a b", "x" * 64, "auto", "base", "a\n", "c@1", "é", ".."],
)
def test_names_outside_the_grammar(folder: Path, name: str) -> None:
    with pytest.raises(UnsafeName):
        write(folder, name=name)


@pytest.mark.parametrize("name", ["../manifest.json", "/etc/passwd", "a/b", "..", ".hidden", "a\\b", ""])
def test_file_names_that_leave_the_folder(folder: Path, name: str) -> None:
    write(folder)
    edit(folder, files={name: "0" * 64})
    with pytest.raises(UnsafeName):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"surprise": 1}, "surprise"),
        ({"name": 7}, "name"),
        ({"description": ""}, "description"),
        ({"description": "a\u0000b"}, "description"),
        ({"description": "x" * 2001}, "description"),
        ({"examples": "not a list"}, "examples"),
        ({"examples": ["fine", ""]}, "examples.1"),
        ({"examples": ["x"] * (MAX_EXAMPLES + 1)}, "examples"),
        ({"examples": ["\ud800"]}, "examples.0"),
        ({"base_fingerprint": "short"}, "base_fingerprint"),
        ({"files": {}}, "files"),
        ({"files": {"a.json": "0"}}, "files.a.json"),
        ({"files": {f"{i}.json": "0" * 64 for i in range(65)}}, "files"),
    ],
)
def test_bad_values_name_the_field(folder: Path, changes: dict[str, object], field: str) -> None:
    write(folder)
    edit(folder, **changes)
    with pytest.raises(ManifestInvalid, match=rf"manifest\.json: {field}"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a"', "[" * 100_000, '"x"', "\xff"])
def test_not_a_manifest(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestInvalid):
        read_manifest(folder)


def test_missing_manifest_says_how_to_write_one(folder: Path) -> None:
    with pytest.raises(ManifestInvalid, match="write_manifest"):
        read_manifest(folder)


def test_manifest_behind_a_link(folder: Path, tmp_path: Path) -> None:
    write(folder)
    (folder / "manifest.json").rename(folder / "real.json")
    (folder / "manifest.json").symlink_to(folder / "real.json")
    with pytest.raises(UnsafeLink):
        read_manifest(folder)


def test_version_names_the_content_that_is_served(folder: Path) -> None:
    first = write(folder)
    assert len(first.version) == 12
    assert write(folder, description="Other", examples=["other"]).version == first.version
    assert write(folder, name="other").version != first.version
    (folder / "adapter_model.safetensors").write_bytes(b"retrained")
    assert write(folder).version != first.version


def test_refuses_to_list_what_is_never_served(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"")
    with pytest.raises(UnsafeFile, match=r"optimizer\.pt"):
        write(folder)
    assert not (folder / "manifest.json").exists()


def test_refuses_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match="safetensors"):
        write(tmp_path)
