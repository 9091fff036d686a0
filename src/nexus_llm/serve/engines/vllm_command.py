"""The command line of `vllm serve`, as one pure function: the supervised child and the container use the same flags.

Checked against the source of vLLM 0.33.0 (its wheel on PyPI, `engine/arg_utils.py`, 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping


def vllm_arguments(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int,
    served_name: str,
    max_running: int,
    context_tokens: int | None = None,
    gpu_memory_share: float = 0.9,
    gpus: int = 1,
    max_logprobs: int = 20,
    adapters: Mapping[str, str] | None = None,
    max_adapter_rank: int = 64,
    dtype: str = "auto",
    quantization: str | None = None,
    more: tuple[str, ...] = (),
) -> list[str]:
    """What follows the word `vllm`.

    The model's files only, never a hub; raw log probabilities, because the port tells those before temperature and
    penalties; no log of requests, because prompts are nobody's business.

    >>> vllm_arguments("/model", port=8001, served_name="m", max_running=64)[:4]
    ['serve', '/model', '--host', '127.0.0.1']
    """
    arguments = [
        *("serve", model, "--host", host, "--port", str(port), "--served-model-name", served_name),
        *("--max-num-seqs", str(max_running), "--gpu-memory-utilization", f"{gpu_memory_share:g}"),
        *("--tensor-parallel-size", str(gpus), "--dtype", dtype),
        *("--max-logprobs", str(max_logprobs), "--logprobs-mode", "raw_logprobs"),
        # The gateway names every setting: the model's own generation_config must not fill any in behind its back.
        *("--generation-config", "vllm"),
        "--enable-prefix-caching",
        "--disable-uvicorn-access-log",
    ]
    if context_tokens is not None:
        arguments += ["--max-model-len", str(context_tokens)]
    if quantization is not None:
        arguments += ["--quantization", quantization]
    if adapters:
        arguments += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(max_adapter_rank)]
        arguments += ["--lora-modules", *(f"{name}={path}" for name, path in sorted(adapters.items()))]
    return [*arguments, *more]
