"""`nexus aws pipeline RECIPE`: the recipe's stages as a SageMaker Pipeline, for Terraform or for AWS itself."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Overrides, RecipePath


def register(group: typer.Typer) -> None:
    """Adds the verb to `nexus aws`."""
    group.command()(pipeline)


def pipeline(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default, nobody changes it
    serve_image: Annotated[
        str | None, typer.Option(help="Serve image in ECR [default: whoever starts an execution says].", metavar="URI")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--model-group", help="Model package group [default: PLATFORM-models].")
    ] = None,
    upload: Annotated[
        bool, typer.Option("--upload", help="Put the recipe where the pipeline's steps read it.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Render a recipe's stages to a SageMaker Pipeline's definition; make nothing."""
    from nexus_llm.cloud import sagemaker_pipeline as rendering
    from nexus_llm.recipe import load_recipe

    wanted = load_recipe(recipe, overrides=tuple(overrides))
    definition = rendering.pipeline_definition(wanted, serve_image=serve_image, group=group)
    rendering.check_definition(definition)
    place = rendering.recipe_prefix(wanted)
    if upload:
        from nexus_llm.cloud.sagemaker import StoredBucket, upload_recipe

        upload_recipe(wanted, place, bucket=StoredBucket())
    else:
        print(f"its steps read {place}recipe.yaml: --upload puts it there", file=sys.stderr)
    if wanted.data.engine not in ("embedded", "batch"):
        print(f"data.engine {wanted.data.engine}: in the pipeline one machine does its work", file=sys.stderr)
    if as_json:
        print_json(definition)
        return 0
    for step in definition["Steps"]:
        print(f"{step['Name']:<10} {step['Type']}")
        for branch in ("IfSteps", "ElseSteps"):
            for inner in step["Arguments"].get(branch, []):
                print(f"  {'pass' if branch == 'IfSteps' else 'else'}  {inner['Name']:<10} {inner['Type']}")
    print(f"parameters  {', '.join(one['Name'] for one in definition['Parameters'])}")
    print(
        f'for Terraform: nexus aws pipeline {recipe} --json > pipeline.json, then jobs.pipeline_file = "pipeline.json"'
    )
    return 0
