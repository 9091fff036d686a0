"""Packaged models under names, versions and aliases in MLflow's registry: the SQLite file of the tracker, or a server.

The registry holds where a package lies, its id and its card; the files stay where they are, with their hashes in the
manifest. Nothing is taken whose files were altered, or that has pickled weights, which can run code when read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_llm.artifacts import Artifact, altered_files, load
from nexus_llm.cloud.trackers import mlflow_client
from nexus_llm.errors import ArtifactError, MissingExtraError, UsageError
from nexus_llm.weights import SINGLE_FILE

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_ARTIFACT, _VERDICT, _SIGNATURE = "nexus.artifact", "nexus.verdict", "nexus.signature"
_CARD_CHARACTERS = 5_000  # of a version's description in MLflow's SQLite schema


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """One version of a registered model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    artifact: str
    """Id of the package."""
    folder: Path
    verdict: str | None
    """Of the gate; None where nobody judged the model."""
    is_signed: bool


class ModelRegistry:
    """Names, versions and aliases."""

    def __init__(self, uri: str | None, *, runs: Path) -> None:
        """`uri` is a tracking server's; None is the SQLite file below the folder of runs."""
        try:
            self._client = mlflow_client(uri, runs=runs)
        except ImportError as error:
            raise MissingExtraError.for_extra("track", error.name or "mlflow") from error

    def promote(
        self, name: str, package: Artifact, *, verdict: str | None, card: str, signature: str | None = None
    ) -> RegisteredModel:
        """The package as the newest version of `name`; the same package is not registered twice.

        Raises:
            ArtifactError: it is no package, its files were altered, or it holds pickled weights.
        """
        _refuse_unfit(package)
        from mlflow.exceptions import MlflowException

        known = [one for one in self._versions(name) if one.artifact == package.id]
        if known:
            return known[0]
        try:
            self._client.get_registered_model(name)
        except MlflowException:
            self._client.create_registered_model(name)
        tags = {_ARTIFACT: package.id, _VERDICT: verdict, _SIGNATURE: signature}
        made = self._client.create_model_version(
            name,
            source=str(package.folder.resolve()),
            tags={tag: value for tag, value in tags.items() if value},
            description=card[:_CARD_CHARACTERS],
        )
        return self.find(name, made.version)

    def point(self, name: str, alias: str, version: str) -> RegisteredModel:
        """Lets an alias name that version, whatever it named before.

        Raises:
            ArtifactError: there is no such version.
            UsageError: the alias is a number.
        """
        found = self.find(name, version)
        if alias.isdigit():
            raise UsageError(f"{alias} cannot be an alias: it reads as a version", fix="use a word, such as champion")
        self._client.set_registered_model_alias(name, alias, str(found.version))
        return self.find(name, alias)

    def find(self, name: str, reference: str | int | None = None) -> RegisteredModel:
        """A version by its number or alias; without either, the newest."""
        versions = self._versions(name)
        wanted = str(reference)
        for one in versions:
            if reference is None or str(one.version) == wanted or wanted in one.aliases:
                return one
        asked = name if reference is None else f"{name}@{reference}"
        raise ArtifactError(
            f"{asked} is not in the registry", fix="look what is there: nexus model list; add with: nexus model promote"
        )

    def all(self) -> list[RegisteredModel]:
        """Every version, by name, newest first."""
        names = sorted(one.name for one in self._client.search_registered_models())
        return [version for name in names for version in self._versions(name)]

    def _versions(self, name: str) -> list[RegisteredModel]:
        from mlflow.exceptions import MlflowException

        try:
            aliases = self._client.get_registered_model(name).aliases
        except MlflowException:
            return []
        quoted = name.replace("'", "''")
        found = self._client.search_model_versions(f"name = '{quoted}'")
        rows = [
            _read(one, {alias for alias, version in aliases.items() if int(version) == int(one.version)})
            for one in found
        ]
        return sorted(rows, key=lambda one: -one.version)


def _read(found: Any, aliases: set[str]) -> RegisteredModel:
    return RegisteredModel(
        name=found.name,
        version=int(found.version),
        aliases=tuple(sorted(aliases)),
        artifact=found.tags.get(_ARTIFACT, ""),
        folder=Path(found.source),
        verdict=found.tags.get(_VERDICT),
        is_signed=_SIGNATURE in found.tags,
    )


def _refuse_unfit(package: Artifact) -> None:
    files = [entry.path for entry in package.manifest.files]
    if package.kind != "package":
        raise ArtifactError(
            f"{package.folder} is a {package.kind} artifact, not a package", fix="nexus package its recipe"
        )
    if altered := altered_files(load(package.folder)):
        raise ArtifactError(f"{package.folder}/{altered[0]} is not the file that was packaged", fix="package it again")
    pickled = [path for path in files if path.endswith(_PICKLES) or Path(path).name.startswith("pytorch_model")]
    if pickled or SINGLE_FILE not in files:
        raise ArtifactError(
            f"{package.folder} has {pickled[0] if pickled else 'no ' + SINGLE_FILE}; only safetensors are registered",
            fix="package the model with this version of nexus",
        )
