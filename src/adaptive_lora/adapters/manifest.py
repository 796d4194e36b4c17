"""`manifest.json`: what an adapter is called, what it is for, which base it belongs to, and the hashes of
its files.

The file's reference is docs/reference/adapter-manifest.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)

from adaptive_lora.adapters.base import base_fingerprint
from adaptive_lora.adapters.durable import write_whole
from adaptive_lora.adapters.files import list_files, open_regular, sha256_of
from adaptive_lora.errors import ManifestInvalid, UnsafeFile, UnsafeName
from adaptive_lora.types import Probe

__all__ = ["MANIFEST_NAME", "Manifest", "base_fingerprint", "read_manifest", "write_manifest"]

MANIFEST_NAME = "manifest.json"
UNLISTED = (MANIFEST_NAME, "README.md")
"""Files that the manifest does not hash: itself, and prose that no program reads."""
COMPOSITION = "composition"
"""The name under which weighted sums of agents are kept and served."""
RESERVED_NAMES = ("auto", "base", COMPOSITION)
"""Names that no agent may have: words of the model-name grammar, and what compositions are called."""

MAX_MANIFEST_BYTES = 8_000_000
MAX_EXAMPLES = 2_000
MAX_EXAMPLE_CHARS = 32_000
MAX_PROBES = 64
MAX_FILES = 64

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(name: str) -> str:
    """The name, if it is one that an adapter may have. Raises UnsafeName."""
    if not _NAME.fullmatch(name):
        raise UnsafeName(
            f"the adapter name {name[:80]!r} is not allowed: use 1 to 63 characters of a-z, 0-9, '_' and "
            "'-', starting with a letter or digit"
        )
    if name in RESERVED_NAMES:
        raise UnsafeName(f"the adapter name {name!r} is reserved: choose another")
    return name


def _check_name_of(name: str, info: ValidationInfo) -> str:
    is_composition = name == COMPOSITION and info.context == COMPOSITION
    return name if is_composition else check_name(name)


def _check_file_name(name: str) -> str:
    if not FILE_NAME.fullmatch(name):
        raise UnsafeName(
            f"the manifest lists a file named {name[:80]!r}: only plain file names inside the adapter's own "
            "folder are allowed (letters, digits, '.', '_', '-'; no '/' and no '..')"
        )
    return name


def _check_text(text: str) -> str:
    for character in text:
        if character not in "\n\t\r" and unicodedata.category(character) in ("Cc", "Cs"):
            raise ValueError(f"contains the control character U+{ord(character):04X}; remove it")
    if not text.strip():
        raise ValueError("is empty")
    return text


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, AfterValidator(_check_text)]


class ProbeEntry(BaseModel):
    """A prompt, and an answer that the adapter should find likelier than the base does."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Annotated[Text, StringConstraints(max_length=MAX_EXAMPLE_CHARS)]
    answer: Annotated[Text, StringConstraints(max_length=MAX_EXAMPLE_CHARS)]


class Manifest(BaseModel):
    """The content of a `manifest.json`. Frozen; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1]
    name: Annotated[str, AfterValidator(_check_name_of)]
    description: Annotated[Text, StringConstraints(max_length=2_000)]
    base_model: Annotated[Text, StringConstraints(max_length=512)]
    base_fingerprint: Sha256 | None = None
    examples: Annotated[
        tuple[Annotated[Text, StringConstraints(max_length=MAX_EXAMPLE_CHARS)], ...],
        Field(max_length=MAX_EXAMPLES, strict=False),
    ]
    probes: Annotated[tuple[ProbeEntry, ...], Field(max_length=MAX_PROBES, strict=False)] = ()
    pinned: bool = False
    """Whether it starts pinned: kept in a slot, whatever else is asked for."""
    files: Annotated[
        dict[Annotated[str, AfterValidator(_check_file_name)], Sha256],
        Field(min_length=1, max_length=MAX_FILES),
    ]

    @property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 over name, base and file hashes: what is served, not how it is
        described.

        Examples, probes and description belong to router and checks; a better example does not make other
        weights.
        """
        served = {"name": self.name, "base_model": self.base_model, "files": self.files}
        canonical = json.dumps(served, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def read_manifest(folder: Path, *, composed: bool = False) -> Manifest:
    """Read and validate `folder`/manifest.json. The other files are not looked at: that is `verify_adapter`.

    The name `COMPOSITION` is reserved for what `compose` has written: `composed` allows it.
    Raises ManifestInvalid (missing, not JSON, unknown or missing field, bad value), UnsafeFile or UnsafeLink
    (not a plain readable file), or UnsafeName (a name outside the grammar); the message names folder and
    field.
    """
    if not os.path.lexists(folder / MANIFEST_NAME):
        raise ManifestInvalid(
            f"adapter folder {folder.name!r} has no {MANIFEST_NAME}: write one with "
            "adaptive_lora.adapters.manifest.write_manifest"
        )
    with open_regular(folder / MANIFEST_NAME) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"{folder.name}/{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES:,} bytes")
    try:
        return Manifest.model_validate(json.loads(text), context=COMPOSITION if composed else None)
    except UnsafeName as error:
        raise UnsafeName(f"{folder.name}/{MANIFEST_NAME}: {error.message}") from None
    except ValidationError as error:
        raise ManifestInvalid(f"{folder.name}/{MANIFEST_NAME}: {_first(error)}") from None
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{folder.name}/{MANIFEST_NAME} is not valid JSON: {error}") from None


def write_manifest(
    folder: Path,
    *,
    name: str,
    description: str,
    examples: Sequence[str],
    base_model: str,
    base_fingerprint: str | None = None,
    probes: Sequence[Probe] = (),
    pinned: bool = False,
    composed: bool = False,
) -> Manifest:
    """Hash every file of `folder` (README.md and the manifest itself apart) and write manifest.json
    atomically.

    Raises UnsafeFile for what no served folder may hold (sub-folders, links, weights other than safetensors),
    ManifestInvalid or UnsafeName for bad values. Leaves an existing manifest as it is when it raises.
    """
    files = [path for path in list_files(folder) if path.name not in UNLISTED]
    if not any(path.suffix == ".safetensors" for path in files):
        raise UnsafeFile(
            f"adapter folder {folder.name!r} holds no .safetensors weights: save the adapter there first"
        )
    content = {
        "schema_version": 1,
        "name": name,
        "description": description,
        "base_model": base_model,
        "base_fingerprint": base_fingerprint,
        "examples": list(examples),
        "probes": [{"prompt": probe.prompt, "answer": probe.answer} for probe in probes],
        "pinned": pinned,
        "files": {path.name: sha256_of(path) for path in files},
    }
    try:
        manifest = Manifest.model_validate(content, context=COMPOSITION if composed else None)
    except ValidationError as error:
        raise ManifestInvalid(f"{folder.name}/{MANIFEST_NAME}: {_first(error)}") from None
    text = json.dumps(manifest.model_dump(exclude_defaults=True), indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / MANIFEST_NAME, text.encode())
    return manifest


def _first(error: ValidationError) -> str:
    """The first problem, as "field: what is wrong", without echoing whole values."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:80] for part in problem["loc"]) or "the document"
    return f"{where}: {problem['msg']}"
