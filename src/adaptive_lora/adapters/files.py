"""The files of an adapter folder: which may be there at all, and how they are opened."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adaptive_lora.errors import UnsafeFile, UnsafeLink

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
_TEXT_SUFFIXES = (".json", ".md", ".txt")
_TEXT_NAMES = ("LICENSE", "NOTICE")
ALLOWED = f"{WEIGHTS_NAME}, .json, .md and .txt files, LICENSE and NOTICE"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an adapter from outside may hold."""

    max_bytes: int
    """Of all its files together."""
    max_files: int


def is_allowed(name: str) -> bool:
    """Whether an adapter folder may hold a file of this name."""
    return name == WEIGHTS_NAME or Path(name).suffix.lower() in _TEXT_SUFFIXES or name in _TEXT_NAMES


def list_files(folder: Path) -> list[Path]:
    """The regular files of an adapter folder, sorted by name.

    An allow-list: the weights in safetensors, and text. Raises UnsafeLink for a link (the folder itself
    included), UnsafeFile for anything else: pickled weights, sub-folders, devices, files of unknown kinds.
    """
    if folder.is_symlink():
        raise UnsafeLink(f"adapter folder {folder.name!r} is a symbolic link: copy the folder itself")
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UnsafeFile(f"adapter folder {folder.name!r} cannot be read: {error.strerror}") from error
    for entry in entries:
        where = f"{folder.name}/{entry.name[:128]}"
        if entry.is_symlink():
            raise UnsafeLink(f"{where} is a symbolic link: replace it by the file itself")
        if not entry.is_file(follow_symlinks=False):
            raise UnsafeFile(f"{where} is not a regular file: an adapter folder is flat; remove it")
        if not is_allowed(entry.name):
            raise UnsafeFile(
                f"{where} may not be in an adapter folder: weights are accepted as {WEIGHTS_NAME} only, "
                "never as .bin, .pt, .pth, .pkl or .ckpt, which can run code when loaded; convert them with "
                "PEFT's save_pretrained(safe_serialization=True) and remove the file"
            )
    return [folder / entry.name for entry in entries]


def open_regular(path: Path) -> BinaryIO:
    """Open for reading, never through a link and never something that blocks. Raises UnsafeLink or
    UnsafeFile."""
    flags = (
        os.O_RDONLY
        | getattr(os, "O_NOFOLLOW", 0)
        | getattr(os, "O_NONBLOCK", 0)
        | getattr(os, "O_CLOEXEC", 0)
    )
    where = f"{path.parent.name}/{path.name}"
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if path.is_symlink():
            raise UnsafeLink(f"{where} is a symbolic link: replace it by the file itself") from error
        raise UnsafeFile(f"{where} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafeFile(f"{where} is not a regular file: remove it")
    return os.fdopen(descriptor, "rb")


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's content, in hex. Raises as `open_regular` does."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
