"""Every field of a recipe, with its bounds, default and reason.

Field names are those of Hugging Face's transformers, PEFT and TRL wherever they have one.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nexus_llm.recipe.cost import CostRecipe
from nexus_llm.recipe.evaluate import EvaluateRecipe
from nexus_llm.recipe.package import PackageRecipe
from nexus_llm.recipe.section import Section, Share
from nexus_llm.recipe.serving import PrioritiesRecipe, TimeoutsRecipe, UpstreamRecipe, VllmRecipe
from nexus_llm.recipe.telemetry import SamplesRecipe, TelemetryRecipe
from nexus_llm.recipe.train import TrainRecipe

Epochs = Annotated[float, Field(gt=0, le=100)]
"""How often training sees a source's documents in one pass over the mix; 0.5 leaves out every other one. With weights:
how often at most. More than 4 teach little new (Muennighoff et al. 2023, arXiv:2305.16264)."""
Weight = Annotated[float, Field(gt=0)] | None
"""Share of the training tokens relative to the other sources' weights: all sources have one, or none has."""


class ModelRecipe(Section):
    """Which model to start from."""

    base: str = "smollm2-135m-instruct"
    """A catalogue name, `hf:ORG/NAME[@REVISION]`, `s3://bucket/prefix`, a local folder, or a GGUF file."""
    add_tokens: tuple[str, ...] = ()
    """Tokens added to the tokenizer; their embeddings start at the mean of all others."""


class PythonDocsSource(Section):
    """The Python language reference and the standard library's docstrings, as this Python carries them."""

    type: Literal["python-docs"]
    name: str = "python-docs"
    """Appears in counts and lineage."""
    epochs: Epochs = 1.0
    weight: Weight = None


class FilesSource(Section):
    """Your own files: jsonl, json, csv, parquet, txt, md, HTML, PDF, mail and WARC, all but parquet and PDF also as .gz
    or .zst."""

    type: Literal["files"]
    path: str
    """A file, a folder (searched at any depth) or a glob; local or `s3://`. Relative to where `nexus` runs."""
    name: str = "files"
    """Appears in counts and lineage."""
    text_field: str = "text"
    """Field (jsonl) or column (parquet) with the text. Rows with `messages`, or `prompt` and `completion`, become
    conversations instead."""
    max_broken_share: Share = 0.01
    """Broken lines are counted and set aside with their line numbers; above this share the stage refuses."""
    format: Literal["jsonl", "json", "csv", "parquet", "txt", "md", "html", "pdf", "eml", "mbox", "warc"] | None = None
    """What the files are; null goes by their endings."""
    chat_format: Literal["messages", "prompt-completion", "alpaca", "sharegpt", "preference", "kto", "text"] | None = (
        None
    )
    """How rows hold conversations; null looks at each row's fields."""
    epochs: Epochs = 1.0
    weight: Weight = None


Source = Annotated[PythonDocsSource | FilesSource, Field(discriminator="type")]


class QualityRecipe(Section):
    """Which documents are worth learning from. Every rejection is counted under the rule's name."""

    min_characters: Annotated[int, Field(ge=1)] = 200
    """Shorter documents are rejected."""
    max_characters: Annotated[int, Field(ge=1)] = 10_000_000
    """Longer documents are rejected; a long novel has 3 million."""
    min_alphabetic_share: Share = 0.4
    """Letters among all characters that are not white space."""
    max_repeated_line_share: Share = 0.3
    """Characters in lines that repeat an earlier line (Rae et al. 2021, arXiv:2112.11446, table A1)."""
    min_mean_word_characters: Annotated[float, Field(ge=0)] = 2.5
    """Mean word length below which text is rarely prose."""
    max_mean_word_characters: Annotated[float, Field(gt=0)] = 12
    """Mean word length above which text is rarely prose."""
    families: tuple[Literal["nexus", "gopher_quality", "gopher_repetition", "c4", "fineweb"], ...] = ("nexus",)
    """Sets of rules that apply, in this order: the six above (`nexus`), and those that published web corpora were made
    with. docs/data-rules.md lists every rule with its paper."""
    thresholds: dict[str, float | None] = {}
    """Other thresholds for rules by name; null switches a rule off."""

    def limits(self) -> dict[str, float | None]:
        """Rule → threshold, for all that the recipe decides."""
        own = self.model_dump(exclude={"families", "thresholds"})
        return {**own, **self.thresholds}


class LanguageRecipe(Section):
    """Which language a document is in, by fastText's lid.176 (Joulin et al. 2016, arXiv:1612.03651)."""

    identify: bool = True
    """Look at every document of 500 characters and more; shorter ones are undetermined and stay."""
    keep: tuple[str, ...] = ()
    """ISO 639 codes as lid.176 gives them, such as `[en, de]`; empty keeps all."""
    min_score: Share = 0.65
    """Documents whose language is less sure are rejected, where `keep` names any (FineWeb's threshold: Penedo et al.
    2024, arXiv:2406.17557)."""


