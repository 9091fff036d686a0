"""The train section: how the base model becomes ours, on which machines, and who is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nexus_llm.recipe.section import Section, Share


class DpoRecipe(Section):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the model is held near the base: larger holds more."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs that are taken to be labelled the wrong way round."""


class GuardRecipe(Section):
    """When a step is undone instead of kept."""

    max_loss_spike: Annotated[float, Field(gt=1)] | None = 3.0
    """A loss of more than so many times the median of the last steps, and 1 nat above it, is a spike; null looks for
    none."""
    window_steps: Annotated[int, Field(ge=4)] = 32
    """Steps whose median counts; the guard sleeps until it has seen as many."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 5
    """Batches that may be skipped in one run, for a spike or a value that is no number; one more ends the run."""


class DistributedRecipe(Section):
    """Several processes for one training run."""

    strategy: Literal["none", "ddp", "fsdp", "deepspeed"] = "none"
    """`ddp`: every process holds the whole model. `fsdp`: torch's fully_shard. `deepspeed`: ZeRO."""
    num_processes: Annotated[int, Field(ge=1)] = 1
    """On one machine; one a GPU. Rows of a step: all processes x per_device_train_batch_size x accumulation."""
    num_machines: Annotated[int, Field(ge=1)] = 1
    zero_stage: Literal[1, 2, 3] = 2
    """What DeepSpeed divides: 1 optimizer, 2 and gradients, 3 and weights."""
    offload_optimizer: bool = False
    """DeepSpeed keeps the optimizer in the machine's memory."""
    offload_param: bool = False
    """DeepSpeed keeps the weights there; stage 3 alone can."""


class SageMakerRecipe(Section):
    """The SageMaker training job."""

    region: str | None = None
    """null takes what the environment says."""
    role_arn: str | None = None
    image_uri: str | None = None
    """The train image in ECR (containers/train)."""
    bucket: str | None = None
    """Inputs, checkpoints and the result lie here."""
    instance_type: str = "ml.g5.2xlarge"
    instance_count: Annotated[int, Field(ge=1)] = 1
    volume_gib: Annotated[int, Field(ge=1)] = 200
    spot: bool = True
    checkpoints: bool = True
    """Copied to S3 while the job runs. Spot without them is refused."""
    max_run_hours: Annotated[float, Field(gt=0, le=672)] = 24
    """SageMaker ends the job then (28 days at most)."""
    max_wait_hours: Annotated[float, Field(gt=0, le=672)] | None = None
    """Spot: run and waiting for capacity together; null takes twice max_run_hours."""
    max_retries: Annotated[int, Field(ge=1, le=30)] = 3
    """After internal server errors."""
    warm_pool_minutes: Annotated[int, Field(ge=0, le=60)] = 0
    """Machines stay for the next job; not with spot."""
    subnets: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    kms_key_id: str | None = None
    tags: dict[str, str] = {}


class TrackingRecipe(Section):
    """Who else is told of losses and results. Nothing leaves the machine unless a URI says so."""

    mlflow: bool = False
    mlflow_uri: str | None = None
    """null takes an SQLite file in the runs folder."""
    tensorboard: bool = False
    wandb_project: str | None = None
    """Weights & Biases; its key comes from the environment."""


class TrainRecipe(Section):
    """How the base model becomes ours."""

    objective: Literal["continued-pretraining", "sft", "dpo"] = "continued-pretraining"
    """`continued-pretraining` learns every token of running text and conversations; `sft` learns only what the
    assistant says in conversations; `dpo` learns to prefer chosen answers to rejected ones."""
    method: Literal["lora", "dora", "qlora", "full"] = "lora"
    """`lora`: low-rank adapters (Hu et al. 2021, arXiv:2106.09685). `dora`: with learned magnitudes (Liu et al. 2024,
    arXiv:2402.09353). `qlora`: LoRA over 4-bit weights, on a GPU (Dettmers et al. 2023, arXiv:2305.14314)."""
    implementation: Literal["auto", "fused", "transformers"] = "auto"
    """`fused`: our own Llama-shaped layers, for one CPU process. `transformers`: any causal language model, on a CPU or
    GPUs. `auto`: fused wherever it can."""
    lora_r: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the adapter's matrices (Hu et al. 2021, arXiv:2106.09685)."""
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    """The adapter is scaled by lora_alpha / lora_r."""
    lora_dropout: Share = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers that get an adapter."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of weights and activations while training. The optimizer's own copies are float32."""
    max_length: Annotated[int, Field(ge=16, le=1_048_576)] = 256
    """Tokens in one packed row. Longer running text is continued in another row; longer conversations are dropped
    and counted."""
    per_device_train_batch_size: Annotated[int, Field(ge=1)] = 4
    """Packed rows in one forward pass."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Forward passes in one optimizer step."""
    gradient_checkpointing: bool = False
    """Layers are computed again in the backward pass instead of keeping what they saw: less memory, a third slower."""
    max_steps: Annotated[int, Field(ge=1)] = 100
    """Optimizer steps. When the text ends sooner, it is read again in another order."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    """Peak learning rate."""
    lr_scheduler_type: Literal["cosine", "warmup_stable_decay", "constant_with_warmup"] = "cosine"
    """After the warm-up: half a cosine down to `min_learning_rate_share` of the peak; the peak, and a straight fall in
    the last `decay_steps`; or the peak until the end."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    decay_steps: Annotated[int, Field(ge=1)] | None = None
    """Of warmup_stable_decay; null takes a fifth of max_steps."""
    min_learning_rate_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    save_steps: Annotated[int, Field(ge=1)] = 20
    """A checkpoint every so many steps."""
    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept: at least two, so that a broken one is never the only one."""
    eval_steps: Annotated[int, Field(ge=1)] = 50
    """Validation loss every so many steps, and at the end."""
    eval_documents: Annotated[int, Field(ge=0)] = 16
    """Packed rows of the validation split to measure it on."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Ends the run after so many validations without a better loss; null goes on to the last step."""
    load_best_model_at_end: bool = False
    """The result is the step with the best validation loss, not the last one."""
    guard: GuardRecipe = GuardRecipe()
    dpo: DpoRecipe = DpoRecipe()
    distributed: DistributedRecipe = DistributedRecipe()
    launcher: Literal["local", "container-rehearsal", "sagemaker"] = "local"
    """Who starts the training process: this one; a stand-in for SageMaker's agent, on this machine; SageMaker."""
    sagemaker: SageMakerRecipe = SageMakerRecipe()
    tracking: TrackingRecipe = TrackingRecipe()

    @model_validator(mode="after")
    def _choices_agree(self) -> TrainRecipe:
        distributed = self.distributed
        if distributed.strategy == "deepspeed" and distributed.offload_param and distributed.zero_stage != 3:
            raise ValueError(
                f"distributed.offload_param does nothing with zero_stage {distributed.zero_stage}: set zero_stage 3"
            )
        if distributed.strategy == "none" and distributed.num_processes * distributed.num_machines > 1:
            raise ValueError("distributed.num_processes is more than 1: name a distributed.strategy")
        if distributed.strategy != "none" and self.implementation == "fused":
            raise ValueError("the fused implementation runs in one process: set implementation transformers")
        return self
