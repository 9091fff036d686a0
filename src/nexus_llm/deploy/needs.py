"""What a recipe needs of an AWS account in one of our environments: machines, quotas, addresses, images, buckets. Pure.

Sizes of environments are those of infra/environments/*/platform.tfvars, and sizes of serving the defaults of
infra/stages/2-serving/variables.tf; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nexus_llm.deploy import quotas
from nexus_llm.deploy.quotas import Quota
from nexus_llm.errors import UsageError
from nexus_llm.recipe import FilesSource, Recipe

EnvironmentName = Literal["small", "standard", "regulated"]

# The parameter of modules/serving-gpu-capacity, whose image every GPU machine starts from.
GPU_IMAGE_PARAMETER = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
BATCH_JOB_VCPUS = 16  # modules/batch, job definition
JOB_IMAGE_TAG = "0.1.0"  # stages/1-platform, jobs.image_tag
# Virtual CPUs of a worker: docs.aws.amazon.com/glue, "Worker types"; EMR Serverless gets workers of the same size.
_WORKER_VCPUS = {"G.1X": 4, "G.2X": 8, "G.4X": 16, "G.8X": 32}


@dataclass(frozen=True, slots=True)
class Queue:
    """A Batch queue: machine families, and the most vCPUs that it starts."""

    families: tuple[str, ...]
    max_vcpus: int
    is_spot: bool = True


@dataclass(frozen=True, slots=True)
class Environment:
    """One of infra/environments."""

    zones: int
    nat_gateways: int
    """Each has an Elastic IP."""
    budget_usd: float
    """A month."""
    queues: Mapping[str, Queue]
    replica_region: str | None = None


def _queues(cpu: int, gpu: int) -> Mapping[str, Queue]:
    return {"cpu": Queue(("c7i", "m7i", "c6i", "m6i"), cpu), "gpu": Queue(("g6", "g5"), gpu)}


ENVIRONMENTS: Mapping[EnvironmentName, Environment] = {
    "small": Environment(2, 1, 300, _queues(32, 4)),
    "standard": Environment(3, 1, 2000, _queues(128, 16)),
    "regulated": Environment(3, 3, 6000, _queues(128, 16), "eu-west-1"),
}


@dataclass(frozen=True, slots=True)
class Serving:
    """What stage 2-serving runs."""

    engine: str
    vcpus_per_task: float = 4
    """On Fargate."""
    min_tasks: int = 2
    max_tasks: int = 8
    machine: str = "g6.xlarge"
    """Of engine vllm."""
    gpus_per_task: int = 1
    max_machines: int = 4
    gateway_version: str | None = None
    """`:TAG` or `@sha256:DIGEST` in the serve repository; None: not chosen yet."""

    @classmethod
    def of(cls, recipe: Recipe, variables: Mapping[str, Any]) -> Serving:
        """The recipe's engine in the sizes of `variables`, those of stage 2-serving as far as they are set.

        Raises:
            UsageError: one of them is of another form.
        """
        plain = cls(recipe.serve.engine)
        try:
            engine, tasks, gpu = (variables.get(name) or {} for name in ("engine", "tasks", "gpu"))
            return cls(
                engine=str(engine.get("kind", plain.engine)),
                vcpus_per_task=float((variables.get("size") or {}).get("cpu", 1024 * plain.vcpus_per_task)) / 1024,
                min_tasks=int(tasks.get("min", plain.min_tasks)),
                max_tasks=int(tasks.get("max", plain.max_tasks)),
                machine=str(gpu.get("instance_type", plain.machine)),
                gpus_per_task=int(engine.get("gpus", plain.gpus_per_task)),
                max_machines=int(gpu.get("max_instances", plain.max_machines)),
                gateway_version=variables.get("gateway_version"),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(
                f"the variables of stage 2-serving are of another form ({error})",
                fix="see infra/stages/2-serving/variables.tf: engine, size, tasks and gpu are objects",
            ) from None


@dataclass(frozen=True, slots=True)
class Platform:
    """What stage 1-platform made: its platform.json."""

    name: str
    region: str
    account_id: str
    private_subnet_ids: tuple[str, ...]
    repository_urls: Mapping[str, str]

    @classmethod
    def of(cls, document: Mapping[str, Any], *, place: str) -> Platform:
        """The platform that a platform.json describes; `place` is for the message.

        Raises:
            UsageError: it is another document.
        """
        try:
            return cls(
                str(document["name"]),
                str(document["region"]),
                str(document["account_id"]),
                tuple(document["private_subnet_ids"]),
                dict(document["ecr_repository_urls"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{place} is no platform.json ({error} is missing or of another form)",
                fix="write it with: terraform output -json platform (in infra/stages/1-platform)",
            ) from None


@dataclass(frozen=True, slots=True)
class QuotaNeed:
    """So much of a quota is needed."""

    what: str
    """Who needs it; names the check."""
    quota: Quota
    least: float
    """Below, something fails."""
    wanted: float
    """Below, something waits or does not scale."""
    machine: str | None = None
    """`least` and `wanted` count tasks on machines of this type; their vCPUs are known only to AWS."""
    gpus_per_task: int = 1


@dataclass(frozen=True)
class Needs:
    """Everything that is looked at before something is made."""

    recipe: str
    environment: str
    region: str | None
    """None: what the credentials' profile says."""
    recipe_regions: Mapping[str, str]
    """Field of the recipe → the region that it names."""
    account_id: str | None
    """That was expected; None: any."""
    replica_region: str | None
    zones: int
    chosen_zones: tuple[str, ...]
    """Empty: the first ones by name."""
    quotas: tuple[QuotaNeed, ...]
    serving: Serving
    machines: Mapping[str, str]
    """EC2 type → what it is for. Of a queue's families the size `xlarge`, which all of them have, stands for all."""
    image_parameter: str | None
    addresses: int
    """Free ones in each private subnet: the whole service during a rollout, and the recipe's jobs."""
    images: tuple[str, ...]
    buckets: tuple[str, ...]
    model: str
    platform: Platform | None


