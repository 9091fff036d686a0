"""Request bodies that start the data stage on AWS: pure functions of one plan, checked against botocore's models.

Glue and EMR Serverless run `cli/glue_job.py` on Spark 3.5; AWS Batch runs it with the embedded engine in our container,
for corpora that one large machine holds. Facts about the services: docs.aws.amazon.com/glue/latest/dg and
/emr/latest/EMR-Serverless-UserGuide, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GLUE_VERSION = "5.0"  # Spark 3.5.4, Python 3.11, Java 17
EMR_RELEASE = "emr-7.9.0"  # Spark 3.5.5, Java 17; its own Python is 3.9, so a 3.11 comes in the archive
# Virtual CPUs and GiB of one worker; the Java heap takes the cluster's default share, Python what is left.
GLUE_WORKERS: Mapping[str, tuple[int, int]] = {
    "G.1X": (4, 16),
    "G.2X": (8, 32),
    "G.4X": (16, 64),
    "G.8X": (32, 128),
}
GLUE_DPUS: Mapping[str, int] = {"G.1X": 1, "G.2X": 2, "G.4X": 4, "G.8X": 8}
"""Data processing units of one worker: what Glue bills."""
EMR_LOG_GROUP = "/aws/emr-serverless/nexus"
KEY_ARGUMENT = "--NEXUS_KEY"
"""Runs of Glue carry no tags; this argument, which the script leaves alone, says for which artifact one is."""
_ENVIRONMENT = "environment"

# Columns of `documents.parquet` beside each token shard, in Hive's type names.
DOCUMENT_COLUMNS: tuple[tuple[str, str], ...] = (
    ("ordinal", "bigint"),
    ("id", "string"),
    ("source", "string"),
    ("origin", "string"),
    ("text", "string"),
    ("messages", "string"),
    ("language", "string"),
    ("cluster", "string"),
    ("tokens", "bigint"),
)


@dataclass(frozen=True)
class CloudDataPlan:
    """One run of the data stage on somebody's account. Locations are `s3://bucket/key`."""

    name: str
    """Of the job definition; the same name updates the same definition."""
    recipe: str
    """Location of the recipe."""
    output: str
    """Prefix that receives the artifact."""
    role_arn: str
    """Role that the job runs under."""
    script: str
    """Location of `glue_job.py`."""
    wheels: str
    """Glue: location of a zip with our wheel and those that it needs. EMR: of the packed environment (.tar.gz)."""
    model: str | None = None
    """Location of the model folder whose tokenizer is used; None takes the recipe's."""
    workers: int = 10
    worker_type: str = "G.2X"
    timeout_minutes: int = 480
    """AWS ends the run then."""
    security_configuration: str | None = None
    """Glue's name for the encryption of logs, bookmarks and S3 data."""
    is_flexible: bool = False
    """Glue's FLEX class: spare capacity, about a third cheaper, may start late and lose workers."""
    logs: str | None = None
    """Prefix for Spark's event logs; None keeps none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    """Of the artifact that the run makes."""


def job_arguments(plan: CloudDataPlan) -> dict[str, str]:
    """What `glue_job.py` is told, by name with the leading dashes."""
    arguments = {"--RECIPE": plan.recipe, "--OUTPUT": plan.output}
    return arguments | ({"--MODEL": plan.model} if plan.model else {})


def glue_run(plan: CloudDataPlan) -> dict[str, Any]:
    """The body of Glue's StartJobRun."""
    key = {KEY_ARGUMENT: plan.key} if plan.key else {}
    return {"JobName": plan.name, "Arguments": job_arguments(plan) | key}


def glue_job(plan: CloudDataPlan) -> dict[str, Any]:
    """The body of Glue's CreateJob, which is UpdateJob's JobUpdate but for Name and Tags."""
    arguments = {
        "--job-language": "python",
        # A zip of wheels is installed without a package index, so the job needs no way out of its network.
        "--additional-python-modules": plan.wheels,
        "--python-modules-installer-option": "--no-index",
        "--enable-metrics": "true",
        "--enable-observability-metrics": "true",
        "--enable-auto-scaling": "true",
        **job_arguments(plan),
    }
    if plan.logs:
        arguments |= {"--enable-spark-ui": "true", "--spark-event-logs-path": plan.logs}
    body: dict[str, Any] = {
        "Name": plan.name,
        "Description": "Nexus LLM: sources to token shards",
        "Role": plan.role_arn,
        "Command": {"Name": "glueetl", "PythonVersion": "3", "ScriptLocation": plan.script},
        "GlueVersion": GLUE_VERSION,
        "WorkerType": plan.worker_type,
        "NumberOfWorkers": plan.workers,
        "Timeout": plan.timeout_minutes,
        # A second run of one recipe would write the same artifact; a failed run is started by hand, reason known.
        "ExecutionProperty": {"MaxConcurrentRuns": 1},
        "MaxRetries": 0,
        "ExecutionClass": "FLEX" if plan.is_flexible else "STANDARD",
        "DefaultArguments": arguments,
        # The definition serves every artifact of the recipe: which one a run makes stands in its arguments.
        "Tags": {name: value for name, value in plan.tags.items() if name != "nexus:key"},
    }
    return body | ({"SecurityConfiguration": plan.security_configuration} if plan.security_configuration else {})


