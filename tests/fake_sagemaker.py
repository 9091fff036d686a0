"""SageMaker and CloudWatch Logs without AWS: every request and answer is checked by botocore's own models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.validate import validate_parameters

PAGE = 2
"""Streams and lines in one answer: small, so that tests turn pages."""
COMPLETED = (("InProgress", "Starting"), ("InProgress", "Training"), ("Completed", "Completed"))


def refusal(code: str, message: str = "", operation: str = "DescribeTrainingJob") -> ClientError:
    """An error as botocore raises it."""
    return ClientError({"Error": {"Code": code, "Message": message or f"about {code}"}}, operation)


class FakeAccount:
    """One account. A job moves one state further with every DescribeTrainingJob."""

    def __init__(self, *states: tuple[str, str], reason: str = "") -> None:
        """`states` are (TrainingJobStatus, SecondaryStatus); `reason` is why a failed job failed."""
        self.states = states or COMPLETED
        self.reason = reason
        self.jobs: dict[str, dict[str, Any]] = {}
        self.streams: dict[str, list[tuple[int, str]]] = {}
        self.gaps: set[int] = set()
        """Positions of a stream before which a page is empty though more follows, as CloudWatch's may be."""
        self.calls: list[str] = []
        self.refusals: dict[str, list[Exception]] = {}
        """Operation → errors to answer first."""
        self.on_state: Callable[[str, str], None] = lambda name, state: None
        """Told of every state that a job comes to."""

    def client(self, service: str) -> Any:
        """As boto3's."""
        return _Client(self, service)

    def create_training_job(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["TrainingJobName"]
        if name in self.jobs:
            raise refusal("ResourceInUse", "Training job names must be unique", "CreateTrainingJob")
        self.jobs[name] = {"body": body, "at": -1}
        return {"TrainingJobArn": _arn(name)}

    def describe_training_job(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["TrainingJobName"]
        if name not in self.jobs:
            raise refusal("ValidationException", "Requested resource not found.")
        job = self.jobs[name]
        job["at"] = min(job["at"] + 1, len(self.states) - 1)
        status, second = job.get("end") or self.states[job["at"]]
        self.on_state(name, second)
        request = job["body"]
        kept = ("HyperParameters", "OutputDataConfig", "ResourceConfig", "EnableManagedSpotTraining")
        answer = {"TrainingJobName": name, "TrainingJobStatus": status, "SecondaryStatus": second}
        answer |= {field: request[field] for field in kept if field in request}
        if status == "Failed":
            answer["FailureReason"] = self.reason
        if status == "Completed":
            output = request["OutputDataConfig"]["S3OutputPath"]
            answer["ModelArtifacts"] = {"S3ModelArtifacts": f"{output}/{name}/output/model.tar.gz"}
            answer |= {"TrainingTimeInSeconds": 400, "BillableTimeInSeconds": 100}
            answer["FinalMetricDataList"] = [
                {"MetricName": "train:loss", "Value": 2.5, "Timestamp": datetime(2026, 11, 1, tzinfo=UTC)}
            ]
        required = {"TrainingJobArn": _arn(name), "CreationTime": datetime(2026, 11, 1, tzinfo=UTC)}
        required |= {"AlgorithmSpecification": request["AlgorithmSpecification"]}
        required |= {"StoppingCondition": request["StoppingCondition"]}
        return {"ModelArtifacts": {"S3ModelArtifacts": ""}, **required, **answer}

    def stop_training_job(self, body: dict[str, Any]) -> dict[str, Any]:
        self.jobs[body["TrainingJobName"]]["end"] = ("Stopped", "Stopped")
        return {}

    def describe_log_streams(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self.streams:
            raise refusal("ResourceNotFoundException", "The specified log group does not exist.")
        names = sorted(name for name in self.streams if name.startswith(body["logStreamNamePrefix"]))
        start = int(body.get("nextToken", 0))
        answer: dict[str, Any] = {"logStreams": [{"logStreamName": name} for name in names[start : start + PAGE]]}
        return answer | ({"nextToken": str(start + PAGE)} if start + PAGE < len(names) else {})

    def get_log_events(self, body: dict[str, Any]) -> dict[str, Any]:
        events = self.streams[body["logStreamName"]]
        token = str(body.get("nextToken", "f/0"))
        start = int(token.removeprefix("f/").removesuffix("+"))
        if "nextToken" not in body:
            start = sum(time < body.get("startTime", 0) for time, _ in events)
        if start in self.gaps and not token.endswith("+"):
            return {"events": [], "nextForwardToken": f"f/{start}+", "nextBackwardToken": "b/0"}
        page = events[start : start + PAGE]
        shown = [{"timestamp": time, "message": text} for time, text in page]
        return {
            "events": shown,
            "nextForwardToken": f"f/{start + len(page)}" if page else token,
            "nextBackwardToken": "b/0",
        }


@functools.cache
def _operations(service: str) -> dict[str, Any]:
    """Method → botocore's model of the operation; SageMaker's has megabytes."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name): model.operation_model(name) for name in model.operation_names}


class _Client:
    def __init__(self, account: FakeAccount, service: str) -> None:
        self._account = account
        self._operations = _operations(service)

    def __getattr__(self, method: str) -> Any:
        def call(**body: Any) -> Any:
            model = self._operations[method]
            validate_parameters(body, model.input_shape)
            self._account.calls.append(method)
            if waiting := self._account.refusals.get(method):
                raise waiting.pop(0)
            answer = getattr(self._account, method)(body)
            if model.output_shape:
                validate_parameters(answer, model.output_shape)
            return answer

        return call


def _arn(name: str) -> str:
    return f"arn:aws:sagemaker:eu-central-1:123456789012:training-job/{name}"