def needs_of(
    recipe: Recipe,
    environment: EnvironmentName,
    *,
    region: str | None = None,
    account_id: str | None = None,
    zones: Sequence[str] = (),
    platform: Platform | None = None,
    serving_variables: Mapping[str, Any] | None = None,
) -> Needs:
    """What a recipe in an environment needs.

    Raises:
        UsageError: a machine type's quota is not known here.
    """
    size = ENVIRONMENTS[environment]
    serving = Serving.of(recipe, serving_variables or {})
    is_gpu = serving.engine == "vllm"
    machines = {
        f"{family}.xlarge": f"Batch queue {name}" for name, queue in size.queues.items() for family in queue.families
    }
    own = () if platform else (QuotaNeed("network", quotas.VPCS, 1, 1), _addresses_need(size))
    region_fields = {
        "train.sagemaker.region": recipe.train.sagemaker.region if recipe.train.launcher == "sagemaker" else None,
        "data.aws.region": recipe.data.aws.region if recipe.data.engine not in ("embedded", "spark") else None,
    }
    return Needs(
        recipe=recipe.name,
        environment=environment,
        region=region or (platform.region if platform else None),
        recipe_regions={name: value for name, value in region_fields.items() if value},
        account_id=account_id or (platform.account_id if platform else None),
        replica_region=size.replica_region,
        zones=len(zones) or size.zones,
        chosen_zones=tuple(zones),
        quotas=(*own, *_serving_quotas(serving), *_job_quotas(recipe), *_queue_quotas(recipe, size)),
        serving=serving,
        machines=machines | ({serving.machine: "serving"} if is_gpu else {}),
        image_parameter=GPU_IMAGE_PARAMETER if is_gpu else None,
        addresses=2 * serving.max_tasks + (serving.max_machines if is_gpu else 0) + _job_addresses(recipe),
        images=_images(recipe, serving, platform),
        buckets=_buckets(recipe),
        model=recipe.model.base,
        platform=platform,
    )


