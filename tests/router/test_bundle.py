from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from adaptive_lora.errors import BundleError
from adaptive_lora.router.bundle import BundleStore
from adaptive_lora.router.encoder import OnnxEncoder
from adaptive_lora.router.router import Router

Fleet = dict[str, list[str]]


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "bundles")


@pytest.fixture(scope="module")
def ngrams(fleet: Fleet) -> Router:
    return Router.fit(fleet)


def test_what_is_loaded_decides_as_what_was_saved(
    store: BundleStore, router: Router, unseen: Fleet, far: tuple[str, ...], encoder: OnnxEncoder
) -> None:
    version = store.save(router, {"music": "3f9c2a000001"}, why="first")
    bundle = store.load(encoder=encoder if router.encoder_version else None)
    assert (bundle.version, bundle.manifest.adapters) == (version, {"music": "3f9c2a000001"})
    for prompt in (*far, *(prompt for prompts in unseen.values() for prompt in prompts)):
        assert bundle.router.route(prompt, explain=True) == router.route(prompt, explain=True)
    assert bundle.router.report == router.report


def test_the_same_knowledge_is_the_same_version(store: BundleStore, ngrams: Router) -> None:
    first = store.save(ngrams, {}, why="one")
    assert store.save(ngrams, {}, why="two") == first
    assert [entry.why for entry in store.history()] == ["one", "two"]
    assert store.save(ngrams, {"music": "other"}, why="three") != first


def test_thresholds_that_are_infinite_survive(store: BundleStore) -> None:
    few = Router.fit({"a": ["play a song"]}, max_error=0.05)
    store.save(few, {}, why="few")
    loaded = store.load(encoder=None).router.calibration
    assert loaded.min_confidence == np.inf
    assert np.isnan(loaded.held_out_accuracy)
    assert loaded.scales == few.calibration.scales


@pytest.mark.parametrize("why", ["two\u2028lines", "next\u0085line", "a\nb"])
def test_whatever_is_said_of_a_bundle_its_history_is_read(
    store: BundleStore, ngrams: Router, why: str
) -> None:
    first = store.save(ngrams, {}, why=why)
    store.save(ngrams, {"music": "other"}, why="second")
    assert [entry.why for entry in store.history()] == [why, "second"]
    assert store.rollback(why="back") == first


def test_rolling_back_is_one_step_and_moves_everything(store: BundleStore, ngrams: Router) -> None:
    first = store.save(ngrams, {"music": "v1"}, why="first")
    second = store.save(ngrams.without_agent("music"), {}, why="second")
    third = store.save(ngrams.without_agent("cooking"), {"music": "v1"}, why="third")
    assert store.current() == third
    assert store.rollback(why="worse") == second
    assert "music" not in store.load(encoder=None).router.agents
    assert store.rollback(why="still worse") == first
    assert store.load(encoder=None).manifest.adapters == {"music": "v1"}
    with pytest.raises(BundleError, match="nothing to go back to"):
        store.rollback(why="too far")
    assert store.rollback(third, why="forward again") == third
    assert [entry.version for entry in store.history()] == [first, second, third, second, first, third]


@pytest.mark.parametrize("name", ["heads.npz", "examples.jsonl", "manifest.json"])
def test_a_changed_file_is_refused(store: BundleStore, ngrams: Router, tmp_path: Path, name: str) -> None:
    good = store.save(ngrams, {}, why="good")
    bad = store.save(ngrams.without_agent("music"), {}, why="bad")
    path = tmp_path / "bundles" / bad / name
    path.write_bytes(
        path.read_bytes().replace(b"cooking", b"cookinG").replace(b"weights", b"weightS") + b"\n"
    )
    with pytest.raises(BundleError):
        store.load(encoder=None)
    assert store.rollback(why="damaged") == good
    with pytest.raises(BundleError):
        store.rollback(bad, why="no")
    assert store.current() == good


def test_arrays_that_need_pickle_are_refused(store: BundleStore, ngrams: Router, tmp_path: Path) -> None:
    """Whoever can write the folder can write hashes, too: loading must still execute nothing."""
    import hashlib

    version = store.save(ngrams, {}, why="good")
    folder = tmp_path / "bundles" / version
    with (folder / "heads.npz").open("wb") as file:
        evil = np.array([Path("x")], dtype=object)
        np.savez(file, **{"ngrams.features": evil, "ngrams.weights": evil})
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["heads.npz"] = hashlib.sha256((folder / "heads.npz").read_bytes()).hexdigest()
    raw = json.dumps(manifest).encode()
    forged = hashlib.sha256(raw).hexdigest()[:12]
    (folder / "manifest.json").write_bytes(raw)
    folder.rename(folder.parent / forged)
    with pytest.raises(BundleError, match="damaged"):
        store.load(forged, encoder=None)


def test_another_encoder_is_refused(store: BundleStore, ngrams: Router, encoder: OnnxEncoder) -> None:
    store.save(ngrams, {}, why="n-grams")
    with pytest.raises(BundleError, match="fit it again"):
        store.load(encoder=encoder)


def test_what_is_not_there(store: BundleStore, ngrams: Router, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no router bundle"):
        store.load(encoder=None)
    store.save(ngrams, {}, why="good")
    with pytest.raises(BundleError, match="there is no bundle 0123456789ab"):
        store.load("0123456789ab", encoder=None)
    with pytest.raises(BundleError, match="is no version"):
        store.load("../../etc", encoder=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        BundleStore(tmp_path / "file").save(ngrams, {}, why="no folder")


def _save_for_ever(folder: Path, routers: list[Router]) -> None:
    store = BundleStore(folder)
    for turn in range(10_000):
        store.save(routers[turn % 2], {}, why=str(turn))


def test_a_killed_writer_leaves_a_whole_bundle(ngrams: Router, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    routers = [ngrams, ngrams.without_agent("music")]
    store = BundleStore(folder)
    versions = {store.save(router, {}, why="known") for router in routers}
    for turn in range(8):
        for version in versions - {store.current()}:
            _remove(folder / version)
        writer = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(folder, routers))
        writer.start()
        time.sleep(0.02 + 0.013 * turn)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert store.load(encoder=None).version in versions
        assert {entry.version for entry in store.history()} == versions


def _remove(folder: Path) -> None:
    for path in folder.iterdir() if folder.exists() else ():
        path.unlink()
    if folder.exists():
        folder.rmdir()