def glue_job_update(plan: CloudDataPlan) -> dict[str, Any]:
    """The body of Glue's UpdateJob: what is not named here is reset, so it names all."""
    body = glue_job(plan)
    return {"JobName": body.pop("Name"), "JobUpdate": {name: body[name] for name in body if name != "Tags"}}


def emr_application(plan: CloudDataPlan) -> dict[str, Any]:
    """The body of EMR Serverless' CreateApplication: stops by itself and never grows beyond the planned workers."""
    cpus, memory_gib = GLUE_WORKERS[plan.worker_type]
    return {
        "name": plan.name,
        "releaseLabel": EMR_RELEASE,
        "type": "SPARK",
        "autoStartConfiguration": {"enabled": True},
        "autoStopConfiguration": {"enabled": True, "idleTimeoutMinutes": 5},
        "maximumCapacity": {"cpu": f"{cpus * plan.workers} vCPU", "memory": f"{memory_gib * plan.workers} GB"},
        "tags": dict(plan.tags),
    }


def emr_run(plan: CloudDataPlan, *, application_id: str, token: str) -> dict[str, Any]:
    """The body of EMR Serverless' StartJobRun; the same `token` never starts a second run."""
    arguments = [word for pair in sorted(job_arguments(plan).items()) for word in pair]
    body: dict[str, Any] = {
        "applicationId": application_id,
        "clientToken": token,
        "executionRoleArn": plan.role_arn,
        "name": plan.name,
        "executionTimeoutMinutes": plan.timeout_minutes,
        "jobDriver": {
            "sparkSubmit": {
                "entryPoint": plan.script,
                "entryPointArguments": ["--JOB_NAME", plan.name, *arguments],
                "sparkSubmitParameters": _submit_parameters(plan),
            }
        },
        "tags": dict(plan.tags),
    }
    # The streams' names begin with the token, so that a follower knows them before there is a run.
    live = {"enabled": True, "logGroupName": EMR_LOG_GROUP, "logStreamNamePrefix": f"nexus-{token}"}
    monitoring: dict[str, Any] = {"cloudWatchLoggingConfiguration": live}
    if plan.logs:
        monitoring["s3MonitoringConfiguration"] = {"logUri": plan.logs}
    body["configurationOverrides"] = {"monitoringConfiguration": monitoring}
    return body


def batch_command(plan: CloudDataPlan) -> list[str]:
    """What the container runs: `nexus data` itself would leave the artifact on a disk that ends with the job."""
    arguments = [word for pair in sorted(job_arguments(plan).items()) for word in pair]
    return ["python", "-m", "nexus_llm.cli.glue_job", "--JOB_NAME", plan.name, *arguments, "--ENGINE", "embedded"]


def batch_run(plan: CloudDataPlan, *, queue: str, definition: str) -> dict[str, Any]:
    """The body of Batch's SubmitJob; `definition` is a name, a name:revision or an ARN."""
    return {
        "jobName": plan.name,
        "jobQueue": queue,
        "jobDefinition": definition,
        # One definition serves every recipe.
        "containerOverrides": {"command": batch_command(plan)},
        "timeout": {"attemptDurationSeconds": plan.timeout_minutes * 60},
        "tags": dict(plan.tags),
    }


def catalog_table(name: str, *, location: str, artifact_id: str) -> dict[str, Any]:
    """A TableInput of the Glue Data Catalog, so that Athena and Spark can ask the kept documents by name."""
    hive = "org.apache.hadoop.hive.ql.io.parquet"
    return {
        "Name": name,
        "Description": f"Documents of the data artifact {artifact_id}",
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "parquet", "nexus.artifact_id": artifact_id, "EXTERNAL": "TRUE"},
        "StorageDescriptor": {
            "Columns": [{"Name": column, "Type": kind} for column, kind in DOCUMENT_COLUMNS],
            "Location": location,
            "InputFormat": f"{hive}.MapredParquetInputFormat",
            "OutputFormat": f"{hive}.MapredParquetOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{hive}.serde.ParquetHiveSerDe"},
        },
    }


def _submit_parameters(plan: CloudDataPlan) -> str:
    """One line for spark-submit: sizes, and the Python of the packed environment on driver and executors."""
    cpus, memory_gib = GLUE_WORKERS[plan.worker_type]
    python = f"./{_ENVIRONMENT}/bin/python"
    # Half of a worker's memory to Java, half to the Python processes beside it (EMR adds the overhead on top).
    heap, overhead = f"{memory_gib // 2}g", f"{memory_gib // 2 - 2}g"
    settings = {
        "spark.archives": f"{plan.wheels}#{_ENVIRONMENT}",
        "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON": python,
        "spark.emr-serverless.driverEnv.PYSPARK_PYTHON": python,
        "spark.executorEnv.PYSPARK_PYTHON": python,
        "spark.executor.cores": str(cpus),
        "spark.executor.memory": heap,
        "spark.executor.memoryOverhead": overhead,
        "spark.driver.cores": str(cpus),
        "spark.driver.memory": heap,
        "spark.driver.memoryOverhead": overhead,
        "spark.dynamicAllocation.maxExecutors": str(max(plan.workers - 1, 1)),
    }
    return " ".join(f"--conf {name}={value}" for name, value in settings.items())
