"""`make sbom`: every pin of every image's locks, with version, purl and hashes; the same bytes each time."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import install

ROOT = Path(__file__).parents[2]
IMAGES = {"gateway": ["gateway"], "engine-cpu": ["torch-cpu", "cpu", "cloud"], "engine": ["gpu", "cloud"]}
pytestmark = [pytest.mark.acceptance]


def written(folder: Path, **environment: str) -> dict[str, bytes]:
    python = install.install_tools("workflows") / "bin/python"
    command = [str(python), "-m", "scripts.sbom", str(folder)]
    environ = {"PATH": os.environ["PATH"], **environment}
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    return {path.name.removesuffix(".cdx.json"): path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Written and so validated: scripts/sbom.py refuses what the schema does not allow."""
    return written(tmp_path_factory.mktemp("sbom"), PYTHONHASHSEED="1")


@pytest.fixture(scope="module")
def documents(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    return {image: json.loads(text) for image, text in files.items()}


def pins(lock: str) -> dict[tuple[str, str], tuple[bool, set[str]]]:
    """By name and version: whether it has no marker, and the hashes; read as pip would read the lock."""
    found = {}
    text = (ROOT / f"requirements/{lock}.txt").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            words, *hashes = re.split(r"\s+--hash=", line.strip())
            requirement = Requirement(words)
            (pin,) = requirement.specifier
            is_always = requirement.marker is None
            found[canonicalize_name(requirement.name), pin.version] = is_always, set(hashes)
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_every_pin_is_there_with_version_purl_and_hashes(
    documents: dict[str, dict[str, Any]], image: str
) -> None:
    expected: dict[tuple[str, str], tuple[bool, set[str]]] = {}
    for lock in IMAGES[image]:
        for pin, (is_always, hashes) in pins(lock).items():
            before, others = expected.get(pin, (False, set()))
            expected[pin] = before or is_always, others | hashes
    found = {}
    for component in documents[image]["components"]:
        name, version = canonicalize_name(component["name"]), component["version"]
        assert component["purl"] == f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
        files = [ref for ref in component.get("externalReferences", ()) if ref["type"] == "distribution"]
        assert all(each["alg"] == "SHA-256" for file in files for each in file["hashes"])
        hashes = {f"sha256:{each['content']}" for file in files for each in file["hashes"]}
        is_always = component["scope"] == "required"
        assert is_always or component["properties"][0]["name"] == "adaptive-lora:marker"
        found[name, version] = is_always, hashes
    assert found == expected
    without = {name for (name, _), (_, hashes) in found.items() if not hashes}
    assert without == ({"torch"} if image == "engine-cpu" else set())  # docs/adr/0002


def test_the_images_install_these_locks() -> None:
    text = (ROOT / "Dockerfile.prod").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS ([\w-]+)-venv\n(.*?)^(?=FROM )", text, re.MULTILINE | re.DOTALL))
    installed = {
        image: re.findall(r"-r requirements/([\w-]+)\.txt", stage) for image, stage in stages.items()
    }
    assert installed == IMAGES


def test_the_same_locks_make_the_same_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    assert files.keys() == IMAGES.keys()
    assert written(tmp_path, PYTHONHASHSEED="2") == files
    assert b"timestamp" not in files["gateway"]
    assert len({json.loads(text)["serialNumber"] for text in files.values()}) == len(IMAGES)


def test_the_time_is_the_sources(tmp_path: Path) -> None:
    found = written(tmp_path, SOURCE_DATE_EPOCH="1700000000")
    assert json.loads(found["gateway"])["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
