"""Compositions on disk: found again, rebuilt when damaged, kept while somebody uses them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptive_lora.adapters import composition_files
from adaptive_lora.adapters.composition_files import CompositionFiles
from adaptive_lora.types import AdapterVersion
from tests.adapter_folders import verified, write_adapter

HOLD = """
import sys
from pathlib import Path
from adaptive_lora.adapters.composition_files import CompositionFiles
held = CompositionFiles(Path(sys.argv[1]), max_rank=16, capacity=2).find(sys.argv[2])
print(held.version.id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parts(tmp_path: Path) -> list[AdapterVersion]:
    return [verified(write_adapter(tmp_path / name, seed=i)) for i, name in enumerate(("code", "reasoning"))]


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., CompositionFiles]:
    """The folder, as one process sees it."""

    def make(capacity: int = 2) -> CompositionFiles:
        return CompositionFiles(tmp_path / "compositions", max_rank=16, capacity=capacity)

    return make


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "compositions").iterdir()}


def test_what_is_built_is_found(
    files: Callable[..., CompositionFiles], parts: list[AdapterVersion], tmp_path: Path
) -> None:
    request = [(parts[0], 0.7), (parts[1], 0.3)]
    key = files().key(request)
    assert files().find(key) is None
    built = files().build(request)
    found = files().find(key)
    assert found is not None
    assert found.composed == built.composed
    assert files().with_part(parts[1].id) == [key]
    assert files().with_part("other@000000000000") == []
    assert names(tmp_path) == {key}
    built.release()
    found.release()


def test_building_what_is_there_finds_it(
    files: Callable[..., CompositionFiles], parts: list[AdapterVersion]
) -> None:
    """As when two processes are asked at the same moment."""
    one, other = (files().build([(parts[0], 1.0)]) for _ in range(2))
    assert one.composed == other.composed
    one.release()
    other.release()


def test_what_is_damaged_is_built_again(
    files: Callable[..., CompositionFiles], parts: list[AdapterVersion]
) -> None:
    built = files().build([(parts[0], 1.0)])
    built.release()
    weights = built.version.path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert files().find(built.key) is None
    again = files().build([(parts[0], 1.0)])
    assert again.composed == built.composed
    again.release()


def test_nobody_loses_what_they_use(
    files: Callable[..., CompositionFiles], parts: list[AdapterVersion]
) -> None:
    built = files().build([(parts[0], 1.0)])
    second = files().find(built.key)
    assert second is not None
    assert not files().remove(built.key)
    built.release()
    assert not files().remove(built.key)
    assert built.version.path.is_dir()
    second.release()
    assert files().remove(built.key)
    assert not built.version.path.exists()
    assert not files().remove(built.key)


def test_a_process_that_dies_holds_nothing(
    files: Callable[..., CompositionFiles], parts: list[AdapterVersion], tmp_path: Path
) -> None:
    built = files().build([(parts[0], 1.0)])
    built.release()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "compositions"), built.key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == built.version.id
        assert not files().remove(built.key)
        process.kill()
        process.wait()
        assert files().remove(built.key)


def test_the_least_recently_used_go_first_and_used_ones_stay(
    files: Callable[..., CompositionFiles], parts: list[AdapterVersion], tmp_path: Path
) -> None:
    held = [files().build([(parts[0], weight)]) for weight in (1.0, 2.0, 3.0, 4.0)]
    for age, each in enumerate(held):
        os.utime(each.version.path, (1_000 + age, 1_000 + age))
    for each in held[1:]:
        each.release()
    again = files().find(held[1].key)  # used: now the youngest
    assert again is not None
    again.release()
    files().trim()
    assert names(tmp_path) == {held[0].key, held[1].key}  # the first is held
    held[0].release()
    files(capacity=1).trim()
    assert names(tmp_path) == {held[1].key}


def test_what_a_dead_process_left_is_cleared_away(
    files: Callable[..., CompositionFiles], parts: list[AdapterVersion], tmp_path: Path
) -> None:
    folder = tmp_path / "compositions"
    for name, age_s in ((".left", 2 * composition_files.STALE_S), (".being-built", 1.0)):
        (folder / name).mkdir(parents=True)
        at = time.time() - age_s
        os.utime(folder / name, (at, at))
    files().trim()
    assert names(tmp_path) == {".being-built"}


def test_an_empty_start(files: Callable[..., CompositionFiles]) -> None:
    files().trim()
    assert files().with_part("code@000000000000") == []
    assert not files().remove("0" * 24)
