"""Models and adapters on the Hugging Face hub: one commit of a repository, read in ranges, checked by hash.

`huggingface_hub` gives metadata, addresses and credentials (HF_TOKEN, HF_ENDPOINT, `hf auth login`). The
bytes are read here, since its own download starts large files again when it is interrupted.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_lora.adapters.durable import disk_errors, only_one, sync, write_whole
from adaptive_lora.adapters.transfer import Answer, Checksum, download, in_parallel, with_retries
from adaptive_lora.errors import (
    AdaptiveLoraError,
    Conflict,
    HashMismatch,
    InvalidRequest,
    NotFound,
    StorageError,
    UnsafeFile,
)

TIMEOUT_S = 30
"""To connect, and without a byte."""
SOURCE_NAME = "adaptive-lora-source.json"
"""In a downloaded model's folder: repository, commit, and what its files were when they were checked."""

_MODEL_FILE = re.compile(
    r"(?!consolidated)[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|json|jinja|model|txt)|LICENSE"
)
"""Weights in safetensors, configuration, tokenizer (tokenizer.model is sentencepiece's data, merges.txt a
table): nothing that runs. `consolidated.safetensors` is Mistral's second copy of the same weights."""


@dataclass(frozen=True, slots=True)
class HubFile:
    size: int
    checksum: Checksum