Entity = Literal[
    "EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "SECRET", "PERSON"
]


class PiiRecipe(Section):
    """Personal data and secrets in the text."""

    action: Literal["redact", "drop", "keep"] = "redact"
    """`redact` writes the entity's name in its place, `drop` rejects the whole document, `keep` does not look."""
    entities: tuple[Entity, ...] = ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "SECRET")
    """What is looked for. IP_ADDRESS is left out by default: technical text is full of harmless ones. PERSON needs
    Presidio."""


class BlockRecipe(Section):
    """What must not be learned because of where it comes from: matched with the fields `url` and `license` of rows."""

    domains_path: str | None = None
    """A file with one domain a line; its subdomains are blocked too."""
    urls_path: str | None = None
    """A file with one URL a line."""
    licenses: tuple[str, ...] = ()
    """Licence names, as SPDX writes them."""


class EvaluationSet(Section):
    """Text that the model will be judged on and must therefore not learn."""

    name: str
    path: str
    """A file, folder or glob as in `sources`; every string field of a row counts."""


class SparkRecipe(Section):
    """Where Spark runs."""

    master: str | None = "local[2]"
    """`local[N]`, `spark://…`; null takes what spark-submit says. Not used where a session runs already (Glue, EMR)."""
    memory: str = "2g"
    """Java heap of the driver, in Java's notation; Python processes need about 0.7 GiB a core besides."""
    exchange: str | None = None
    """`s3://bucket/prefix` for what executors hand to one another; null where all of them see the run's folder."""
    partitions: Annotated[int, Field(ge=1)] = 64
    """Of every shuffle."""


class AwsDataRecipe(Section):
    """Where the data stage's AWS jobs run."""

    region: str | None = None
    """null takes what the environment says."""
    role_arn: str | None = None
    bucket: str | None = None
    """Scripts, wheels and the output lie here."""
    worker_type: str = "G.2X"
    workers: Annotated[int, Field(ge=2)] = 10
    max_run_hours: Annotated[float, Field(gt=0, le=168)] = 8
    """AWS ends the job then; Batch counts each attempt by itself."""
    security_configuration: str | None = None
    """Name of the Glue security configuration (KMS for S3, logs and bookmarks)."""
    application_id: str | None = None
    """Of the EMR Serverless application."""
    job_queue: str | None = None
    job_definition: str | None = None
    """Of AWS Batch."""
    database: str | None = None
    """Glue Data Catalog database that gets a table of the output; null registers none."""


class NearDuplicateRecipe(Section):
    """MinHash-LSH over word shingles (Broder 1997; Leskovec et al., "Mining of Massive Datasets", chapter 3)."""

    jaccard: Share = 0.7
    """Documents whose shingle sets are at least this similar belong to one cluster."""
    shingle_words: Annotated[int, Field(ge=1, le=20)] = 5
    """Words per shingle."""
    keep: Literal["one", "all"] = "one"
    """`one` keeps each cluster's longest document; `all` keeps every near-duplicate, but never in two splits. Exact
    copies are always dropped."""


class SplitRecipe(Section):
    """How much is held out. A cluster of near-duplicates never straddles splits."""

    validation_share: Share = 0.02
    test_share: Share = 0.04
    """Held out for evaluation: the tuned model is judged on it."""


class DataRecipe(Section):
    """From sources to token shards."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = (PythonDocsSource(type="python-docs"),)
    quality: QualityRecipe = QualityRecipe()
    block: BlockRecipe = BlockRecipe()
    language: LanguageRecipe = LanguageRecipe()
    pii: PiiRecipe = PiiRecipe()
    decontaminate: tuple[EvaluationSet, ...] = ()
    """Documents that share 13 words in a row with one of these sets are rejected (Brown et al. 2020, arXiv:2005.14165,
    appendix C)."""
    erase_path: str | None = None
    """A file with ids of records that must be forgotten, one a line; `nexus data erase` writes it."""
    near_duplicates: NearDuplicateRecipe = NearDuplicateRecipe()
    split: SplitRecipe = SplitRecipe()
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many documents were read; null reads all."""
    shard_tokens: Annotated[int, Field(ge=1_000)] = 25_000_000
    """Largest number of tokens in one shard file. Shards are written side by side, one a worker."""
    engine: Literal["embedded", "spark", "glue", "emr-serverless", "batch"] = "embedded"
    """Who does the work; the result is the same, so it is no part of the key."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes of the embedded engine; null takes one a core. No part of the key either."""
    spark: SparkRecipe = SparkRecipe()
    aws: AwsDataRecipe = AwsDataRecipe()


