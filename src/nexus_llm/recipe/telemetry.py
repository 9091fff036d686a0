"""What a server tells of itself, and what it may keep of what it is asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from nexus_llm.recipe.section import Section, Share


class TelemetryRecipe(Section):
    """Traces, CloudWatch metrics and slow requests. None of it ever holds a prompt or an answer."""

    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    """An OpenTelemetry collector, like `http://127.0.0.1:4318`; spans go to its `/v1/traces`. null: where
    $OTEL_EXPORTER_OTLP_ENDPOINT says, and nowhere without it."""
    trace_share: Share = 1.0
    """Part of the requests that are traced, of those that do not come with a trace of their caller's."""
    emf: str | None = None
    """Where CloudWatch's metric lines go: `stdout`, `stderr`, or a file; null: nowhere. `--json` wants a file."""
    service: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[!-~]+$")] | None = None
    """CloudWatch's dimension Service and the traces' service.name; null: $NEXUS_SERVICE, or else the model's name."""
    slow_request_seconds: Annotated[float, Field(gt=0)] | None = None
    """A request that takes longer gets a warning of its own in the log; null: none does."""


class SamplesRecipe(Section):
    """Prompts and answers that are kept. Off by default: tell your users before you turn it on."""

    share: Share = 0.0
    """Part of the requests that is kept, chosen by a hash of the request id."""
    folder: str | None = None
    """Where: one file a day, readable by the server's user only."""
    days: Annotated[int, Field(ge=1, le=3_650)] = 7
    """How long a file is kept after its day."""
    redact: bool = True
    """Replace personal data and secrets first, as the data stage does; names of persons are not looked for."""

    @model_validator(mode="after")
    def _has_a_place(self) -> SamplesRecipe:
        if self.share > 0 and self.folder is None:
            raise ValueError("serve.samples.share is above 0, so that serve.samples.folder has to be named")
        return self
