"""How `vllm serve` is started, how an engine request reads in its HTTP API, and how its answers read as deltas; pure.

Token ids in through `/v1/completions` with `prompt: [ids]`, out through `return_token_ids`; tokens in log
probabilities as `token_id:N` through `return_tokens_as_token_ids`.

Checked against the source of vLLM 0.33.0 (its wheel on PyPI, `engine/arg_utils.py` and
`entrypoints/openai/completion`, 2026-11-22), and against vLLM 0.32.0 itself, on a CPU (`make proof-vllm`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from nexus_llm.serve.engines.port import EngineDelta, EngineFinish, EngineRequest

EVENT = b"data: "
DONE = b"[DONE]"
_TOKEN_MARK = "token_id:"  # noqa: S105 - no secret
_FINISHES: dict[str, EngineFinish] = {"stop": "stop", "length": "length", "abort": "capacity"}
_METRICS = ("vllm:cache_config_info{", "vllm:kv_cache_usage_perc{")
_SIZE_LABEL = "kv_cache_size_tokens"


REFUSALS = (400, 404, 422)
"""Status codes by which vLLM says that a request is wrong. With a stream, most come as an event in a 200."""


class VllmAnswerError(Exception):
    """vLLM answered with an error, or with something that is no answer."""


def vllm_arguments(
    model: str,
    *,
    port: int,
    served_name: str,
    max_running: int,
    context_tokens: int | None = None,
    gpu_memory_share: float = 0.9,
    gpus: int = 1,
    adapters: Mapping[str, str] | None = None,
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
        *("serve", model, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", served_name),
        *("--max-num-seqs", str(max_running), "--gpu-memory-utilization", f"{gpu_memory_share:g}"),
        *("--tensor-parallel-size", str(gpus), "--dtype", "auto"),
        *("--max-logprobs", "20", "--logprobs-mode", "raw_logprobs"),
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
        arguments += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", "64"]
        arguments += ["--lora-modules", *(f"{name}={path}" for name, path in sorted(adapters.items()))]
    return [*arguments, *more]


def completion_body(request: EngineRequest, *, served_name: str) -> dict[str, Any]:
    """The request as a body of vLLM's `/v1/completions`, with token ids in and out."""
    body: dict[str, Any] = {
        "model": request.adapter or served_name,
        "prompt": request.token_ids,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "stop_token_ids": list(request.stop_token_ids),
        # The stop tokens above say all about ends, but those of a schema's document: the grammar ends it with the
        # tokenizer's own end token, which need not be among them.
        "ignore_eos": request.json_schema is None,
        "stream": not request.prompt_logprobs,  # vLLM tells the prompt's log probabilities in whole answers only
        "return_token_ids": True,
        "skip_special_tokens": False,
    }
    if request.logprobs or request.top_logprobs:
        body |= {"logprobs": request.top_logprobs, "return_tokens_as_token_ids": True}
    if request.prompt_logprobs:
        body["prompt_logprobs"] = request.top_logprobs
    if request.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    if request.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def read_event(line: bytes, request: EngineRequest) -> EngineDelta | None:
    """The delta in one line of the stream; None for a line that carries none."""
    if not line.startswith(EVENT) or line[len(EVENT) :].strip() == DONE:
        return None
    return read_answer(line[len(EVENT) :], request)


def read_answer(text: bytes, request: EngineRequest) -> EngineDelta | None:
    """The delta in one JSON document, a chunk or a whole answer; None for one without a choice (usage).

    Raises:
        VllmAnswerError: it tells of an error, or is not as vLLM words it.
    """
    try:
        document = json.loads(text)
        if "error" in document:
            if document["error"]["code"] in REFUSALS:
                return EngineDelta(request.id, [], [], "refused")
            raise VllmAnswerError("vLLM answers with an error")
        if not document["choices"]:
            return None
        return _delta(document["choices"][0], request)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise VllmAnswerError(f"vLLM's answer cannot be read ({type(error).__name__})") from error


def _delta(choice: dict[str, Any], request: EngineRequest) -> EngineDelta:
    token_ids = [int(token) for token in choice.get("token_ids") or []]
    reason = choice.get("finish_reason")
    told = choice.get("logprobs") or {}
    logprobs = [float(value) for value in told.get("token_logprobs") or []]
    if request.logprobs and len(logprobs) != len(token_ids):
        raise ValueError("not one log probability a token")
    tops = told.get("top_logprobs") or []
    places = choice["prompt_logprobs"][1:] if request.prompt_logprobs else []
    return EngineDelta(
        request.id,
        token_ids,
        logprobs if request.logprobs else [],
        None if reason is None else _FINISHES[reason],
        [_ranked(top, request.top_logprobs) for top in tops] if request.top_logprobs else [],
        [place[str(token)]["logprob"] for place, token in zip(places, request.token_ids[1:], strict=bool(places))],
        [_ranked({name: one["logprob"] for name, one in place.items()}, request.top_logprobs) for place in places]
        if request.top_logprobs
        else [],
    )


def _ranked(top: dict[str, float], count: int) -> list[tuple[int, float]]:
    """vLLM adds the chosen token where it is not among the likeliest: that one is cut off again."""
    values = [(int(name.removeprefix(_TOKEN_MARK)), float(value)) for name, value in top.items()]
    return sorted(values, key=lambda pair: (-pair[1], pair[0]))[:count]


@dataclass(frozen=True, slots=True)
class VllmMetrics:
    capacity_tokens: int = 0
    cache_share: float = 0.0


_LOG_HEAD = re.compile(r"(?:\(.*?\) )?(?P<level>WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ (?P<place>\[[\w./:-]+\])")
_ERROR_TYPE = re.compile(r" (?P<type>(?:\w+\.)*\w+(?:Error|Exception)): ")


def log_summary(line: str) -> str | None:
    """What of a line of vLLM's log may be passed on while it serves: level, place and an error's type.

    Its messages quote requests. None: a line without a level, or below a warning.

    >>> log_summary("(APIServer pid=9) ERROR 11-23 12:14:22 [serving.py:500] vllm.GrammarError: Invalid type: secret")
    'ERROR [serving.py:500] vllm.GrammarError'
    """
    head = _LOG_HEAD.match(line)
    if head is None:
        return None
    error = _ERROR_TYPE.match(line, head.end())  # further on would be the message's own words
    return " ".join([head["level"], head["place"], *([error["type"]] if error else [])])


def read_metrics(page: str) -> VllmMetrics:
    """The cache's size and fill from Prometheus text; zeros where it says nothing.

    >>> read_metrics('vllm:cache_config_info{kv_cache_size_tokens="160"} 1.0').capacity_tokens
    160
    """
    capacity, share = 0, 0.0
    # Of some 1,000 lines, which the parser is slow with: this happens once a second, beside the tokens.
    wanted = "\n".join(line for line in page.splitlines() if line.startswith(_METRICS))
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            if sample.name == "vllm:cache_config_info" and sample.labels.get(_SIZE_LABEL, "").isdigit():
                capacity = int(sample.labels[_SIZE_LABEL])
            elif sample.name == "vllm:kv_cache_usage_perc":
                share = sample.value
    return VllmMetrics(capacity, share)