class KeysRecipe(Section):
    """Who may use the gateway, and what tokens cost."""

    database: str | None = None
    """Where keys, limits and usage are kept: `sqlite:///keys.db` for one machine,
    `postgresql+psycopg://user@host/name` for several gateways that keep limits together. null: open to everybody."""
    require_keys: bool = True
    """False also lets requests without a key in; those with one are still held to its limits."""
    usd_per_million_prompt_tokens: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    usd_per_million_completion_tokens: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    """What usage and monthly budgets are computed from."""

    @field_validator("database")
    @classmethod
    def _carries_no_password(cls, database: str | None) -> str | None:
        if database and re.search(r"//[^/@]*:[^/@]+@|[?&]password=", database):
            raise ValueError(
                "serve.keys.database carries a password, and recipes are copied into every run: "
                "leave it out; PostgreSQL's driver reads $PGPASSWORD and ~/.pgpass"
            )
        return database


class ServeRecipe(Section):
    """How the model answers."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    sagemaker: bool = False
    """Also answer SageMaker's `/ping` and `/invocations`, without keys: SageMaker lets callers in by IAM."""
    sagemaker_port: Annotated[int, Field(ge=1, le=65_535)] = 8080
    """Where, when `sagemaker` is on; SageMaker calls 8080."""
    engine: Literal["openvino", "llama.cpp", "transformers", "vllm", "openai"] = "openvino"
    """What generates: OpenVINO or llama.cpp on the CPU, transformers (slow; the reference), vLLM on a GPU, or
    `openai`: another server, named in `upstream`."""
    max_running: Annotated[int, Field(ge=1)] = 128
    """Requests that the engine works on at once; more wait in the queue."""
    max_waiting: Annotated[int, Field(ge=0)] = 256
    """Requests that wait; one more is answered 429."""
    max_waiting_tokens: Annotated[int, Field(ge=1)] = 1_048_576
    """Tokens of requests that wait, prompts and answers at most; more are answered 429. One may always wait."""
    max_waiting_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest time in the queue. Whose turn would come later, by the measured throughput, is answered 503 at once."""
    kv_overcommit: Annotated[float, Field(ge=1, le=16)] = 1.0
    """How many times the key-value cache may be promised to running requests, prompts and answers at most. 1 never
    makes the engine drop what it has computed; 2 runs more at once where answers end well before `max_tokens`."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 1024
    """Answer length where a request names none."""
    kv_cache_gib: Annotated[float, Field(gt=0)] = 1.0
    """Memory for keys and values of all running requests; the OpenVINO engine rounds up to whole GiB."""
    adapters: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")], str] = {}
    """Model name → LoRA adapter that answers under this name beside the model itself: a folder that `nexus train` wrote
    (or, for llama.cpp, a GGUF file). OpenVINO cannot switch adapters: package a merged model instead."""
    vllm: VllmRecipe = VllmRecipe()
    upstream: UpstreamRecipe = UpstreamRecipe()
    priorities: PrioritiesRecipe = PrioritiesRecipe()
    timeouts: TimeoutsRecipe = TimeoutsRecipe()

    @model_validator(mode="after")
    def _engine_fits(self) -> ServeRecipe:
        if self.engine == "openai" and not self.upstream.url:
            raise ValueError("serve.engine openai needs serve.upstream.url")
        if self.engine == "openai" and self.samples.share:
            raise ValueError("serve.samples: the openai engine passes requests on unread; take samples at the upstream")
        if self.adapters and self.engine in ("openvino", "openai"):
            raise ValueError(
                f"serve.adapters: the {self.engine} engine cannot switch adapters by request; use llama.cpp, "
                "transformers or vllm, or package the adapter merged into the model"
            )
        return self

    keys: KeysRecipe = KeysRecipe()
    telemetry: TelemetryRecipe = TelemetryRecipe()
    samples: SamplesRecipe = SamplesRecipe()


class Recipe(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    """Names the run's folder: small letters, digits, dot, dash, underscore."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 17
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    train: TrainRecipe = TrainRecipe()
    package: PackageRecipe = PackageRecipe()
    evaluate: EvaluateRecipe = EvaluateRecipe()
    serve: ServeRecipe = ServeRecipe()
    cost: CostRecipe = CostRecipe()
    platform: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] = "nexus"
    """Name of the AWS platform, `name` of infra/stages/1-platform: every job carries it as a tag."""

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        split = self.data.split
        if split.validation_share + split.test_share >= 1:
            raise ValueError("data.split leaves nothing to train on: validation_share + test_share must be below 1")
        if self.model.add_tokens and self.train.method != "full":
            raise ValueError(
                f"model.add_tokens needs train.method full: {self.train.method} would leave the new tokens untrained"
            )
        weights = [source.weight for source in self.data.sources]
        if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
            raise ValueError("data.sources: only some have a weight: give one to each, or to none")
        names = [source.name for source in self.data.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"data.sources have the same name twice ({', '.join(names)}): give each its own `name`")
        return self