def _addresses_need(size: Environment) -> QuotaNeed:
    return QuotaNeed("NAT gateways", quotas.ELASTIC_IPS, size.nat_gateways, size.nat_gateways)


def _serving_quotas(serving: Serving) -> list[QuotaNeed]:
    """What runs, and twice of it: blue/green starts the whole new version beside the old one."""
    least, most = serving.min_tasks, serving.max_tasks
    if serving.engine == "vllm":
        quota, machine, each = quotas.machine_quota(serving.machine, is_spot=False), serving.machine, 1.0
    else:
        quota, machine, each = quotas.FARGATE, None, serving.vcpus_per_task
    return [
        QuotaNeed(what, quota, times * least * each, times * most * each, machine, serving.gpus_per_task)
        for what, times in (("serving", 1), ("rollout headroom", 2))
    ]


def _job_quotas(recipe: Recipe) -> list[QuotaNeed]:
    found = []
    aws, job = recipe.data.aws, recipe.train.sagemaker
    if recipe.data.engine == "emr-serverless":
        vcpus = _WORKER_VCPUS.get(aws.worker_type, 0) * aws.workers
        found.append(QuotaNeed("data job", quotas.EMR_SERVERLESS, vcpus, vcpus))
    if recipe.train.launcher == "sagemaker":
        count, kind = job.instance_count, job.instance_type
        found.append(QuotaNeed("train job", quotas.training_quota(kind, is_spot=job.spot), count, count))
        if job.warm_pool_minutes:
            found.append(QuotaNeed("warm pool", quotas.warm_pool_quota(kind), count, count))
    if recipe.serve.sagemaker:
        found.append(QuotaNeed("SageMaker endpoint", quotas.ENDPOINTS, 1, 2))
    return found


def _queue_quotas(recipe: Recipe, size: Environment) -> list[QuotaNeed]:
    """Jobs of a queue wait for ever where the quota is smaller than one of them."""
    one_job = {"cpu": BATCH_JOB_VCPUS if recipe.data.engine == "batch" else 0}
    return [
        QuotaNeed(
            f"Batch queue {name}",
            quotas.machine_quota(queue.families[0], is_spot=queue.is_spot),
            one_job.get(name, 0),
            queue.max_vcpus,
        )
        for name, queue in size.queues.items()
    ]


def _job_addresses(recipe: Recipe) -> int:
    """Addresses that the recipe's jobs take in one subnet."""
    data = recipe.data.aws.workers if recipe.data.engine in ("glue", "emr-serverless") else 0
    return data + (recipe.train.sagemaker.instance_count if recipe.train.launcher == "sagemaker" else 0)


def _images(recipe: Recipe, serving: Serving, platform: Platform | None) -> tuple[str, ...]:
    found = []
    if recipe.train.launcher == "sagemaker" and recipe.train.sagemaker.image_uri:
        found.append(recipe.train.sagemaker.image_uri)
    if platform:
        found.append(platform.repository_urls["serve"] + (serving.gateway_version or ""))
        if recipe.data.engine == "batch":
            found.append(f"{platform.repository_urls['train']}:{JOB_IMAGE_TAG}")
    return tuple(sorted(set(found)))


def _buckets(recipe: Recipe) -> tuple[str, ...]:
    """Buckets that the recipe names."""
    places = [one.path for one in recipe.data.sources if isinstance(one, FilesSource)]
    places.append(recipe.model.base)
    found = {place.removeprefix("s3://").split("/")[0] for place in places if place.startswith("s3://")}
    if recipe.data.engine not in ("embedded", "spark") and recipe.data.aws.bucket:
        found.add(recipe.data.aws.bucket)
    if recipe.train.launcher == "sagemaker" and recipe.train.sagemaker.bucket:
        found.add(recipe.train.sagemaker.bucket)
    return tuple(sorted(found))
