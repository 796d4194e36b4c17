"""What the router knows, as one artefact: adapter versions, heads, thresholds and examples move together.

    <folder>/CURRENT                   the version that is served
    <folder>/history.jsonl             which version was made current, when and why; append-only
    <folder>/<version>/manifest.json   adapters, agents, calibration, encoder, SHA-256 of the other files
    <folder>/<version>/heads.npz       features and weights per stage
    <folder>/<version>/examples.jsonl  {"prompt": ..., "label": ...}

A version is named by the hash of its contents and never changes. It is written beside, synced and renamed;
CURRENT is replaced in one step: whoever reads sees the old or the new bundle, whole. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptive_lora.errors import BundleError
from adaptive_lora.router.calibration import Calibration
from adaptive_lora.router.encoder import Encoder
from adaptive_lora.router.examples import ExampleSet
from adaptive_lora.router.features import N_BUCKETS
from adaptive_lora.router.router import Router
from adaptive_lora.router.stage import Stage, StageName

_CURRENT, _HISTORY, _MANIFEST, _HEADS, _EXAMPLES = (
    "CURRENT",
    "history.jsonl",
    "manifest.json",
    "heads.npz",
    "examples.jsonl",
)
_VERSION_DIGITS = 12


class _Model(BaseModel):
    # Thresholds may be infinite, which JSON has no number for.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Manifest(_Model):
    """manifest.json."""

    schema_version: Literal[1]
    adapters: dict[str, str]
    """Version per adapter that the examples came from; empty for a router fitted on labelled prompts."""
    agents: tuple[str, ...]
    """In the order of the heads' columns."""
    stages: tuple[StageName, ...]
    encoder: str | None
    """Its version; None for n-grams alone."""
    n_buckets: int
    calibration: Calibration
    warnings: tuple[str, ...]
    files: dict[str, str]


class Entry(_Model):
    """One line of the history."""

    version: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Bundle:
    version: str
    manifest: Manifest
    router: Router


