"""The cost section: what users will ask of the model, how fast it must answer, and what a month of it is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nexus_llm.recipe.section import Section, Share

Purchase = Literal["on-demand", "spot", "savings-1y", "savings-3y"]
Seconds = Annotated[float, Field(gt=0, le=3600)] | None


class TrafficRecipe(Section):
    """What users ask in a month of 730 hours."""

    requests_per_month: Annotated[float, Field(gt=0, le=1e11)] = 100_000
    input_tokens: Annotated[float, Field(ge=1, le=1_000_000)] = 500
    """Mean tokens of a prompt, template included."""
    output_tokens: Annotated[float, Field(ge=1, le=1_000_000)] = 300
    """Mean tokens of an answer."""
    peak_ratio: Annotated[float, Field(ge=1, le=730)] = 3.0
    """Arrivals of the busiest hour over the month's mean: machines are bought for that hour. 730: all in one hour."""
    trace: str | None = None
    """An Azure or Mooncake trace, as `nexus bench --trace` plays it: its arrivals, played as fast as each load needs,
    and its lengths stand for Poisson's and for `input_tokens` and `output_tokens`."""


class ObjectiveRecipe(Section):
    """What 95 % of the requests must stay under, in seconds; null is no objective."""

    ttft_seconds: Seconds = 2.0
    """To the first token."""
    tpot_seconds: Seconds = 0.1
    """Between tokens: 0.1 is about twice as fast as people read."""
    e2e_seconds: Seconds = None
    """To the last token, for callers who wait for the whole answer."""


class ServiceRecipe(Section):
    """What stands around the engines, all of it on the bill."""

    availability_zones: Annotated[int, Field(ge=1, le=6)] = 2
    gateway_tasks: Annotated[int, Field(ge=0, le=1000)] = 2
    """Fargate tasks of the gateway."""
    gateway_vcpu: Annotated[float, Field(ge=0.25, le=16)] = 0.5
    gateway_gb: Annotated[float, Field(ge=0.5, le=120)] = 1.0
    load_balancer: bool = True
    """With the firewall in front of it, as `infra/` makes them."""
    database_instances: Annotated[int, Field(ge=0, le=3)] = 2
    """PostgreSQL for keys, limits and usage: Aurora at its smallest capacity. 2 as in environment `standard`, one of
    them in another zone; `small` has 1. 0: none, and the API is open to whoever reaches it."""
    nat_gateways: Annotated[int, Field(ge=0, le=6)] = 2
    nat_gb: Annotated[float, Field(ge=0, le=1e9)] = 20
    """Through them in a month: images, packages."""
    interface_endpoints: Annotated[int, Field(ge=0, le=50)] = 5
    """In every zone: ecr.api, ecr.dkr, logs, monitoring, secretsmanager."""
    disk_gb: Annotated[float, Field(ge=0, le=1e9)] = 100
    """EBS volume of one machine."""
    stored_gb: Annotated[float, Field(ge=0, le=1e9)] = 100
    """In S3: data, checkpoints, model versions."""
    images_gb: Annotated[float, Field(ge=0, le=1e9)] = 15
    """In ECR."""
    log_bytes_per_request: Annotated[float, Field(ge=0, le=1e9)] = 2_000
    metrics: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    alarms: Annotated[int, Field(ge=0, le=1_000_000)] = 39
    """As environment `standard` has them; so are the composite ones."""
    composite_alarms: Annotated[int, Field(ge=0, le=1_000_000)] = 6
    dashboards: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    kms_keys: Annotated[int, Field(ge=0, le=1_000_000)] = 2
    secrets: Annotated[int, Field(ge=0, le=1_000_000)] = 2
    bytes_per_output_token: Annotated[float, Field(ge=0, le=1e9)] = 250
    """On the wire, streamed: one JSON event a token."""


