"""A folder of models here and in object storage made alike, by checksums, as `aws s3 sync` does by size and
time.

    <url>/.adaptive-lora-sync.json           SHA-256 and size of every file; written last
    <url>/.adaptive-lora-sync.partial.json   while a push runs: what is surely there; the next push goes on
    from it <folder>/.adaptive-lora-sync/            while a pull runs: partial files, and a lock

A push that was interrupted is not pulled from until it is run again. A pulled file appears whole, and what
makes a folder a model (config.json, manifest.json) last.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from adaptive_lora.adapters.durable import disk_errors, only_one, sync
from adaptive_lora.adapters.files import sha256_of
from adaptive_lora.adapters.object_storage import ObjectFolder
from adaptive_lora.adapters.transfer import Checksum, download, in_parallel
from adaptive_lora.errors import Conflict, NotFound, StorageError, UnsafeLink, UnsafeName

INDEX_NAME = ".adaptive-lora-sync.json"
JOURNAL_NAME = ".adaptive-lora-sync.partial.json"
WORK_NAME = ".adaptive-lora-sync"
JOURNAL_EVERY_FILES = 16
JOURNAL_EVERY_BYTES = 64_000_000
"""Between two writings of it, whichever comes first."""
MAX_INDEX_BYTES = 64_000_000
_LAST = ("config.json", "manifest.json", "adapter_config.json")


def check_path(path: str) -> str:
    """The path, if it is a plain one that stays below its folder. Raises ValueError."""
    parts = path.split("/")
    is_plain = all(part not in ("", ".", "..") for part in parts) and path.isprintable() and "\\" not in path
    if not is_plain or parts[0].startswith(WORK_NAME):
        raise ValueError(f"{path[:80]!r} is no plain path below the folder")
    return path


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class Index(BaseModel):
    """The content of `.adaptive-lora-sync.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    files: dict[Annotated[str, AfterValidator(check_path)], Entry] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What would make the one side like the other."""

    transfer: Mapping[str, Entry] = field(default_factory=dict)
    unchanged: Mapping[str, Entry] = field(default_factory=dict)
    delete: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        return sum(entry.size for entry in self.transfer.values())


Progress = Callable[[int], None]


def plan_push(folder: Path, remote: ObjectFolder, *, delete: bool = False, jobs: int = 4) -> Plan:
    """Compare; hashes every file of `folder`. Raises NotFound if there is no such folder, UnsafeLink for a
    link."""
    if not folder.is_dir():
        raise NotFound(f"{str(folder)!r} is not a folder")
    local = _hashed(_files(folder), jobs)
    sizes = remote.list()
    known = _known(remote, sizes)
    same = {path for path in local if known.get(path) == local[path] and sizes.get(path) == local[path].size}
    ours = (INDEX_NAME, JOURNAL_NAME)
    return Plan(
        transfer={path: entry for path, entry in local.items() if path not in same},
        unchanged={path: entry for path, entry in local.items() if path in same},
        delete=tuple(path for path in sizes if path not in local and path not in ours) if delete else (),
    )


def push(
    plan: Plan,
    folder: Path,
    remote: ObjectFolder,
    *,
    jobs: int = 4,
    progress: Progress = lambda n_bytes: None,
) -> None:
    """Carry out `plan`. Interrupted, it leaves whole files and a journal, from which the next plan goes
    on."""
    sizes = remote.list()
    is_whole = INDEX_NAME in sizes and JOURNAL_NAME not in sizes
    if is_whole and not plan.transfer and not plan.delete:
        return
    before = _known(remote, sizes)
    # What others have pushed beside it stays, unless this push replaces or deletes it.
    replaced = plan.transfer.keys() | set(plan.delete)
    kept = {path: entry for path, entry in before.items() if path in sizes and path not in replaced}
    present = kept | dict(plan.unchanged)
    remote.write(JOURNAL_NAME, _dump(present))
    unwritten: list[Entry] = []
    lock = threading.Lock()

    def upload(path: str) -> None:
        entry = plan.transfer[path]
        remote.upload(folder / path, path)
        progress(entry.size)
        with lock:
            present[path] = entry
            unwritten.append(entry)
            n_bytes = sum(entry.size for entry in unwritten)
            if len(unwritten) >= JOURNAL_EVERY_FILES or n_bytes >= JOURNAL_EVERY_BYTES:
                remote.write(JOURNAL_NAME, _dump(present))
                unwritten.clear()

    try:
        in_parallel(jobs, upload, sorted(plan.transfer))
    finally:
        remote.write(JOURNAL_NAME, _dump(present))
    remote.write(INDEX_NAME, _dump(present))
    in_parallel(jobs, remote.delete, plan.delete)
    remote.delete(JOURNAL_NAME)


def plan_pull(remote: ObjectFolder, folder: Path, *, delete: bool = False, jobs: int = 4) -> Plan:
    """Compare; hashes what both sides have. Raises NotFound if nothing was pushed there, Conflict if a push
    has not ended."""
    sizes = remote.list()
    if JOURNAL_NAME in sizes:
        raise Conflict(f"a push to {remote.location} runs, or was interrupted: wait for it, or run it again")
    if INDEX_NAME not in sizes:
        raise NotFound(
            f"{remote.location} has no {INDEX_NAME}: push a folder there with `adaptive-lora models push`, "
            "which writes the checksums that a pull needs"
        )
    wanted = _read(remote, INDEX_NAME, sizes).files
    local = _files(folder) if folder.is_dir() else {}
    candidates = {
        path: file
        for path, file in local.items()
        if path in wanted and file.stat().st_size == wanted[path].size
    }
    same = {path for path, entry in _hashed(candidates, jobs).items() if entry == wanted[path]}
    return Plan(
        transfer={path: entry for path, entry in wanted.items() if path not in same},
        unchanged={path: entry for path, entry in wanted.items() if path in same},
        delete=tuple(path for path in local if path not in wanted) if delete else (),
    )


def pull(
    plan: Plan,
    remote: ObjectFolder,
    folder: Path,
    *,
    jobs: int = 4,
    progress: Progress = lambda n_bytes: None,
) -> None:
    """Carry out `plan`. Interrupted, it leaves whole files, old or new, and partial ones aside; the next one
    goes on.

    Raises HashMismatch if a file was replaced there and the push has not ended; Conflict if a pull is
    running.
    """
    work = folder / WORK_NAME
    with disk_errors(folder):
        work.mkdir(parents=True, exist_ok=True)
    with only_one(work / "lock", f"a pull into {str(folder)!r}"):

        def fetch(path: str) -> None:
            entry = plan.transfer[path]
            part = work / hashlib.sha256(f"{entry.sha256} {path}".encode()).hexdigest()
            checksum = Checksum("sha256", entry.sha256)
            download(remote, path, part, size=entry.size, checksum=checksum, progress=progress)
            _put_in_place(part, folder / path)

        # A folder is taken for a model by its config.json or manifest.json: these come when the rest is
        # there.
        last = {path for path in plan.transfer if PurePosixPath(path).name in _LAST}
        in_parallel(jobs, fetch, sorted(plan.transfer.keys() - last))
        in_parallel(jobs, fetch, sorted(last))
        with disk_errors(folder):
            for path in plan.delete:
                (folder / path).unlink(missing_ok=True)
                _remove_empty_folders((folder / path).parent, up_to=folder)
            shutil.rmtree(work)


def _put_in_place(part: Path, target: Path) -> None:
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        sync(target.parent)


def _remove_empty_folders(folder: Path, *, up_to: Path) -> None:
    while folder != up_to and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by its path from there, without our own and without `*.partial` folders,
    which hold downloads that have not ended."""
    found = {}
    with disk_errors(folder):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if name.startswith(WORK_NAME) or any(part.endswith(".partial") for part in name.split("/")):
                continue
            if path.is_symlink():
                raise UnsafeLink(
                    f"{str(path)!r} is a symbolic link: replace it by the file itself, or remove it"
                )
            if path.is_file():
                found[_named(name)] = path
    return found


def _named(name: str) -> str:
    try:
        return check_path(name)
    except ValueError as error:
        raise UnsafeName(f"{error}: rename the file") from error


def _hashed(files: Mapping[str, Path], jobs: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}

    def measure(path: str) -> None:
        entries[path] = Entry(sha256=sha256_of(files[path]), size=files[path].stat().st_size)

    in_parallel(jobs, measure, files)
    return {path: entries[path] for path in files}


def _known(remote: ObjectFolder, sizes: Mapping[str, int]) -> Mapping[str, Entry]:
    """What is surely there: as the last push says, or one that was interrupted."""
    return _read(remote, JOURNAL_NAME if JOURNAL_NAME in sizes else INDEX_NAME, sizes).files


def _read(remote: ObjectFolder, name: str, sizes: Mapping[str, int]) -> Index:
    """The index `name`; empty if it is not among `sizes`."""
    if name not in sizes:
        return Index()
    if sizes[name] > MAX_INDEX_BYTES:
        raise StorageError(
            f"{remote.location}/{name} is larger than {MAX_INDEX_BYTES:,} bytes: remove it, and push"
        )
    try:
        return Index.model_validate_json(remote.read(name, 0, sizes[name]))
    except ValidationError as error:
        raise StorageError(f"{remote.location}/{name} is damaged: remove it, and push again") from error


def _dump(files: Mapping[str, Entry]) -> bytes:
    return Index(files=dict(sorted(files.items()))).model_dump_json(indent=1).encode()
