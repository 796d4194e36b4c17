"""Hostile adapters, uploaded to the server's own process: refused, and nothing of them is left."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.serving.attacks.target import Target
from tests.serving.auth.signing import bearer, token
from tests.serving.auth.test_http import packed
from tests.serving.conftest import agent

Change = Callable[[tarfile.TarFile], None]


class Payload:
    """What a pickle runs when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, (f"touch {self._mark}",)


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **changes: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in changes.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


OUTSIDE = "../../../outside.json"
ENTRIES: dict[str, Change] = {
    "a name that leaves the folder": lambda tar: add(tar, OUTSIDE, b"{}"),
    "an absolute name": lambda tar: add(tar, "/outside.json", b"{}"),
    "a link": lambda tar: add(tar, "a.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": lambda tar: add(tar, "a.json", type=tarfile.LNKTYPE, linkname="adapter_config.json"),
    "a device": lambda tar: add(tar, "a.json", type=tarfile.CHRTYPE),
    "a program": lambda tar: add(tar, "modeling.py", b"raise SystemExit"),
    "too many files": lambda tar: [add(tar, f"{i}.json", b"{}") for i in range(100)],  # type: ignore[dict-item]
}


def upload(target: Target, content: bytes) -> httpx.Response:
    headers = bearer(token(scope="adapters:write")) | {"content-type": "application/x-tar"}
    url = f"{target.url}/adapters:upload"
    return httpx.post(url, content=content, headers=headers, trust_env=False, timeout=60)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "registry.db" not in path.name}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_hostile_archive_leaves_nothing(target: Target, tmp_path: Path, name: str) -> None:
    before = names(target.state.parent)
    archive = io.BytesIO(packed(agent("law", seed=11, folder=tmp_path)))
    with tarfile.open(fileobj=archive, mode="a") as tar:
        ENTRIES[name](tar)
    response = upload(target, archive.getvalue())
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unsafe_archive"), response.text
    assert names(target.state.parent) == before
    target.check_is_well()


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "weights.pickle"])
def test_a_pickle_is_never_loaded(target: Target, tmp_path: Path, name: str) -> None:
    """Beside good weights, and in their place: there is no other loader to fall back to."""
    mark = tmp_path / "ran"
    version = agent("law", seed=11, folder=tmp_path)
    weights = version.path / "adapter_model.safetensors"
    for path in (version.path / name, weights):
        path.write_bytes(pickle.dumps(Payload(mark)))
        response = upload(target, packed(version))
        assert response.status_code == 422, response.text
        path.unlink()
    assert not mark.exists()
    target.check_is_well()


def test_code_of_a_model_is_not_asked_for(target: Target, tmp_path: Path) -> None:
    """`auto_map` names code to run, for loaders with trust_remote_code."""
    version = agent("law", seed=11, folder=tmp_path)
    path = version.path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Model"}}))
    response = upload(target, packed(version))
    assert response.status_code == 422
    assert response.json()["error"]["code"] in ("hash_mismatch", "unsupported_adapter", "unsafe_file")


@pytest.mark.parametrize(
    "source",
    ["http://169.254.169.254/latest", "file:///etc", "/etc", "s3://bucket/x", "hf://org/x", "../x", "gs://x"],
)
def test_nothing_is_fetched_that_was_not_allowed(target: Target, source: str) -> None:
    headers = bearer(token(scope="adapters:write"))
    url = f"{target.url}/adapters"
    response = httpx.post(url, json={"source": source}, headers=headers, trust_env=False)
    assert response.status_code in (400, 403, 422), response.text
    target.check_is_well()
