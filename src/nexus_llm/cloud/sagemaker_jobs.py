"""SageMaker's jobs behind the port `Launcher`: training, processing and transform differ in a word.

Source: docs.aws.amazon.com, SageMaker API reference (CreateTrainingJob, CreateProcessingJob, CreateTransformJob and
what describes and stops them), read 2026-11.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from nexus_llm.cloud.aws_errors import error_code
from nexus_llm.cloud.launcher import JobState, Launcher
from nexus_llm.cloud.sagemaker_errors import explained, is_missing, no_such_job


class SageMakerJobs(Launcher):
    """Jobs of one kind in one account and region, by their names."""

    word: ClassVar[str]
    """As in the names of the calls and of their fields."""

    @abstractmethod
    def told(self, found: Mapping[str, Any]) -> JobState:
        """What the answer of the describing call means."""

    def submit(self, body: Mapping[str, Any]) -> str:
        """Starts a job; one of that name that exists already is the same job, started by somebody else just now."""
        name = str(body[f"{self.word}JobName"])
        with self.explained(f"sagemaker:Create{self.word}Job", name):
            try:
                self._call("create", **body)
            except Exception as error:
                if error_code(error) != "ResourceInUse":
                    raise
        return name

    def find(self, job: str) -> JobState | None:
        """As `describe`; None where SageMaker knows none of that name."""
        with self.explained(self.describe_call, job):
            return self._find(job)

    def describe(self, job: str) -> JobState:
        found = self._find(job)
        if found is None:
            raise no_such_job(self.service, job, self.account.region)
        return found

    def stop(self, job: str) -> None:
        """See `Launcher.stop`; a training job saves before it ends."""
        if self.state(job).state == "InProgress":
            with self.explained(f"sagemaker:Stop{self.word}Job", job):
                self._call("stop", **{f"{self.word}JobName": job})

    def explained(self, call: str, name: str, *, fix: str | None = None) -> AbstractContextManager[None]:
        return explained(call, name, region=self.account.region, fix=fix)

    def _find(self, job: str) -> JobState | None:
        try:
            return self.told(self._call("describe", **{f"{self.word}JobName": job}))
        except Exception as error:
            if is_missing(error):
                return None
            raise

    def _call(self, verb: str, **body: Any) -> dict[str, Any]:
        return dict(getattr(self.account.client("sagemaker"), f"{verb}_{self.service}_job")(**body) or {})
