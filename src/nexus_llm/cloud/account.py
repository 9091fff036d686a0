"""An AWS account as boto3 reaches it: one session, clients that try again within bounds; who asks, who watches."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nexus_llm.cloud.aws_errors import explained
from nexus_llm.deploy.facts import Caller
from nexus_llm.errors import MissingExtraError, StorageError

CONNECT_SECONDS = 3.0
READ_SECONDS = 20.0
ATTEMPTS = 3
# Where each partition answers for regions that the account has not enabled (AWS Fault Isolation Boundaries, 2026-11).
_HOME = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}


class Spending(NamedTuple):
    """What a job has cost by now."""

    words: str = ""
    is_over: bool = False
    """Whether it must end now."""


@dataclass(frozen=True)
class Watch:
    """Whoever watches jobs; by default somebody who only waits."""

    sleep: Callable[[float], None] = time.sleep
    stop_requested: Callable[[], str | None] = lambda: None
    """Asked between polls; a reason ends the watching, the job goes on."""
    cost_words: Callable[[Any], str] = lambda state: ""  # noqa: ARG005
    """What a job (`launcher.JobState`) cost, in words; prices are not this package's business."""
    spending: Callable[[str, Any], Spending] = lambda job, state: Spending()  # noqa: ARG005
    """Told of every state of every job that is followed, with its full id."""
    show_line: Callable[[str], None] = lambda line: None  # noqa: ARG005
    """Told of every line that a job prints and that is no metric."""


@dataclass
class Account:
    """Clients of one account; threads may share it."""

    session: Any
    """boto3's."""
    region: str | None = None
    """None is what the session says."""
    stand_ins: Mapping[str, Any] = field(default_factory=dict)
    """Service → what answers instead of boto3's client, for what an emulator lacks."""
    watch: Watch = Watch()
    _clients: dict[tuple[str, str | None], Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def client(self, service: str, *, region: str | None = None) -> Any:
        """boto3's client of a service: adaptive retries, and no call that waits for ever."""
        if service in self.stand_ins:
            return self.stand_ins[service]
        from botocore.config import Config

        place = (service, region or self.region)
        with self._lock:  # a session makes one client at a time; the clients themselves are safe
            if place not in self._clients:
                config = Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    retries={"mode": "adaptive", "total_max_attempts": ATTEMPTS},
                )
                self._clients[place] = self.session.client(service, region_name=place[1], config=config)
            return self._clients[place]

    @property
    def known_regions(self) -> tuple[str, ...]:
        """Names of all regions of all partitions, as botocore ships them."""
        partitions = self.session.get_available_partitions()
        found = (self.session.get_available_regions("ec2", partition_name=one) for one in partitions)
        return tuple(sorted(region for regions in found for region in regions))

    @property
    def home_region(self) -> str:
        """A region of the same partition that no account can disable."""
        partition = self.session.get_partition_for_region(self.region or "us-east-1")
        return _HOME.get(partition, str(self.region))

    def caller(self) -> Caller:
        """Who asks.

        Raises:
            StorageError: there are no credentials, they have expired, or they want a code that nobody can type here.
            TryAgainError: AWS is busy or out of reach.
        """
        self._refuse_mfa_prompt()
        with explained("sts:GetCallerIdentity", "the caller"):
            answer = self.client("sts", region=self.home_region).get_caller_identity()
        return Caller(str(answer["Account"]), str(answer["Arn"]))

    def _refuse_mfa_prompt(self) -> None:
        """botocore would ask for the code on the terminal, and Terraform would fail on it later."""
        with explained("sts:GetCallerIdentity", "the caller"):
            profile = self.session._session.get_scoped_config()
        if not profile.get("mfa_serial") or not profile.get("role_arn") or _has_environment_keys():
            return
        name = self.session.profile_name
        raise StorageError(
            f"profile {name} takes the role {profile['role_arn']} only with a code of {profile['mfa_serial']} (MFA), "
            "which Terraform cannot ask for",
            fix=f'eval "$(aws configure export-credentials --profile {name} --format env)"; unset AWS_PROFILE',
        )


def open_account(region: str | None = None, *, stand_ins: Mapping[str, Any] | None = None) -> Account:
    """The account of the environment's credentials, in `region`, else AWS_REGION, else what boto3 finds.

    Raises:
        MissingExtraError: boto3 is not installed.
        StorageError: AWS_PROFILE names a profile that does not exist, or the configuration cannot be read.
    """
    try:
        import boto3
    except ImportError as error:
        raise MissingExtraError.for_extra("aws", "boto3") from error
    with explained("sts:GetCallerIdentity", "the caller"):
        # boto3 itself reads only AWS_DEFAULT_REGION; Terraform and the AWS CLI also read AWS_REGION.
        session = boto3.session.Session(region_name=region or os.environ.get("AWS_REGION"))
        return Account(session, session.region_name, stand_ins or {})


def _has_environment_keys() -> bool:
    return bool(os.environ.get("AWS_ACCESS_KEY_ID")) and not os.environ.get("AWS_PROFILE")
