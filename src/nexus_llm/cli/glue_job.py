"""The script that Glue 5, EMR Serverless and Batch run: the data stage, from bucket to bucket.

    glue_job.py --JOB_NAME demo --RECIPE s3://b/demo.yaml --OUTPUT s3://b/artifacts [--MODEL s3://b/model/]

It works on the cluster's Spark, or, with `--MASTER local[2]`, on one of its own; with `--ENGINE embedded` it needs none
(one large machine of Batch). `--OUTPUT` is a bucket's prefix, or a folder that all executors see.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.errors import NexusError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nexus_llm.recipe import Recipe

NEEDED = ("JOB_NAME", "RECIPE", "OUTPUT")
OPTIONAL = ("MODEL", "MASTER", "ENGINE")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; prints the artifact as one line of JSON. Ends the process with the error's exit code, if any."""
    given = sys.argv if arguments is None else ["glue_job.py", *arguments]
    try:
        print(json.dumps(run(job_options(given))))  # Glue takes a plain end for success, and any SystemExit for none
    except NexusError as error:
        print(f"{error.what}\n  fix: {error.fix}", file=sys.stderr)
        sys.exit(error.exit_code)


def job_options(arguments: Sequence[str]) -> dict[str, str]:
    """The job's options by name. `arguments` begin with the script's name, as `sys.argv` does.

    Glue's own parser is used where it is installed. What else Glue passes (`--TempDir`, …) is left alone.

    >>> job_options(["job.py", "--JOB_NAME", "j", "--RECIPE=r.yaml", "--OUTPUT", "out", "--TempDir", "t"])
    {'JOB_NAME': 'j', 'RECIPE': 'r.yaml', 'OUTPUT': 'out'}
    """
    found = _options_in(arguments)
    if missing := [f"--{name}" for name in NEEDED if not found.get(name)]:
        raise UsageError(
            f"the job was not told {', '.join(missing)}",
            fix="set it as a job argument: --JOB_NAME NAME --RECIPE s3://… --OUTPUT s3://…",
        )
    names = [name for name in (*NEEDED, *OPTIONAL) if found.get(name)]
    try:
        glue = importlib.import_module("awsglue.utils")  # only Glue's own machines have it
    except ImportError:
        return {name: found[name] for name in names}
    resolved = glue.getResolvedOptions(list(arguments), names)
    return {name: str(resolved[name]) for name in names}


def run(options: Mapping[str, str]) -> dict[str, Any]:
    """Makes the data artifact and gives its key, id and location."""
    from nexus_llm.cli.options import ports
    from nexus_llm.cloud.data_uploads import upload_artifact
    from nexus_llm.cloud.local import provenance
    from nexus_llm.pipeline import Workspace, execute, stages

    output = options["OUTPUT"].rstrip("/")
    is_bucket = "://" in output
    with tempfile.TemporaryDirectory(prefix="nexus-") as scratch, _cluster_session(options):
        root = Path(scratch)
        recipe = _recipe(options, exchange=f"{output}/exchange" if is_bucket else None, folder=root)
        place = Workspace(root=root if is_bucket else Path(output), cache=root / "cache")
        line = stages(until="data")
        command = ["glue_job.py", *(f"--{name}={value}" for name, value in options.items())]
        made = execute(recipe, place, ports(), line=line, provenance=provenance(command)).artifacts["data"]
        location = upload_artifact(made, output) if is_bucket else str(made.folder)
    return {"job": options["JOB_NAME"], "key": made.key, "id": made.id, "location": location}


def _recipe(options: Mapping[str, str], *, exchange: str | None, folder: Path) -> Recipe:
    """The recipe, told who does the work. None of it changes the artifact's key but another model."""
    from nexus_llm import storage
    from nexus_llm.recipe import load_recipe

    path = options["RECIPE"]
    local = storage.copy_to(path, folder / "recipe.yaml") if "://" in path else Path(path)
    engine = options.get("ENGINE", "spark")
    overrides = [f"data.engine={engine}"]
    is_local = options.get("MASTER", "").startswith("local")  # its executors share a folder, and it knows no s3://
    if engine == "spark" and (exchange or is_local):
        overrides.append(f"data.spark.exchange={'null' if is_local else exchange}")
    if "MASTER" in options:
        overrides.append(f"data.spark.master={options['MASTER']}")
    if "MODEL" in options:
        overrides.append(f"model.base={options['MODEL']}")
    return load_recipe(local, overrides=tuple(overrides))


@contextmanager
def _cluster_session(options: Mapping[str, str]) -> Iterator[None]:
    """The cluster's session, which the stage then finds; none where a master is named: the stage starts its own."""
    if "MASTER" in options or options.get("ENGINE", "spark") != "spark":
        yield
        return
    from pyspark.sql import SparkSession

    # Executors compile kernels into a folder of their own where the installed package may not be written to.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "nexus-numba"))
    session = SparkSession.builder.appName("nexus-data").getOrCreate()
    try:
        yield
    finally:
        session.stop()


def _options_in(arguments: Sequence[str]) -> dict[str, str]:
    """`--NAME VALUE` and `--NAME=VALUE`; the last one counts."""
    found: dict[str, str] = {}
    words = iter(arguments[1:])
    for word in words:
        if word.startswith("--"):
            name, is_joined, value = word.removeprefix("--").partition("=")
            found[name] = value if is_joined else next(words, "")
    return found


if __name__ == "__main__":
    main()
