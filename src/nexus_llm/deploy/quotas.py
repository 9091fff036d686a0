"""Which of AWS' service quotas a machine, a job or an address counts against, and the command that asks for more.

Codes are those of the list that Gruntwork generates from AWS' own ListAWSDefaultServiceQuotas
(github.com/gruntwork-io/terraform-aws-utilities, docs/quotas.md, stored copy read 2026-11-22; VPC's is from moto
5.2.5's copy of AWS' list). EC2's names are compared with its user guide ("Spot Instance quotas", read 2026-11-22). A
quota whose code was not found so is looked up by its name when it is needed: SageMaker has one for each type and use,
over 1,500.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nexus_llm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit of an account in a region."""

    service: str
    """Service Quotas' code of the service."""
    names: tuple[str, ...]
    """What AWS calls it; where names have changed, the newest last. The first that AWS knows counts."""
    code: str | None = None
    """None: looked up by name."""
    unit: str = "vCPU"

    @property
    def name(self) -> str:
        """As it is shown."""
        return self.names[0]


STANDARD_ON_DEMAND = Quota("ec2", ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",), "L-1216C47A")
G_ON_DEMAND = Quota("ec2", ("Running On-Demand G and VT instances",), "L-DB2E81BA")
P_ON_DEMAND = Quota("ec2", ("Running On-Demand P instances",), "L-417A185B")
STANDARD_SPOT = Quota("ec2", ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",), "L-34B43A08")
G_SPOT = Quota("ec2", ("All G and VT Spot Instance Requests",), "L-3819A6DF")
P_SPOT = Quota("ec2", ("All P4, P3 and P2 Spot Instance Requests", "All P Spot Instance Requests"), "L-7212CCBC")
# Some regions' lists keep P5 apart (L-C4BD4855), the newest user guide has one quota for all of P: so, by name.
P5_SPOT = Quota("ec2", ("All P5 Spot Instance Requests", "All P Spot Instance Requests"))
FARGATE = Quota("fargate", ("Fargate On-Demand vCPU resource count",), "L-3032A538")
ELASTIC_IPS = Quota("ec2", ("EC2-VPC Elastic IPs",), "L-0263D0A3", "addresses")
VPCS = Quota("vpc", ("VPCs per Region",), "L-F678F1CE", "VPCs")
EMR_SERVERLESS = Quota("emr-serverless", ("Max concurrent vCPUs per account",), "L-D05C8A75")
ENDPOINTS = Quota("sagemaker", ("Number of instances across active endpoints",), None, "instances")

# Letters of a type before its generation → (on demand, spot). EC2 user guide, "Amazon EC2 instance type quotas".
_STANDARD = (STANDARD_ON_DEMAND, STANDARD_SPOT)
_FAMILIES = {
    **dict.fromkeys(("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"), _STANDARD),
    **dict.fromkeys(("g", "gr", "vt"), (G_ON_DEMAND, G_SPOT)),
    "p": (P_ON_DEMAND, P_SPOT),
}


def machine_quota(instance_type: str, *, is_spot: bool) -> Quota:
    """The quota that the vCPUs of an EC2 type or family count against.

    >>> machine_quota("g6.xlarge", is_spot=False).code, machine_quota("c7i", is_spot=True).code
    ('L-DB2E81BA', 'L-34B43A08')
    >>> machine_quota("p5.48xlarge", is_spot=True).code is None
    True

    Raises:
        UsageError: the type's quota is not known here.
    """
    if is_spot and re.match(r"p[5-9]", instance_type):
        return P5_SPOT
    letters = re.match(r"[a-z]+", instance_type)
    if not letters or letters[0] not in _FAMILIES:
        raise UsageError(
            f"the vCPU quota of the machine type {instance_type!r} is not known here",
            fix="use a type of the families G (g5, g6, g6e), P (p4d, p5) or the standard ones (c7i, m7i, …)",
        )
    return _FAMILIES[letters[0]][is_spot]


def training_quota(instance_type: str, *, is_spot: bool) -> Quota:
    """SageMaker's quota of training machines of a type.

    >>> training_quota("ml.g5.2xlarge", is_spot=True).name
    'ml.g5.2xlarge for spot training job usage'
    """
    return Quota("sagemaker", (f"{instance_type} for {'spot ' * is_spot}training job usage",), None, "instances")


def warm_pool_quota(instance_type: str) -> Quota:
    """SageMaker's quota of training machines of a type that wait for the next job."""
    return Quota("sagemaker", (f"{instance_type} for training warm pool usage",), None, "instances")


def increase_command(quota: Quota, code: str, *, desired: float, region: str) -> str:
    """The command that asks AWS for a larger quota.

    >>> increase_command(FARGATE, "L-3032A538", desired=16, region="eu-central-1")[:58]
    'aws service-quotas request-service-quota-increase --servic'
    """
    return (
        f"aws service-quotas request-service-quota-increase --service-code {quota.service} --quota-code {code} "
        f"--desired-value {desired:g} --region {region}"
    )
