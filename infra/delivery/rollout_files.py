"""Writes what CodeDeploy rolls out: `aws ecs describe-task-definition … | rollout_files.py --image IMAGE@DIGEST …`.

`taskdef.json` is the newest task definition of the family with our image replaced, wherever it stands; the engine's and
the collector's images stay. `appspec.yaml` (JSON, which is YAML) says which container answers, and names the capacity
provider again: without it ECS would start green on the cluster's default.

Source: "AppSpec 'resources' section (Amazon ECS)", CodeDeploy user guide, read 2026-11.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

# What ECS adds to a definition when it registers one, and refuses to be given.
ANSWERED_ONLY = (
    "compatibilities", "deregisteredAt", "registeredAt", "registeredBy", "requiresAttributes", "revision", "status",
    "taskDefinitionArn",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The exit code; 1 where no container of the definition runs our image."""
    parser = argparse.ArgumentParser(description="Writes appspec.yaml and taskdef.json; the definition is on stdin.")
    parser.add_argument("--image", required=True, help="Our new image, by digest.")
    parser.add_argument("--container", required=True, help="The container that answers.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--capacity-provider", required=True)
    parser.add_argument("--out", type=Path, required=True)
    told = parser.parse_args(arguments)
    try:
        definition = with_image(json.load(sys.stdin)["taskDefinition"], image=told.image, container=told.container)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n  fix: apply infra/stages/2-serving first\n")
        return 1
    told.out.mkdir(parents=True, exist_ok=True)
    spec = appspec(container=told.container, port=told.port, capacity_provider=told.capacity_provider)
    (told.out / "taskdef.json").write_text(json.dumps(definition, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (told.out / "appspec.yaml").write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
    return 0


def with_image(definition: dict[str, Any], *, image: str, container: str) -> dict[str, Any]:
    """The definition, ready to be registered, with `image` in every container that ran an older one of its repository.

    Raises:
        ValueError: the answering container is missing, or runs an image of another repository.
    """
    repository = repository_of(image)
    changed = [
        one | {"image": image} if repository_of(one["image"]) == repository else one
        for one in definition["containerDefinitions"]
    ]
    if not any(one["name"] == container and one["image"] == image for one in changed):
        raise ValueError(f"{definition['family']} has no container {container} that runs {repository}")
    kept = {name: value for name, value in definition.items() if name not in ANSWERED_ONLY}
    return kept | {"containerDefinitions": changed}


def repository_of(image: str) -> str:
    """The image without tag and digest.

    >>> repository_of("host:5000/name/serve:1.2@sha256:ab"), repository_of("vllm/vllm-openai")
    ('host:5000/name/serve', 'vllm/vllm-openai')
    """
    head, _, last = image.partition("@")[0].rpartition("/")
    return f"{head}/{last.partition(':')[0]}".lstrip("/")


def appspec(*, container: str, port: int, capacity_provider: str) -> dict[str, Any]:
    """What CodeDeploy reads; it puts the ARN of the registered definition in the place of <TASK_DEFINITION>."""
    return {
        "version": 0.0,
        "Resources": [
            {
                "TargetService": {
                    "Type": "AWS::ECS::Service",
                    "Properties": {
                        "TaskDefinition": "<TASK_DEFINITION>",
                        "LoadBalancerInfo": {"ContainerName": container, "ContainerPort": port},
                        "CapacityProviderStrategy": [{"CapacityProvider": capacity_provider, "Base": 0, "Weight": 1}],
                    },
                }
            }
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
