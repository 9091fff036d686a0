"""What each step of `nexus aws rehearse` does: the product's own commands, one after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_llm.cli.options import command_line
from nexus_llm.cli.rehearsal_rollout import CANARY, FIRST_TOKEN_SECONDS, MINUTE_SECONDS, Rollouts
from nexus_llm.errors import DeploymentError, NexusError, ServingError

if TYPE_CHECKING:
    from nexus_llm.artifacts import Artifact
    from nexus_llm.cloud.account import Account
    from nexus_llm.cloud.rehearsal_deployments import RunningDeployments
    from nexus_llm.cloud.rehearsal_faults import Fault
    from nexus_llm.cloud.rehearsal_jobs import RunningJobs
    from nexus_llm.cloud.rehearsal_platform import RehearsedPlatform
    from nexus_llm.cloud.rehearsal_service import Service
    from nexus_llm.deploy.rehearsal import Facts, Outcome
    from nexus_llm.pipeline import Workspace
    from nexus_llm.ports import Ports
    from nexus_llm.recipe import Recipe

MAX_STEPS, SAVE_STEPS = 12, 3
"""Training is shortened to so many steps: enough for two checkpoints, an interruption and an end."""
POLLS_PER_POLL = 5
"""Jobs of seconds are asked for more often than jobs of hours."""
_SETTLE_SECONDS = 5.0  # that all tasks answer together, between scaling out and in
_PLENTY = 1000.0  # of every quota, once it was asked for


@dataclass
class Life:
    """The steps, and what one leaves for the next."""

    path: Path
    overrides: tuple[str, ...]
    folder: Path
    openings: Ports
    platform: RehearsedPlatform
    jobs: RunningJobs
    service: Service
    deployments: RunningDeployments
    faults: Sequence[Fault]
    _images: dict[str, str] = field(default_factory=dict)
    _sources: list[dict[str, Any]] = field(default_factory=list)
    _key: str = ""
    """Of the package: known as soon as its sources are."""
    _base: str = ""
    """Location of the base model in the data bucket: jobs there reach no hub."""

    def works(self) -> Mapping[str, Callable[[], Facts]]:
        """The name of each step → what it does."""
        return {
            "quotas": self._quotas,
            "state": lambda: self.platform.up("0-state", refused=True),
            "platform": self._platform,
            "preflight": self._preflight,
            "upload": self._upload,
            "data": self._data,
            "train": self._train,
            "package": self._package,
            "serving": self._serving,
            "delivery": self._delivery,
            "tasks": self._tasks,
            "answers": self._answers,
            "scale": self._scale,
            "deploy": lambda: self._rollouts().deploy(),
            "rollback": lambda: self._rollouts().roll_back(),
            "restore": self._restore,
            "down": lambda: self.platform.down(planted=True),
        }

    def recipe(self) -> Recipe:
        """The recipe as it goes to the platform, as far as that is made."""
        from nexus_llm.recipe import load_recipe

        region, out = self.platform.life.deployment.region, self.platform.outputs()
        changes: dict[str, Any] = {
            "platform": self.platform.life.deployment.name,
            "data.engine": "glue",
            "data.aws.region": region,
            "data.spark.partitions": 4,
            "data.spark.memory": "1g",
            "train.launcher": "sagemaker",
            "train.sagemaker.region": region,
            "train.max_steps": MAX_STEPS,
            "train.save_steps": SAVE_STEPS,
            "train.eval_steps": MAX_STEPS,
            "train.eval_documents": 2,
            "train.per_device_train_batch_size": 1,
            "train.gradient_accumulation_steps": 1,
        }
        if "jobs" in out:
            platform, jobs = out["platform"], out["jobs"]
            changes |= {
                "data.aws.bucket": platform["data_bucket"],
                "data.aws.role_arn": jobs["role_arns"]["glue"],
                "data.aws.database": jobs["glue_database"],
                "data.aws.security_configuration": jobs["glue_security"],
                "train.sagemaker.bucket": platform["models_bucket"],
                "train.sagemaker.role_arn": jobs["role_arns"]["sagemaker"],
                "train.sagemaker.image_uri": self._images.get("train"),
                "train.sagemaker.kms_key_id": platform["kms_key_arn"],
                "train.sagemaker.subnets": jobs["training_subnet_ids"],
                "train.sagemaker.security_group_ids": [jobs["training_security_group_id"]],
            }
        if self._sources:
            changes |= {"data.sources": self._sources, "model.base": self._base}
        given = tuple(f"{name}={json.dumps(value)}" for name, value in changes.items())
        return load_recipe(self.path, overrides=(*self.overrides, *given))

    def document(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """The whole report."""
        import importlib.metadata
        from datetime import UTC, datetime

        from nexus_llm.cloud.local import available_cores, processor_name
        from nexus_llm.cloud.rehearsal_faults import met
        from nexus_llm.cloud.rehearsal_platform import known_gaps
        from nexus_llm.deploy.rehearsal import document

        return document(
            outcomes,
            met(self.faults),
            recipe=str(self.path),
            date=datetime.now(UTC).date().isoformat(),
            machine=f"{available_cores()} cores, {processor_name()}",
            emulator=f"moto {importlib.metadata.version('moto')}",
            shortened=f"{MAX_STEPS} training steps of one row, at most 1 MiB of each source, no database, "
            f"a minute of alarms and rollouts lasts {MINUTE_SECONDS:g} s, a first token may take "
            f"{FIRST_TOKEN_SECONDS}, the version that dies is not asked the fifty questions again",
            usd_per_month=round(sum(self.platform.usd_per_month.values()), 2),
            rests_on_patches=self.platform.rests_on_patches((*self.jobs.patches, *self.deployments.patches)),
            known_gaps=list(known_gaps()),
            ledger=self.platform.ledger(),
            receipts=[one.as_document() for one in self.platform.receipts],
        )

    def _quotas(self) -> Facts:
        rows = self._rows(quota=_PLENTY, machine_quota=0.0, with_platform=False)
        failed = [one for one in rows if one.verdict == "fail"]
        if [one.name.partition(":")[0] for one in failed] != ["train job"]:
            names = ", ".join(one.name for one in failed) or "nothing"
            raise DeploymentError(f"the quota of 0 should fail alone, and {names} failed", fix="see deploy/checks.py")
        return {"checks": len(rows), "exit code": 6, "failed": failed[0].found, "fix": failed[0].fix}

    def _preflight(self) -> Facts:
        rows = self._rows(quota=_PLENTY, machine_quota=_PLENTY, with_platform=True)
        if failed := [one for one in rows if one.verdict == "fail"]:
            raise DeploymentError(f"preflight: {failed[0].name}: {failed[0].found}", fix=failed[0].fix or "see above")
        counts = {verdict: sum(one.verdict == verdict for one in rows) for verdict in ("ok", "warn", "unknown")}
        return {"checks": len(rows), **counts}

    def _rows(self, *, quota: float, machine_quota: float, with_platform: bool) -> Sequence[Any]:
        from nexus_llm.cli.aws_preflight import local_facts
        from nexus_llm.cloud.account import open_account
        from nexus_llm.cloud.account_facts import gather
        from nexus_llm.cloud.emulated_quotas import EmulatedQuotas
        from nexus_llm.deploy.needs import ENVIRONMENTS, Platform, needs_of
        from nexus_llm.deploy.preflight import preflight

        recipe, deployment = self.recipe(), self.platform.life.deployment
        found = Platform.of(self.platform.outputs()["platform"], place="platform.json") if with_platform else None
        variables = {"tasks": {"min": 1, "max": 2}, "size": {"cpu": 2048}}
        needs = needs_of(
            recipe, "small", region=deployment.region, account_id=deployment.account, zones=deployment.zones,
            platform=found, serving_variables=variables | ({"gateway_version": _tag(self._images)} if found else {}),
        )  # fmt: skip
        values = {one.quota: machine_quota if one.what == "train job" else quota for one in needs.quotas}
        account = open_account(deployment.region, stand_ins={"service-quotas": EmulatedQuotas(values)})
        local = local_facts(recipe, ENVIRONMENTS["small"].budget_usd, deployment.region)
        return preflight(needs, gather(needs, account), local)

    def _platform(self) -> Facts:
        facts = self.platform.up("1-platform")
        self._images = self.platform.push_images(self.platform.outputs()["platform"]["ecr_repository_urls"])
        return facts | {"images pushed": sorted(self._images)}

    def _upload(self) -> Facts:
        from nexus_llm.cloud.data_uploads import upload_file
        from nexus_llm.cloud.rehearsal_data import put_sources

        bucket = self.platform.outputs()["platform"]["data_bucket"]
        model = self._model()
        for entry in model.manifest.files:
            upload_file(model.folder / entry.path, f"s3://{bucket}/model/{entry.path}")
        self._sources, taken = put_sources(self.recipe(), f"s3://{bucket}/sources", self.folder / "sources")
        self._base = f"s3://{bucket}/model/"
        wheels = self.folder / "wheels.zip"
        wheels.write_bytes(b"PK\x05\x06" + bytes(18))  # an empty one: the job runs with this Python's packages
        upload_file(wheels, f"s3://{bucket}/nexus/jobs/wheels.zip")
        return taken | {"base model": f"{sum(one.bytes for one in model.manifest.files) / 1e6:.0f} MB"}

    def _model(self) -> Artifact:
        """The recipe's base model, from this machine's cache; fetched where it was never used."""
        from nexus_llm.cloud.local import provenance
        from nexus_llm.pipeline import Workspace, execute, stages
        from nexus_llm.recipe import load_recipe

        recipe = load_recipe(self.path, overrides=self.overrides)
        place = Workspace(root=self.folder / "workspace", cache=self.openings.cache)
        line, origin = stages(until="model"), provenance(command_line())
        return execute(recipe, place, self.openings, line=line, provenance=origin).artifacts["model"]

    def _data(self) -> Facts:
        refused = ""
        try:
            self._execute("data")
        except NexusError as error:
            refused = error.what
        if "glue:StartJobRun" not in refused:
            raise DeploymentError(f"glue:StartJobRun was to be refused ({refused})", fix="see the list of faults")
        made = self._execute("data")["data"]
        facts = made.manifest.facts
        return {
            "refused first": refused,
            "documents read": facts["read"],
            "documents kept": facts["documents"],
            "tokens": facts["tokens"],
            "artifact": made.id,
            "Spark (s)": round(self.jobs.spark_seconds, 1),
        }

    def _train(self) -> Facts:
        made = self._execute("train")["train"]
        seen = self.jobs.interruption
        if seen.get("exit_code") != 75:
            raise DeploymentError(
                f"the interrupted container ended with {seen.get('exit_code')}", fix="75 was expected"
            )
        before, after = self.jobs.losses
        if min(after) == 1 or any(after[step] != loss for step, loss in before.items() if step in after):
            raise DeploymentError(f"machine 2 did not continue machine 1: {before}, {after}", fix="read their logs")
        return {
            "SIGTERM": f"machine 1 made {len(before)} steps, exit code 75",
            "copy to S3 cut off": f"{', '.join(seen['missing_after_copy'])} missing",
            "resumed": f"machine 2 made steps {min(after)} to {max(after)} from the last whole checkpoint",
            "made twice": {f"step {step}": f"loss {after[step]} both times" for step in sorted({*before} & {*after})},
            "job": made.manifest.facts["job"],
            "artifact": made.id,
        }

    def _package(self) -> Facts:
        from nexus_llm.cloud.data_uploads import upload_artifact

        made, out = self._execute("package")["package"], self.platform.outputs()
        if self._key not in ("", made.key):
            raise DeploymentError(f"the package's key was to be {self._key} and is {made.key}", fix="see pipeline.plan")
        self.service.package = upload_artifact(made, f"s3://{out['platform']['models_bucket']}")
        version = self.platform.register(
            self.recipe(), group=out["jobs"]["model_package_group"], image=self._images["serve"],
            folder=f"{self.service.package}/",
        )  # fmt: skip
        return {"artifact": made.id, "location": self.service.package, **version}

    def _serving(self) -> Facts:
        from nexus_llm.pipeline import plan, stages

        name = "llm.example.com"
        asked = self.platform.client("acm").request_certificate(DomainName=name)
        recipe = self.recipe()
        self._key = plan(recipe, *self._place(), line=stages(until="package"))[-1].key
        model = {"name": recipe.name, "key": f"package/{self._key}"}
        given = {"gateway_version": _tag(self._images), "model": model, "certificate_arn": asked["CertificateArn"]}
        given["host_name"] = name
        given["database"] = None  # the provider waits three minutes for one, and as long for its end
        given["objectives"] = {"first_token_seconds": FIRST_TOKEN_SECONDS}
        self.platform.give("2-serving", given)
        return self.platform.up("2-serving")

    def _delivery(self) -> Facts:
        place = self.platform.life.deployment
        connection = f"arn:aws:codeconnections:{place.region}:{place.account}:connection/1"
        given: dict[str, Any] = {"source_code": {"connection_arn": connection, "repository": "example/llm"}}
        self.platform.give("3-delivery", given | {"canary": CANARY, "test_minutes": 60})
        return self.platform.up("3-delivery")

    def _tasks(self) -> Facts:
        from nexus_llm.cloud.rehearsal_service import desired_count

        serving = self.platform.outputs()["serving"]
        self.service.name = serving["service_name"]
        self.service.serve_command = (*self.service.serve_command, "--name", self.recipe().name)
        wanted = desired_count(self.platform.client("ecs"), serving)
        self.service.match(wanted)
        first = self.service.tasks[0]
        return {
            "tasks wanted": wanted,
            "fetched (s)": round(first.fetch_seconds, 1),
            "started (s)": round(first.start_seconds, 1),
        }

    def _answers(self) -> Facts:
        from nexus_llm.cloud.rehearsal_service import QUESTIONS, client_of, streamed

        client = client_of(self.service.balancer.url)
        model = client.models.list().data[0].id
        messages = [{"role": "user", "content": QUESTIONS[0]}]
        whole = client.chat.completions.create(model=model, messages=messages, max_completion_tokens=24)
        seconds, reason, text = streamed(client, model, QUESTIONS[1], 24)
        if not (whole.choices[0].message.content and whole.usage.completion_tokens and text and reason):
            raise ServingError("an answer came without text, usage or reason", fix=f"read {self.service.folder}")
        return {
            "model": model,
            "tokens of the whole answer": whole.usage.completion_tokens,
            "first token of the streamed one (s)": round(seconds, 2),
            "it ended because of": reason,
        }

    def _scale(self) -> Facts:
        from nexus_llm.cloud import rehearsal_service as serving

        ecs, out = self.platform.client("ecs"), self.platform.outputs()["serving"]
        callers = serving.Callers(self.service.balancer.url, self.recipe().name)
        callers.begin()
        try:
            for count in (out["tasks"]["max"], out["tasks"]["min"]):
                serving.want(ecs, out, count)
                self.service.match(serving.desired_count(ecs, out))
                time.sleep(_SETTLE_SECONDS)
        finally:
            callers.end()
        left = self.service.ended[-1]
        facts = serving.share(callers, self.service.balancer)
        if callers.lost or not callers.whole or left.exit_code:
            raise ServingError(
                f"{len(callers.lost)} answers were lost ({', '.join(callers.lost[:1])}), {callers.whole} came whole, "
                f"the task that left ended with {left.exit_code}",
                fix=f"read the logs in {self.service.folder}",
            )
        return facts | {"drained (s)": round(left.drained_seconds or 0.0, 1), "its exit code": left.exit_code}

    def _rollouts(self) -> Rollouts:
        return Rollouts(
            self.platform, self.service, self.deployments, self.folder / "rollouts", self.openings,
            package=self.service.package, model=self.recipe().name,
        )  # fmt: skip

    def _restore(self) -> Facts:
        from nexus_llm.cloud.local_postgres import local_postgres
        from nexus_llm.cloud.restore_drill import Ground, restore_drill

        made, folder = self.platform.outputs()["platform"], self.folder / "drill"
        folder.mkdir()
        with local_postgres() as postgres:
            ground = Ground(
                folder, self.platform.client("s3"), made["models_bucket"], self.platform.life.deployment.state_bucket,
                f"s3://{made['data_bucket']}/backups", postgres, megabytes=8, has_registry=False,
            )  # fmt: skip
            found = restore_drill(ground, self.openings.progress)
        if not found["holds"]:
            differ = ", ".join(one["name"] for one in found["systems"] if not one["equal"]) or "too slow"
            raise DeploymentError(
                f"not all came back as it was: {differ}", fix="nexus aws drill restore tries it alone"
            )
        facts = {one["name"]: f"{one['compared']}: equal" for one in found["systems"]}
        return {"all back and compared (s)": found["rto_seconds"], **facts} | (
            {"not tried": found["not_run"]} if found["not_run"] else {}
        )

    def _execute(self, until: str) -> dict[str, Artifact]:
        """The artifacts up to a stage, made by the jobs of the platform."""
        from nexus_llm.cloud.local import provenance
        from nexus_llm.pipeline import execute, stages

        line, origin = stages(until=until), provenance(command_line())
        return execute(self.recipe(), *self._place(), line=line, provenance=origin).artifacts

    def _place(self) -> tuple[Workspace, Ports]:
        """Where artifacts lie, and the openings to the platform's jobs."""
        from nexus_llm.cloud.data_submit import AwsDataService
        from nexus_llm.cloud.sagemaker import SageMakerTrainService, StoredBucket
        from nexus_llm.cloud.sagemaker_training import TrainingJobs
        from nexus_llm.pipeline import Workspace

        progress, cache = self.openings.progress, self.folder / "cache"
        openings = replace(
            self.openings,
            cache=cache,
            data_service=AwsDataService(self._account, progress),
            train_service=SageMakerTrainService(lambda one: TrainingJobs(self._account(one)), progress, StoredBucket()),
        )
        return Workspace(root=self.folder / "workspace", cache=cache), openings

    def _account(self, region: str | None) -> Account:
        from nexus_llm.cli.job_account import account

        opened = account(region, self.openings.interrupt)
        return replace(opened, watch=replace(opened.watch, sleep=lambda seconds: time.sleep(seconds / POLLS_PER_POLL)))


def _tag(images: Mapping[str, str]) -> str:
    """`:TAG` of the images that were pushed."""
    return ":" + images["serve"].rpartition(":")[2]
