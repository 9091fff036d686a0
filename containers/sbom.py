"""The packages of an image as CycloneDX 1.6 JSON on standard output, from what pip says of them on standard input.

    docker run --rm --entrypoint python IMAGE -m pip inspect | python containers/sbom.py NAME VERSION > sbom.json
    pip install --dry-run --ignore-installed --report - '.[serve,aws,postgres]' | python containers/sbom.py NAME VERSION

The first tells what is in an image; the second what would be in one that is built now, with the hash of each file. The
same packages give the same bytes: no time and no serial number. The operating system's packages are not pip's: they are
in the findings of the registry's scan.

Source: CycloneDX 1.6 JSON reference (cyclonedx.org), package-url specification for PyPI, PEP 639; read 2026-11.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def bill_of_materials(packages: Iterable[Mapping[str, Any]], *, name: str, version: str) -> dict[str, Any]:
    """The document: one component a package, sorted by name; `packages` are pip's, with `metadata` in each."""
    components = sorted((_component(one) for one in packages), key=lambda one: (one["name"], one["version"]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": components,
    }


def _component(package: Mapping[str, Any]) -> dict[str, Any]:
    metadata = package["metadata"]
    # PyPI's package URLs take the normalised name (PEP 503).
    name = re.sub(r"[-_.]+", "-", metadata["name"]).lower()
    purl = f"pkg:pypi/{name}@{metadata['version']}"
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": metadata["version"],
        "purl": purl,
    }
    if licence := metadata.get("license_expression"):
        found["licenses"] = [{"expression": licence}]
    elif (stated := metadata.get("license")) and "\n" not in stated:  # some put the whole text there
        found["licenses"] = [{"license": {"name": stated}}]
    hashes = package.get("download_info", {}).get("archive_info", {}).get("hashes", {})
    if "sha256" in hashes:
        found["hashes"] = [{"alg": "SHA-256", "content": hashes["sha256"]}]
    return found


def main(arguments: list[str]) -> None:
    """Reads pip's JSON, `inspect` or `install --report`, and prints the document."""
    name, version = arguments
    said = json.load(sys.stdin)
    packages = said["installed"] if "installed" in said else said["install"]
    json.dump(bill_of_materials(packages, name=name, version=version), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