class ScalingRecipe(Section):
    """When engines start and stop, so that fewer run when fewer people ask."""

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Without the spares. 0 lets the service sleep when nobody asks: who comes first then waits for a start."""
    target_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Of what one engine takes within the objective: the rest is room to grow while another one starts."""
    cold_start_seconds: Annotated[float, Field(ge=0, le=3600)] = 900
    """Until a new GPU machine has its model in memory and takes requests; paid for. Assumed: not measured here."""
    scale_in_cooldown_seconds: Annotated[float, Field(gt=0, le=3600)] = 600
    """A machine stops only when nobody needed it for so long."""
    awake_hours: tuple[Annotated[int, Field(ge=0, le=23)], Annotated[int, Field(ge=1, le=24)]] = (0, 24)
    """First hour, and the one where machines stop until the next day: [8, 20] for a development system."""
    weekdays_only: bool = False
    """Five days of seven."""

    @model_validator(mode="after")
    def _times_fit(self) -> ScalingRecipe:
        if self.awake_hours[0] >= self.awake_hours[1]:
            raise ValueError(
                f"cost.scaling.awake_hours {list(self.awake_hours)} does not end after it begins: swap them"
            )
        if self.cold_start_seconds + self.scale_in_cooldown_seconds > 3600:
            seconds = self.cold_start_seconds + self.scale_in_cooldown_seconds
            raise ValueError(
                f"cost.scaling takes {seconds:g} s to start and to stop, more than an hour: plan without it"
            )
        return self


class CostRecipe(Section):
    """What the model costs and when it pays: `nexus cost plan`."""

    region: str = "us-east-1"
    """Prices are looked up there; a missing one is an error."""
    model_config_path: str | None = None
    """config.json of the model, where its size is not known by name."""
    traffic: TrafficRecipe = TrafficRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    service: ServiceRecipe = ServiceRecipe()
    scaling: ScalingRecipe | None = None
    """null buys the machines of the busiest hour for all of the month."""
    machines: tuple[str, ...] = ()
    """EC2 types to choose from; empty takes all that are known."""
    precisions: Annotated[tuple[Literal["bfloat16", "float8"], ...], Field(min_length=1)] = ("bfloat16", "float8")
    """float8 halves the weights; whether the answers stay as good is for the evaluation to say."""
    purchases: Annotated[tuple[Purchase, ...], Field(min_length=1)] = ("on-demand", "spot", "savings-1y", "savings-3y")
    spare_machines: Annotated[int, Field(ge=0, le=100)] = 1
    """Beyond what the busiest hour needs: 1 survives the loss of one (N+1). Spot always has one."""
    discount_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Negotiated, off AWS's list prices."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    currency_per_usd: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    """Rate of the day; nothing fetches it."""
    compare_with: tuple[str, ...] = ("gpt-4o-mini", "gpt-4.1", "deepinfra/meta-llama/Meta-Llama-3.1-8B-Instruct")
    """API models, as litellm names them."""
    cached_input_share: Share = 0.0
    """Of the input tokens, that an API would bill as cached."""
    batch_prices: bool = False
    """Compare with the APIs' prices for batches, whose answers may take a day. The shipped list has none for answers:
    `nexus cost refresh` first."""
    staff_hours_per_month: Annotated[float, Field(ge=0, le=10_000)] = 8
    """Of people who keep the service running. Your own number: nothing measured it."""
    staff_hours_to_build: Annotated[float, Field(ge=0, le=1e6)] = 80
    staff_usd_per_hour: Annotated[float, Field(ge=0, le=10_000)] = 75
    training_runs: Annotated[int, Field(ge=0, le=1000)] = 1
    """Paid for before the first request."""
    data_gb: Annotated[float, Field(ge=0, le=1e7)] = 0
    """Text that the data stage reads, unpacked; 0 leaves its cost out."""

    @model_validator(mode="after")
    def _choices_agree(self) -> CostRecipe:
        if self.currency == "USD" and self.currency_per_usd != 1:
            raise ValueError("cost.currency_per_usd is not 1 but the currency is USD: name the cost.currency")
        if self.currency != "USD" and self.currency_per_usd == 1:
            raise ValueError(f"cost.currency_per_usd is missing: say how many {self.currency} one USD is")
        return self
