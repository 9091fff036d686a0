"""What the train image does as a SageMaker processing job: one stage of the line, from folders to folders.

    python -m nexus_llm.cli.train_job evaluate     # the same entry point; the word comes as ContainerArguments

    /opt/ml/processing/input/recipe/    recipe.yaml
    /opt/ml/processing/input/KIND/      a finished artifact, or the model.tar.gz that a training job left
    /opt/ml/processing/output/KIND/     what was made, its manifest last
    /opt/ml/output/message              why it failed: DescribeProcessingJob shows its first KiB as ExitMessage

`data` makes the base model too where none is given. Sources: docs.aws.amazon.com, SageMaker Developer Guide, "How
Amazon SageMaker Processing Runs Your Processing Container Image" and "Save and Access Metadata Information About Your
Processing Job", read 2026-11.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_llm.errors import ArtifactError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact, Stage
    from nexus_llm.cloud.training_processes import TerminationNotice
    from nexus_llm.ports import Ports
    from nexus_llm.recipe import Recipe

STAGES = ("data", "package", "evaluate")
MESSAGE_FILE = "message"
# The engines that a container can be asked for are those that work inside it.
_OVERRIDES = ("data.engine=embedded", "train.launcher=local")


def run(kind: str, root: Path, notice: TerminationNotice) -> None:
    """Makes the artifact of `kind` from what lies below `root`."""
    from nexus_llm.cli.options import ports
    from nexus_llm.pipeline import stages
    from nexus_llm.recipe import load_recipe
    from nexus_llm.train.container import RECIPE_FILE

    base = root / "processing"
    recipe = load_recipe(base / "input" / "recipe" / RECIPE_FILE, overrides=_OVERRIDES)
    openings = replace(ports(), interrupt=notice)
    notice.install()  # the ports of a terminal have taken the signals
    made: dict[str, Artifact] = {}
    line = stages(until=kind)
    wanted = {kind, *line[-1].needs}
    for stage in line:
        if stage.kind not in wanted:
            continue
        given = _given(base / "input" / stage.kind, base / "unpacked" / stage.kind)
        if given is None and stage.kind not in (kind, "model"):
            raise ArtifactError(
                f"stage {kind} needs {stage.kind}, and nothing lies at {base / 'input' / stage.kind}",
                fix=f"give the job an input named {stage.kind}",
            )
        made[stage.kind] = given or _made(stage, recipe, made, base / "output" / stage.kind, openings)


def _given(folder: Path, scratch: Path) -> Artifact | None:
    """The artifact that came with the job; None where there is none."""
    from nexus_llm.artifacts import altered_files, load
    from nexus_llm.cloud.training_result import unpack

    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    archive = folder / "model.tar.gz"
    if archive.exists():
        unpack(archive, scratch)
        folder = scratch
    found = load(folder)
    if altered := altered_files(found):
        raise ArtifactError(
            f"{folder}: {', '.join(altered[:3])} did not arrive as it was made ({len(altered)} files)",
            fix="delete its prefix in the bucket and start the job again",
        )
    return found


def _made(stage: Stage, recipe: Recipe, made: dict[str, Artifact], folder: Path, openings: Ports) -> Artifact:
    from nexus_llm.artifacts import Draft, artifact_key
    from nexus_llm.cloud.local import provenance

    outside, part = stage.outside_inputs(recipe, openings), stage.recipe_part(recipe)
    keys = {name: made[name].key for name in stage.needs}
    folder.mkdir(parents=True, exist_ok=True)
    draft = Draft(
        folder,
        kind=stage.kind,
        key=artifact_key(stage.kind, stage_version=stage.version, recipe=part, inputs=keys | outside),
        stage_version=stage.version,
        recipe=part,
        inputs={name: made[name].id for name in stage.needs} | outside,
        provenance=provenance(["train_job", stage.kind]),
    )
    draft.work = folder.parent.parent / "work" / stage.kind  # what lies in the output is uploaded
    draft.work.mkdir(parents=True, exist_ok=True)
    return stage.run(recipe, made, draft, openings)