class HubRepo:
    """A `transfer.Source`: the model repository `name` at one commit, or a folder in it."""

    def __init__(self, name: str, revision: str | None = None, folder: str = "") -> None:
        """Resolves `revision`, by default the main branch, to a commit.

        Raises NotFound; StorageError, also for what is gated or private; StorageUnavailable.
        """
        self.name = name
        self._folder = folder + "/" if folder else ""
        info = self._try(f"asking for {name}", lambda: _model_info(name, revision))
        self.commit: str = info.sha
        self.files: Mapping[str, HubFile] = {
            sibling.rfilename.removeprefix(self._folder): _file(sibling)
            for sibling in info.siblings
            if sibling.rfilename.startswith(self._folder)
        }

    def size_of(self, name: str) -> int:
        if name not in self.files:
            raise NotFound(f"{self.name}@{self.commit[:12]} has no file {self._folder}{name}")
        return self.files[name].size

    def read(self, name: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        return self._try(f"reading {name} of {self.name}", lambda: self._range(name, start, end))

    def _range(self, name: str, start: int, end: int) -> bytes:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(self.name, self._folder + name, revision=self.commit)
        headers = build_hf_headers() | {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        content = bytearray()
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
            hf_raise_for_status(response)
            if response.status_code != 206 and start > 0:
                raise StorageError(f"{url} gives no ranges of a file: it cannot be resumed from there")
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > end - start:
                    break
        if len(content) < end - start or (response.status_code == 206 and len(content) > end - start):
            raise OSError(f"{len(content)} bytes came instead of {end - start}")
        return bytes(content[: end - start])

    def _try(self, what: str, action: Callable[[], Answer]) -> Answer:
        return with_retries(what, action, lambda error: _translated(error, self.name))


@dataclass(frozen=True, slots=True)
class DownloadedModel:
    folder: Path
    name: str
    commit: str
    n_bytes: int
    was_there: bool


def download_model(
    name: str,
    folder: Path,
    *,
    revision: str | None = None,
    jobs: int = 4,
    resolved: Callable[[str, int], None] = lambda commit, n_bytes: None,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> DownloadedModel:
    """Download the base model `name` into the new `folder`: safetensors, configuration and tokenizer, no
    code.

    Goes on where an interrupted download stopped. `folder` appears when every file has been checked; a
    complete one of the same commit is only checked. `resolved` is told the commit and the size before
    anything is downloaded. Raises Conflict if `folder` is something else, HashMismatch, UnsafeFile without
    safetensors, and as `HubRepo`.
    """
    repo = HubRepo(name, revision)
    files = {path: file for path, file in repo.files.items() if _MODEL_FILE.fullmatch(path)}
    if "config.json" not in files or not any(path.endswith(".safetensors") for path in files):
        raise UnsafeFile(
            f"{name} at {repo.commit[:12]} has no config.json with safetensors weights: choose a model that "
            "has, or convert it with Transformers' save_pretrained"
        )
    n_bytes = sum(file.size for file in files.values())
    resolved(repo.commit, n_bytes)
    if folder.exists():
        _check(folder, repo, files, progress)
        return DownloadedModel(folder, name, repo.commit, n_bytes, was_there=True)
    partial = folder.with_name(folder.name + ".partial")
    with disk_errors(folder):
        partial.mkdir(parents=True, exist_ok=True)
    lock = partial / ".lock"
    with only_one(lock, f"a download into {str(folder)!r}"):
        for path in partial.iterdir():
            if path.name not in files and path != lock:
                path.unlink() if not path.is_dir() else shutil.rmtree(path)
        _download_all(repo, files, partial, jobs, progress)
        with disk_errors(folder):
            write_whole(partial / SOURCE_NAME, _source(repo, files))
            lock.unlink()
            partial.rename(folder)
            sync(folder.parent)
    return DownloadedModel(folder, name, repo.commit, n_bytes, was_there=False)


def _download_all(
    repo: HubRepo, files: Mapping[str, HubFile], to: Path, jobs: int, progress: Callable[[int], None]
) -> None:
    def fetch(name: str) -> None:
        file = files[name]
        download(repo, name, to / name, size=file.size, checksum=file.checksum, progress=progress)

    in_parallel(jobs, fetch, sorted(files, key=lambda name: files[name].size))


def _check(
    folder: Path, repo: HubRepo, files: Mapping[str, HubFile], progress: Callable[[int], None]
) -> None:
    try:
        source = json.loads((folder / SOURCE_NAME).read_bytes())
        found = (source["repository"], source["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        found = (None, None)
    if found != (repo.name, repo.commit):
        what = f"{found[0]} at {str(found[1])[:12]}" if found[0] else "something else"
        raise Conflict(
            f"{str(folder)!r} holds {what}, not {repo.name} at {repo.commit[:12]}: choose another --output, "
            "ask for that --revision, or remove the folder"
        )
    for name, file in files.items():
        digest = file.checksum.start(file.size)
        with disk_errors(folder / name), (folder / name).open("rb") as content:
            while piece := content.read(1 << 20):
                digest.update(piece)
                progress(len(piece))
        if digest.hexdigest() != file.checksum.hex:
            raise HashMismatch(
                f"{str(folder / name)!r} has changed since it was downloaded: remove the folder, and "
                "download again"
            )


def _source(repo: HubRepo, files: Mapping[str, HubFile]) -> bytes:
    entries = {
        name: {"size": file.size, file.checksum.kind: file.checksum.hex}
        for name, file in sorted(files.items())
    }
    content = {"repository": repo.name, "commit": repo.commit, "files": entries}
    return (json.dumps(content, indent=2) + "\n").encode()


def _model_info(name: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S)


def _file(sibling: Any) -> HubFile:
    if sibling.lfs is not None:
        return HubFile(sibling.lfs.size, Checksum("sha256", sibling.lfs.sha256))
    return HubFile(sibling.size, Checksum("git-sha1", sibling.blob_id))


def _translated(error: Exception, name: str) -> AdaptiveLoraError | None:
    """What to raise at once; None for what may pass."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return StorageError(
            f"{name} is gated: accept its conditions at https://huggingface.co/{name}, make a token that may "
            "read it at https://huggingface.co/settings/tokens, and set HF_TOKEN to it"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFound(
            f"the hub knows no model {name}, or it is private: check the name, or set HF_TOKEN to a token "
            "that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(f"{name} has no such revision: give a branch, a tag or a commit")
    if isinstance(error, errors.EntryNotFoundError):
        return NotFound(f"{name} has no such file at this commit")
    if isinstance(error, errors.HFValidationError):
        return InvalidRequest(f"{name[:100]!r} is no name of a model: give organisation/name")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return StorageError("the hub is not asked while HF_HUB_OFFLINE is set: unset it")
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status in (401, 403):
        return StorageError(f"the hub refuses access to {name}: set HF_TOKEN to a token that may read it")
    if status is not None and status < 500 and status not in (408, 416, 429):
        return StorageError(f"the hub refuses to give {name} (status {status}): update huggingface_hub")
    return None
