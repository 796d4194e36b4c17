"""Everything that is checked about an adapter's files before an engine may see them. Needs no torch.

The order matters to whoever reads the error: names and links first (nothing suspicious is opened), then
hashes (a tampered file is called that, whatever else is wrong with it), then the base, the PEFT options, and
the weights.

Files can change after they were verified. `check_unchanged` compares them again, immediately before an
engine loads them; who can write to the folder between that and the load can still win the race, so the
folder must be writable by the operator only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.files import CONFIG_NAME, WEIGHTS_NAME, list_files, open_regular
from adaptive_lora.adapters.manifest import MANIFEST_NAME, UNLISTED, Manifest, read_manifest
from adaptive_lora.adapters.peft_config import parse_peft_config
from adaptive_lora.adapters.weights import WeightsScan, check_weights, scan_weights
from adaptive_lora.errors import HashMismatch, ManifestInvalid, UnsafeFile, WrongBase
from adaptive_lora.types import AdapterVersion, Probe

MAX_TEXT_BYTES = 64_000_000
"""Of one file that is not weights: a large tokenizer.json fits."""


def verify_adapter(
    folder: Path, *, base: BaseModelInfo, max_rank: int, composed: bool = False
) -> AdapterVersion:
    """Check the adapter in `folder` against `base` and name it by its content.

    `composed` allows the name of a composition, which no adapter from elsewhere may have.
    Raises the subclass of AdapterError that says what is wrong; its message names the file and the remedy.
    What `base` does not know (no fingerprint, no modules) is not checked.
    """
    files = list_files(folder)
    manifest = read_manifest(folder, composed=composed)
    scan, texts = _read_files(folder, files, manifest)
    _check_base(folder, manifest, base)
    for name, text in texts.items():
        _refuse_code(f"{folder.name}/{name}", text)
    config = parse_peft_config(texts[CONFIG_NAME], where=f"{folder.name}/{CONFIG_NAME}", max_rank=max_rank)
    rank = check_weights(scan, config, base, where=f"{folder.name}/{WEIGHTS_NAME}")
    return AdapterVersion(
        name=manifest.name,
        version=manifest.version,
        path=folder.resolve(),
        rank=rank,
        description=manifest.description,
        examples=manifest.examples,
        size_bytes=scan.size_bytes + sum(map(len, texts.values())),
        probes=tuple(Probe(probe.prompt, probe.answer) for probe in manifest.probes),
    )


def check_unchanged(adapter: AdapterVersion) -> None:
    """Hash the files of a verified adapter again, right before they are loaded. Raises HashMismatch,
    UnsafeFile."""
    manifest = read_manifest(adapter.path)
    if (manifest.name, manifest.version) != (adapter.name, adapter.version):
        raise HashMismatch(
            f"{adapter.path.name}/{MANIFEST_NAME} changed since {adapter.id} was verified: restart to "
            "verify it again; put new weights into a new folder"
        )
    _read_files(adapter.path, list_files(adapter.path), manifest)


def _read_files(
    folder: Path, files: list[Path], manifest: Manifest
) -> tuple[WeightsScan, Mapping[str, bytes]]:
    """Read each listed file once, compare its hash, and return what was read: later checks use these
    bytes."""
    for needed in (CONFIG_NAME, WEIGHTS_NAME):
        if needed not in manifest.files:
            raise ManifestInvalid(
                f"{folder.name}/{MANIFEST_NAME}: files does not list {needed}; write it again"
            )
    present = {path.name for path in files}
    for name in sorted(manifest.files.keys() - present):
        raise HashMismatch(f"{folder.name}/{name} is in the manifest but missing: restore the file")
    for name in sorted(present - manifest.files.keys() - set(UNLISTED)):
        raise UnsafeFile(
            f"{folder.name}/{name} is not in the manifest: remove it, or write the manifest again"
        )
    texts: dict[str, bytes] = {}
    scan = scan_weights(folder / WEIGHTS_NAME)
    for name, expected in manifest.files.items():
        if name == WEIGHTS_NAME:
            actual = scan.sha256
        else:
            texts[name] = _read_text(folder / name)
            actual = hashlib.sha256(texts[name]).hexdigest()
        if actual != expected:
            raise HashMismatch(
                f"{folder.name}/{name} differs from its manifest (SHA-256 {actual[:12]}…, expected "
                f"{expected[:12]}…): fetch the adapter again, or write the manifest again if you changed it "
                "yourself"
            )
    return scan, texts


def _read_text(path: Path) -> bytes:
    with open_regular(path) as file:
        text = file.read(MAX_TEXT_BYTES + 1)
    if len(text) > MAX_TEXT_BYTES:
        raise UnsafeFile(f"{path.parent.name}/{path.name} is larger than {MAX_TEXT_BYTES:,} bytes: remove it")
    return text


def _refuse_code(where: str, text: bytes) -> None:
    """`auto_map` names Python files that Transformers would fetch and run."""
    if not where.lower().endswith(".json"):  # some file systems do not tell config.JSON from config.json
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeFile(f"{where} is not valid JSON: remove it or save it again") from error
    if isinstance(content, dict) and "auto_map" in content:
        raise UnsafeFile(
            f"{where} sets auto_map, which loads code: remove the key and write the manifest again"
        )


def _check_base(folder: Path, manifest: Manifest, base: BaseModelInfo) -> None:
    """Fingerprints decide where both are known; else names, a local folder counting by its last part. A
    quantised base serves the adapters of its original, too."""
    if _is_for(manifest, base.name, base.fingerprint):
        return
    original = base.original
    if original is not None and _is_for(manifest, original.name, original.fingerprint):
        return
    where = f"{folder.name}/{MANIFEST_NAME}"
    remedy = "serve it with its own base, or train it again"
    if original is None:
        remedy += f"; if {base.name!r} is a quantised copy of it, set model.quantized_from"
    if manifest.base_fingerprint is not None and base.fingerprint is not None:
        raise WrongBase(
            f"{where}: trained for another base model (or another state of it) than {base.name!r} "
            f"(fingerprint {manifest.base_fingerprint[:12]}…, here {base.fingerprint[:12]}…): {remedy}"
        )
    raise WrongBase(
        f"{where}: trained for the base model {manifest.base_model!r}, but {base.name!r} is served: {remedy}"
    )


def _is_for(manifest: Manifest, name: str, fingerprint: str | None) -> bool:
    if manifest.base_fingerprint is not None and fingerprint is not None:
        return manifest.base_fingerprint == fingerprint
    return manifest.base_model == name or _last_part(manifest.base_model) == _last_part(name)


def _last_part(name: str) -> str:
    return PurePath(name).name
