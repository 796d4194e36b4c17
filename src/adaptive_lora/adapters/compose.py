"""A weighted sum of adapters as one adapter, which an engine serves like any other.

By rank concatenation it is exact: A = [A1; A2], B = [w1 s1 B1, w2 s2 B2], where s is the scaling of each
part, and the new one's is 1. Only where the summed rank exceeds the engine's is a module reduced, and the
error stated. The methods, and when they help, are in docs/explanation/composition.md.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from adaptive_lora.adapters.base import BaseModelInfo
from adaptive_lora.adapters.compose_module import Method, Module, open_part
from adaptive_lora.adapters.durable import disk_errors, sync, write_whole
from adaptive_lora.adapters.files import CONFIG_NAME, WEIGHTS_NAME
from adaptive_lora.adapters.manifest import COMPOSITION, read_manifest, write_manifest
from adaptive_lora.adapters.safetensors_io import write_tensors
from adaptive_lora.adapters.verify import check_unchanged, verify_adapter
from adaptive_lora.errors import Conflict, InvalidRequest
from adaptive_lora.types import AdapterVersion

__all__ = ["Composed", "Method", "Parts", "compose", "composition_key", "part_ids", "read_composed"]

Parts = Sequence[tuple[AdapterVersion, float]]

RECIPE_NAME = "composition.json"
"""Beside the weights: what was composed, how, and the error."""
_FORMAT = 1
"""Part of the key: another number when the same request would give other weights than before."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A composition on disk. An error is the Frobenius norm of what is written minus what was asked for,
    relative to that of the latter; 0 means that nothing was reduced, and what differs is float32's
    rounding."""

    version: AdapterVersion
    relative_error: float
    """Over all modules together."""
    worst_module: str
    worst_error: float
    """Of the module that lost most."""


def composition_key(
    parts: Parts, *, max_rank: int, method: Method = "cat", density: float = 0.5, seed: int = 0
) -> str:
    """Names a request by its content, in 24 hex digits: the same key, the same composition."""
    request = {"format": _FORMAT, "max_rank": max_rank, **_request(_canonical(parts), method, density, seed)}
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def compose(
    parts: Parts,
    destination: Path,
    *,
    max_rank: int,
    method: Method = "cat",
    density: float = 0.5,
    seed: int = 0,
) -> Composed:
    """Write the composition of `parts` to the new folder `destination`, which appears when it is whole.

    Modules whose summed rank exceeds `max_rank` are reduced to it. `density` is the share of entries that
    TIES and DARE keep, `seed` decides which ones DARE keeps. One module is in memory at a time. The same
    request gives the same bytes, and so the same version; where something is reduced, on the same machine and
    libraries.

    Raises HashMismatch or UnsafeFile if a part's files are not those that were verified, WrongModules if
    parts have different shapes, InvalidRequest for values out of range, Conflict if `destination` exists,
    StorageError if the disk fails.
    """
    if not 0 < density <= 1:
        raise InvalidRequest(f"density is {density}: it is a share, above 0 and at most 1")
    if destination.exists():
        raise _exists(destination)
    chosen = _canonical(parts)
    for version, _ in chosen:
        check_unchanged(version)
    with disk_errors(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}-"))
        try:
            with ExitStack() as stack:
                opened = [stack.enter_context(open_part(version, weight)) for version, weight in chosen]
                paths = sorted(frozenset[str]().union(*(part.modules for part in opened)))
                modules = [
                    Module(path, [part for part in opened if path in part.modules], max_rank, method)
                    for path in paths
                ]
                declared = {name: kind for module in modules for name, kind in module.declared.items()}
                # On cores that an engine keeps busy, the threads of a BLAS spend their time waiting.
                one_core = threadpool_limits(limits=1, user_api="blas")
                with one_core, write_tensors(folder / WEIGHTS_NAME, declared) as writer:
                    measure = not all(module.is_exact for module in modules)
                    losses = {
                        module.path: module.write(writer, density=density, seed=seed, measure=measure)
                        for module in modules
                    }
            base = read_manifest(chosen[0][0].path)
            config = _peft_config({module.path: module.rank for module in modules}, base.base_model)
            write_whole(folder / CONFIG_NAME, _json(config))
            recipe = _request(chosen, method, density, seed) | _errors(losses)
            write_whole(folder / RECIPE_NAME, _json(recipe))
            write_manifest(
                folder,
                name=COMPOSITION,
                description=_description(recipe),
                examples=(),
                base_model=base.base_model,
                base_fingerprint=base.base_fingerprint,
                composed=True,
            )
            folder.chmod(0o755)
            _appear(folder, destination)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return read_composed(destination, max_rank=max_rank)


def read_composed(folder: Path, *, max_rank: int) -> Composed:
    """The composition in a folder that `compose` wrote, verified like any adapter. Raises AdapterError."""
    base = BaseModelInfo(read_manifest(folder, composed=True).base_model)
    version = verify_adapter(folder, base=base, max_rank=max_rank, composed=True)
    recipe = json.loads((folder / RECIPE_NAME).read_bytes())
    return Composed(version, recipe["relative_error"], recipe["worst_module"], recipe["worst_error"])


def part_ids(folder: Path) -> frozenset[str]:
    """The ids of the versions that a composition on disk is made of; empty if the folder is damaged."""
    try:
        return frozenset(json.loads((folder / RECIPE_NAME).read_bytes())["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _canonical(parts: Parts) -> list[tuple[AdapterVersion, float]]:
    """In order of ids; a version that stands there twice has the sum of its weights."""
    if not parts:
        raise InvalidRequest("a composition needs at least one part")
    versions: dict[str, AdapterVersion] = {}
    weights: dict[str, float] = {}
    for version, weight in parts:
        if not (math.isfinite(weight) and weight > 0):
            raise InvalidRequest(f"the weight of {version.id} is {weight}: it must be a number above 0")
        versions[version.id] = version
        weights[version.id] = weights.get(version.id, 0.0) + weight
    return [(versions[version_id], weights[version_id]) for version_id in sorted(versions)]


def _request(parts: Parts, method: Method, density: float, seed: int) -> dict[str, Any]:
    """What decides the weights, and nothing that does not."""
    request: dict[str, Any] = {"method": method, "parts": {version.id: weight for version, weight in parts}}
    if method != "cat":
        request["density"] = density
    if method.startswith("dare"):
        request["seed"] = seed
    return request


def _errors(losses: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """From squared norms of (error, whole) by module."""
    errors = {path: math.sqrt(lost / whole) if whole else 0.0 for path, (lost, whole) in losses.items()}
    worst = max(errors, key=lambda path: errors[path])
    lost, whole = (math.fsum(column) for column in zip(*losses.values(), strict=True))
    return {
        "relative_error": round(math.sqrt(lost / whole), 6) if whole else 0.0,
        "worst_module": worst,
        "worst_error": round(errors[worst], 6),
    }


def _peft_config(ranks: Mapping[str, int], base_model: str) -> dict[str, Any]:
    """Plain LoRA whose alpha is its rank in every module, so that the scaling is 1."""
    rank = max(ranks.values())
    pattern = _pattern(ranks, rank)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ranks),
    }


def _pattern(ranks: Mapping[str, int], common: int) -> dict[str, int]:
    """The ranks that are not `common`; by the last name alone ("up_proj") where all modules of it agree,
    since loaders try one pattern after the other."""
    by_name: dict[str, set[int]] = {}
    for path, rank in ranks.items():
        by_name.setdefault(path.rpartition(".")[2], set()).add(rank)
    pattern = {}
    for path, rank in ranks.items():
        name = path.rpartition(".")[2]
        if rank != common:
            pattern[name if len(by_name[name]) == 1 else path] = rank
    return pattern


def _appear(folder: Path, destination: Path) -> None:
    sync(folder)
    try:
        folder.rename(destination)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # somebody else composed the same meanwhile
            raise _exists(destination) from None
        raise
    sync(destination.parent)


def _exists(destination: Path) -> Conflict:
    return Conflict(f"the folder {destination.name!r} exists: choose another, or remove it")


def _description(recipe: Mapping[str, Any]) -> str:
    total = " + ".join(f"{weight:g} x {version_id}" for version_id, weight in recipe["parts"].items())
    return f"{total} ({recipe['method']}, relative error {recipe['relative_error']:.2g})"


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