class BundleStore:
    """The bundles in one folder. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, router: Router, adapters: Mapping[str, str], *, why: str) -> str:
        """Write what `router` knows, make it current, and return its version.

        `adapters` maps the names to the versions whose examples it learnt from. The same knowledge gives the
        same version. Raises BundleError if the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked(), tempfile.TemporaryDirectory(dir=self._folder, prefix=".new-") as scratch:
                version = _write(Path(scratch) / "bundle", router, dict(adapters))
                if not (self._folder / version).exists():
                    (Path(scratch) / "bundle").rename(self._folder / version)
                    _sync(self._folder)
                self._make_current(version, why)
        except OSError as error:
            raise BundleError(f"the bundle cannot be written to {str(self._folder)!r}: {error}") from error
        return version

    def load(self, version: str | None = None, *, encoder: Encoder | None) -> Bundle:
        """The bundle `version`, by default the current one.

        Raises BundleError if there is none, if a file differs from its hash, or if `encoder` is not the one
        that it was fitted with.
        """
        wanted = version or self.current()
        manifest, contents = self._read(wanted)
        having = None if encoder is None else encoder.version
        if manifest.encoder != having or manifest.n_buckets != N_BUCKETS:
            raise BundleError(
                f"bundle {wanted} was fitted with the encoder {manifest.encoder or 'none'} and "
                f"{manifest.n_buckets} buckets, here are {having or 'none'} and {N_BUCKETS}: fit it again"
            )
        try:
            return Bundle(wanted, manifest, _router_of(manifest, contents, encoder))
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"bundle {wanted} is damaged: {error}") from error

    def manifest(self, version: str | None = None) -> Manifest:
        """Of `version`, by default the current one. Raises BundleError as `load` does."""
        return self._read(version or self.current())[0]

    def current(self) -> str:
        """Raises BundleError if the folder holds no bundle."""
        try:
            return (self._folder / _CURRENT).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{str(self._folder)!r} holds no router bundle: make one with `adaptive-lora router fit`"
            ) from error

    def history(self) -> tuple[Entry, ...]:
        """Oldest first."""
        try:
            text = (self._folder / _HISTORY).read_text(encoding="utf-8")
            # Not splitlines: what people say may hold other line breaks, which JSON does not escape.
            return tuple(Entry.model_validate_json(line) for line in text.split("\n") if line)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise BundleError(f"the history in {str(self._folder)!r} cannot be read: {error}") from error

    def rollback(self, version: str | None = None, *, why: str) -> str:
        """Make `version` current, by default the one before the current; returns it.

        Raises BundleError if there is no such bundle, or if it is damaged.
        """
        with self._locked():
            if version is None:
                current = self.current()
                made_current = [entry.version for entry in self.history()]
                # Back to before the current version came, however often somebody has gone to and fro.
                earlier = made_current[: made_current.index(current)] if current in made_current else []
                if not earlier:
                    raise BundleError(f"no bundle came before {current}: there is nothing to go back to")
                version = earlier[-1]
            self._read(version)
            self._make_current(version, why)
        return version

    def _read(self, version: str) -> tuple[Manifest, dict[str, bytes]]:
        if len(version) != _VERSION_DIGITS or set(version) - set("0123456789abcdef"):
            raise BundleError(f"{version!r} is no version of a bundle: 12 hexadecimal digits")
        folder = self._folder / version
        try:
            raw = (folder / _MANIFEST).read_bytes()
            manifest = Manifest.model_validate_json(raw)
            contents = {name: (folder / name).read_bytes() for name in (_HEADS, _EXAMPLES)}
        except FileNotFoundError as error:
            raise BundleError(f"there is no bundle {version} in {str(self._folder)!r}") from error
        except (OSError, ValidationError) as error:
            raise BundleError(f"bundle {version} cannot be read: {error}") from error
        if _digest(raw)[:_VERSION_DIGITS] != version:
            raise BundleError(f"bundle {version}: {_MANIFEST} has been changed; restore it, or fit again")
        for name, content in contents.items():
            if _digest(content) != manifest.files.get(name):
                raise BundleError(f"bundle {version}: {name} differs from its SHA-256 in {_MANIFEST}")
        return manifest, contents

    def _make_current(self, version: str, why: str) -> None:
        entry = Entry(version=version, at=datetime.now(UTC), why=why)
        with (self._folder / _HISTORY).open("a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft = self._folder / f".{_CURRENT}"
        _write_synced(draft, version.encode() + b"\n")
        draft.replace(self._folder / _CURRENT)
        _sync(self._folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            file = (self._folder / ".lock").open("w")
        except OSError as error:
            raise BundleError(f"{str(self._folder)!r} cannot be written: {error}") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _write(folder: Path, router: Router, adapters: dict[str, str]) -> str:
    """Write the files to the new `folder`; returns the version."""
    folder.mkdir()
    arrays: dict[str, Any] = {}
    for stage in router.stages:
        arrays |= {f"{stage.name}.features": stage.features, f"{stage.name}.weights": stage.weights}
    with (folder / _HEADS).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    examples = router.examples
    rows = (
        json.dumps({"prompt": text, "label": examples.agents[label]})
        for text, label in zip(examples.texts, examples.labels, strict=True)
    )
    _write_synced(folder / _EXAMPLES, "".join(row + "\n" for row in rows).encode())
    manifest = Manifest(
        schema_version=1,
        adapters=adapters,
        agents=router.agents,
        stages=tuple(stage.name for stage in router.stages),
        encoder=router.encoder_version,
        n_buckets=N_BUCKETS,
        calibration=router.calibration,
        warnings=examples.warnings,
        files={name: _digest((folder / name).read_bytes()) for name in (_HEADS, _EXAMPLES)},
    )
    raw = manifest.model_dump_json(indent=1).encode()
    _write_synced(folder / _MANIFEST, raw)
    _sync(folder)
    return _digest(raw)[:_VERSION_DIGITS]


def _router_of(manifest: Manifest, contents: Mapping[str, bytes], encoder: Encoder | None) -> Router:
    column = {agent: i for i, agent in enumerate(manifest.agents)}
    rows = [json.loads(line) for line in contents[_EXAMPLES].decode().splitlines()]
    labels = np.array([column[row["label"]] for row in rows], np.int64)
    examples = ExampleSet(manifest.agents, tuple(row["prompt"] for row in rows), labels, manifest.warnings)
    with np.load(io.BytesIO(contents[_HEADS]), allow_pickle=False) as arrays:
        stages = [
            Stage(name, arrays[f"{name}.features"], arrays[f"{name}.weights"]) for name in manifest.stages
        ]
    for stage in stages:
        if len(stage.features) != len(labels) or stage.weights.shape[1] != len(manifest.agents):
            raise ValueError(f"{stage.name}: {_HEADS} does not fit the examples")
    return Router(examples, encoder, stages, manifest.calibration)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
