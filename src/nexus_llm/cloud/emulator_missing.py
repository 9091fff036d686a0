"""What moto lacks altogether and a platform's end or its delivery needs: mostly the deletion of what it lets us make.

moto has no method for these calls, so they are done on its own memory, and refused where AWS refuses them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

from nexus_llm.cloud.emulator_patches import PATCHES, XML, Answer, Call, Memory, Moto, Patch, json_answer, missing

_ACCOUNT = "123456789012"
_OF_A_SERVICE = (
    "availabilityZoneRebalancing",
    "capacityProviderStrategy",
    "enableECSManagedTags",
    "healthCheckGracePeriodSeconds",
)


def _backends(service: str) -> list[Any]:
    """moto's memory of a service, of each region that was used."""
    from moto.backends import get_backend

    return list(get_backend(service)[_ACCOUNT].values())


def _delete_emr_application(call: Call, memory: Memory, moto: Moto) -> Answer:
    """An application that was never started can be deleted; moto's runs from the beginning."""
    key = ("emr", call.name.split("/")[2])
    if key not in memory:
        for one in _backends("emr-serverless"):
            if found := one.applications.get(key[1]):
                found.state = "STOPPED"
    return moto(call)


def _delete_connection(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    name = call.document["ConnectionName"]
    found = [one for one in _backends("glue") if one.connections.pop(name, None)]
    return json_answer({}) if found else missing("EntityNotFoundException", name)


def _delete_model_package(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    name = call.document["ModelPackageName"]
    for one in _backends("sagemaker"):
        for arn in [arn for arn in one.model_packages if name in (arn, one.model_packages[arn].model_package_name)]:
            del one.model_packages[arn]
    return json_answer({})


def _delete_model_package_group(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    """AWS deletes no group that has versions (API reference, DeleteModelPackageGroup, read 2026-11)."""
    name = call.document["ModelPackageGroupName"]
    for one in _backends("sagemaker"):
        if any(package.model_package_group_name == name for package in one.model_packages.values()):
            said = {"__type": "ConflictException", "Message": f"{name} still contains model packages"}
            return json_answer(said, 400)
        one.model_package_groups.pop(name, None)
    return json_answer({})


def _composite_alarm(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    """Among moto's own alarms, which know rules: it reads, tags and deletes these as the others."""
    asked = parse_qs(call.body.decode())
    listed = {
        name: [asked[key][0] for key in sorted(asked) if key.startswith(f"{name}.member.")]
        for name in ("AlarmActions", "OKActions")
    }
    numbers = sorted(key.split(".")[2] for key in asked if re.fullmatch(r"Tags\.member\.\d+\.Key", key))
    region = re.search(r"/(?P<name>[\w-]+)/monitoring/", call.environ["HTTP_AUTHORIZATION"])
    from moto.backends import get_backend

    none = dict.fromkeys(("namespace", "metric_name", "comparison_operator", "statistic"))
    get_backend("cloudwatch")[_ACCOUNT][region["name"] if region else ""].put_metric_alarm(
        name=asked["AlarmName"][0],
        rule=asked["AlarmRule"][0],
        description=asked.get("AlarmDescription", [""])[0],
        actions_enabled=asked.get("ActionsEnabled", ["true"])[0] == "true",
        alarm_actions=listed["AlarmActions"],
        ok_actions=listed["OKActions"],
        tags=[{name: asked[f"Tags.member.{one}.{name}"][0] for name in ("Key", "Value")} for one in numbers],
        evaluation_periods=0,
        period=0,
        threshold=0.0,
        dimensions=[],
        **none,
    )
    return Answer(200, b"<PutCompositeAlarmResponse/>", XML)


def _deployment_config(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    asked = call.document
    key = ("deployment config", asked["deploymentConfigName"])
    if call.name == "CreateDeploymentConfig":
        memory[key] = asked | {"deploymentConfigId": "1"}
        return json_answer({"deploymentConfigId": "1"})
    if key not in memory:
        return missing("DeploymentConfigDoesNotExistException", key[1])
    if call.name == "DeleteDeploymentConfig":
        del memory[key]
        return json_answer({})
    return json_answer({"deploymentConfigInfo": memory[key]})


def _group_alarms(call: Call, memory: Memory, moto: Moto) -> Answer:
    """Which alarms turn a group's deployments back: as they were sent."""
    asked, answer = call.document, moto(call)
    key = ("alarms", asked["applicationName"], asked["deploymentGroupName"])
    if answer.status != 200:
        return answer
    if call.name == "CreateDeploymentGroup":
        memory[key] = asked.get("alarmConfiguration", {})
        return answer
    group = answer.document["deploymentGroupInfo"]
    return json_answer({"deploymentGroupInfo": group | {"alarmConfiguration": memory.get(key, {})}})


def _delete_deployment_group(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    asked = call.document
    for one in _backends("codedeploy"):
        one.deployment_groups.get(asked["applicationName"], {}).pop(asked["deploymentGroupName"], None)
    return json_answer({"hooksNotCleanedUp": []})


def _delete_deployed_application(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    for one in _backends("codedeploy"):
        one.applications.pop(call.document["applicationName"], None)
    return json_answer({})


def _build_project(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    """What a pipeline hands to a project has no location; moto insists on one, so it gets one that nobody sees."""
    if call.name == "BatchGetProjects":
        answer = moto(call)
        projects = [_of_pipeline(one, None) for one in answer.document.get("projects", [])]
        return json_answer(answer.document | {"projects": projects}) if answer.status == 200 else answer
    answer = moto(replace(call, body=json.dumps(_of_pipeline(call.document, "pipeline")).encode()))
    document = answer.document
    return (
        json_answer(document | {"project": _of_pipeline(document["project"], None)})
        if "project" in document
        else answer
    )


def _of_pipeline(project: Mapping[str, Any], location: str | None) -> dict[str, Any]:
    """The project with this location (None: without) wherever a pipeline's files go in or out."""
    changed = dict(project)
    for part in ("source", "artifacts"):
        if project.get(part, {}).get("type") == "CODEPIPELINE":
            rest = {name: value for name, value in project[part].items() if name != "location"}
            changed[part] = rest | ({"location": location} if location else {})
    return changed


def _pipeline(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    answer = moto(call)
    if answer.status != 200:
        return answer
    document = answer.document
    for name in {"created", "updated"} & set(document["metadata"]):
        document["metadata"][name] = datetime.fromisoformat(document["metadata"][name]).timestamp()
    return json_answer(document)


def _service(call: Call, memory: Memory, moto: Moto) -> Answer:
    """A service with what it was given and moto forgets; Terraform would make one with other capacity anew."""
    asked, answer = call.document, moto(call)
    if answer.status != 200:
        return answer
    document = answer.document
    for one in [document["service"]] if "service" in document else document["services"]:
        key = ("service", one["serviceArn"])
        if call.name == "CreateService":
            memory[key] = {}
        if call.name != "DescribeServices":
            memory[key] = memory.get(key, {}) | {name: asked[name] for name in _OF_A_SERVICE if name in asked}
        one.update(memory.get(key, {}))
        if one.get("capacityProviderStrategy"):
            one.pop("launchType", None)  # as AWS omits it (ECS API reference, Service, read 2026-11)
    return json_answer(document)


def _automatic_snapshots(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    """They go with their cluster (RDS API reference, DeleteDBCluster, read 2026-11)."""
    answer, asked = moto(call), parse_qs(call.body.decode())
    if answer.status == 200 and asked.get("DeleteAutomatedBackups") != ["false"]:
        for one in _backends("rds"):
            for name, snapshot in list(one.cluster_snapshots.items()):
                cluster = snapshot.cluster.db_cluster_identifier
                if snapshot.snapshot_type == "automated" and cluster == asked["DBClusterIdentifier"][0].lower():
                    del one.cluster_snapshots[name]
    return answer


def _without_gone(call: Call, memory: Memory, moto: Moto) -> Answer:  # noqa: ARG001
    """An answer without what was deleted: moto keeps the tags of it, and lists services and clusters on."""
    answer = moto(call)
    if answer.status != 200:
        return answer
    document = answer.document
    for name in {"serviceArns", "clusterArns"} & set(document):
        document[name] = [arn for arn in document[name] if not _is_gone(arn)]
    if found := document.get("ResourceTagMappingList"):
        document["ResourceTagMappingList"] = [one for one in found if not _is_gone(one["ResourceARN"])]
    return json_answer(document)


def _is_gone(arn: str) -> bool:
    _, _, service, _, _, rest = arn.split(":", 5)
    kind, _, name = rest.partition("/")
    if service == "ecs" and kind in ("service", "cluster"):
        known = [one for ecs in _backends("ecs") for one in (*ecs.services.values(), *ecs.clusters.values())]
        return any(one.arn == arn and one.status == "INACTIVE" for one in known)
    if service == "glue" and kind in ("database", "connection", "job"):
        return not any(name in getattr(glue, f"{kind}s") for glue in _backends("glue"))
    return False


MISSING = (
    Patch("monitoring", "PutCompositeAlarm", "moto cannot make alarms of alarms", ("aws_cloudwatch_composite_alarm",),
          _composite_alarm),
    Patch("emr-serverless", r"DELETE /applications/[^/]+", "moto starts applications by itself, and keeps what runs",
          ("aws_emrserverless_application",), _delete_emr_application),
    Patch("glue", "DeleteConnection", "moto cannot delete connections", ("aws_glue_connection",), _delete_connection),
    Patch("sagemaker", "DeleteModelPackage", "moto cannot delete versions of models", (), _delete_model_package),
    Patch("sagemaker", "DeleteModelPackageGroup", "moto cannot delete groups of models",
          ("aws_sagemaker_model_package_group",), _delete_model_package_group),
    Patch("codedeploy", "(Create|Get|Delete)DeploymentConfig", "moto has no deployment configurations",
          ("aws_codedeploy_deployment_config",), _deployment_config),
    Patch("codedeploy", "(Create|Get)DeploymentGroup", "moto forgets the alarms of a group",
          ("aws_codedeploy_deployment_group",), _group_alarms),
    Patch("codedeploy", "DeleteDeploymentGroup", "moto cannot delete deployment groups",
          ("aws_codedeploy_deployment_group",), _delete_deployment_group),
    Patch("codedeploy", "DeleteApplication", "moto cannot delete applications", ("aws_codedeploy_app",),
          _delete_deployed_application),
    Patch("ecs", "(Create|Update|Describe)Services?", "moto forgets who gives a service its machines",
          ("aws_ecs_service",), _service),
    Patch("rds", "DeleteDBCluster", "moto keeps automatic snapshots of a cluster that is gone", ("aws_rds_cluster",),
          _automatic_snapshots),
    Patch("ecs", "ListServices|ListClusters", "moto lists what was deleted", (), _without_gone),
    Patch("tagging", "GetResources", "moto's tags outlive what they stood on", (), _without_gone),
    Patch("codepipeline", "GetPipeline", "moto writes times in words", ("aws_codepipeline",), _pipeline),
    Patch("codebuild", "CreateProject|BatchGetProjects", "moto wants a location of what comes from a pipeline",
          ("aws_codebuild_project",), _build_project),
)  # fmt: skip
ALL_PATCHES = (*MISSING, *PATCHES)
"""Everything that the emulator rests on."""
