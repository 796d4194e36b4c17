"""Write what each image of Dockerfile.prod installs from the locks, as CycloneDX 1.6: `make sbom`.

    python -m scripts.sbom build/sbom       gateway.cdx.json, engine-cpu.cdx.json, engine.cdx.json

Every pin is a component, with the SHA-256 of each file that pip would take; one with a marker is optional,
and says its marker. The same locks make the same bytes: the serial number follows from the content, and
there is no time but SOURCE_DATE_EPOCH's. Locks know no edges, so all depend on nothing and we on all. What
the base image and Debian bring is not here: the SBOM of the image itself, which the release makes, has
that.

Runs in build/workflows (requirements/workflows.txt), and validates what it writes, offline.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from scripts.lock import ROOT, blocks, version

IMAGES = {
    "gateway": ("gateway",),
    "engine-cpu": ("torch-cpu", "cpu", "cloud"),
    "engine": ("gpu", "cloud"),
}
"""By target of Dockerfile.prod, the locks that it installs, in that order."""

MARKER = "adaptive-lora:marker"
FILES = "https://pypi.org/simple"
SERIALS = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/your-org/adaptive-lora-framework/sbom")


def document(image: str) -> str:
    """The SBOM of one image, valid; ends with a newline."""
    bom = Bom(components=_components(IMAGES[image]))
    bom.metadata.component = Component(
        type=ComponentType.APPLICATION,
        name="adaptive-lora",
        version=_our_version(),
        description=f"what the image {image!r} installs from requirements/",
        purl=PackageURL("pypi", name="adaptive-lora", version=_our_version()),
        bom_ref="adaptive-lora",
    )
    bom.register_dependency(bom.metadata.component, bom.components)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    # Without one there is no time at all, which the format allows, and the library's types do not.
    bom.metadata.timestamp = datetime.fromtimestamp(int(epoch), UTC) if epoch else None  # type: ignore[assignment]
    bom.serial_number = uuid.UUID(int=0)
    bom.serial_number = uuid.uuid5(SERIALS, JsonV1Dot6(bom).output_as_string())
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the SBOM of {image} is no CycloneDX 1.6: {problem}")
    return text


def _components(locks: Iterable[str]) -> list[Component]:
    """By pin; a layer may repeat one of the lock below it under another marker."""
    pins: dict[str, tuple[set[str], set[str]]] = {}
    for lock in locks:
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        for pin, block in blocks(text).items():
            markers, hashes = pins.setdefault(version(pin), (set(), set()))
            markers.add(pin.partition(";")[2].strip())
            hashes.update(re.findall(r"--hash=sha256:([0-9a-f]{64})", block))
    return [_component(pin, markers, hashes) for pin, (markers, hashes) in sorted(pins.items())]


def _component(pin: str, markers: set[str], hashes: set[str]) -> Component:
    name, _, its_version = pin.partition("==")
    purl = PackageURL("pypi", name=name.lower().replace("_", "-"), version=its_version)
    is_optional = "" not in markers
    component = Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=its_version,
        purl=purl,
        bom_ref=str(purl),
        scope=ComponentScope.OPTIONAL if is_optional else ComponentScope.REQUIRED,
        properties=[Property(name=MARKER, value=" or ".join(sorted(markers)))] if is_optional else (),
    )
    if hashes:  # of files, one of which is installed: a hash of the component itself would be one alone
        component.external_references.add(
            ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(f"{FILES}/{purl.name}/"),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in sorted(hashes)],
            )
        )
    return component


def _our_version() -> str:
    text = (ROOT / "src/adaptive_lora/__init__.py").read_text()
    (found,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return str(found)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m scripts.sbom FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        path = folder / f"{image}.cdx.json"
        path.write_text(document(image))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
