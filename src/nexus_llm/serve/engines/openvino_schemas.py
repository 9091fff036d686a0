"""Tries JSON Schemas before the engine sees them.

OpenVINO GenAI 2026.4.1 takes a schema that its grammar cannot compile, fails in the step that first needs it, and then
in every later one; cancelling the request does not help. So each new schema is tried on a model that says nothing: a
graph of a dozen nodes with the real tokenizer, which takes no memory, milliseconds a try, and no harm from a failure.

A string with a bound takes the grammar longer, up to 1.5 s for each other length (2 cores, 49,152 tokens): so schemas
are tried in a thread beside the pipeline's steps, which finds them compiled: grammars belong to the tokenizer. They are
never freed, 3 to 4 MB for each other length.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino
    import openvino_genai

MAX_REMEMBERED = 1_024  # schemas that are known to be good
NICE = 15  # 36 of 1,024: sched(7), read 2026-11


class UncompilableSchemaError(ValueError):
    """The engine's grammar cannot be made from a schema."""


class SchemaTrial:
    """Says which schemas compile, one after the other, in a thread of its own."""

    def __init__(self, tokenizer: openvino_genai.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pipeline: openvino_genai.LLMPipeline | None = None
        self._good: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="schemas", initializer=_step_back)

    def start(self, schema: str) -> Future[None] | None:
        """Begins to try a schema, as JSON; None: it is known to be good. The future raises UncompilableSchemaError."""
        return None if schema in self._good else self._thread.submit(self._try, schema)

    def _try(self, schema: str) -> None:
        import numpy as np
        import openvino
        import openvino_genai

        if schema in self._good:  # by now
            return
        self._pipeline = self._pipeline or _silent_pipeline(self._tokenizer)
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.ignore_eos = True
        config.structured_output_config = openvino_genai.StructuredOutputConfig(json_schema=schema)
        try:
            self._pipeline.generate(openvino.Tensor(np.array([[1]], dtype=np.int64)), config)
        except RuntimeError as error:
            raise UncompilableSchemaError("the grammar of OpenVINO GenAI cannot compile this schema") from error
        if len(self._good) >= MAX_REMEMBERED:
            self._good.clear()
        self._good.add(schema)


def _step_back() -> None:
    """Lets the pipeline's threads go first. The grammar starts eight threads, which inherit that: on two cores, one
    stream's step took 52 ms beside them, with it 10, alone 7.4 (2026-11-23)."""
    if sys.platform == "linux":  # elsewhere a priority is a process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _silent_pipeline(tokenizer: openvino_genai.Tokenizer) -> openvino_genai.LLMPipeline:
    """A pipeline around a model that finds every token equally likely."""
    import numpy as np
    import openvino
    import openvino_genai

    model = _silent_model(max(tokenizer.get_vocab().values()) + 1)
    xml, weights = _as_texts(model)
    tensor = openvino.Tensor(np.frombuffer(weights, dtype=np.uint8).copy())
    config = openvino_genai.GenerationConfig()
    # SDPA: the other backend looks for attention layers to page, and there are none.
    return openvino_genai.LLMPipeline(xml, tensor, tokenizer, "CPU", config, ATTENTION_BACKEND="SDPA")


def _silent_model(vocabulary_size: int) -> openvino.Model:
    """Inputs and outputs of a language model, with a state that grows by one number a token, as a cache does."""
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    def numbers(*values: int) -> Any:
        return ops.constant(np.array(values, dtype=np.int64))

    def named(shape: list[int], kind: Any, name: str) -> Any:
        parameter = ops.parameter(shape, dtype=kind, name=name)
        parameter.output(0).get_tensor().set_names({name})
        return parameter

    state = "past_key_values.0.keypresent.0.key"
    token_ids, mask = named([-1, -1], np.int64, "input_ids"), named([-1, -1], np.int64, "attention_mask")
    beams = named([-1], np.int32, "beam_idx")
    batch = ops.gather(ops.shape_of(token_ids), numbers(0), ops.constant(0))
    length = ops.gather(ops.shape_of(token_ids), numbers(1), ops.constant(0))
    # "length - length" is 0, but is not known to be: with a plain 0 the state could never grow.
    empty = ops.concat([batch, numbers(1), ops.subtract(length, length), numbers(1)], 0)
    nothing = ops.broadcast(ops.constant(np.float32(0)), empty)
    past = ops.read_value(nothing, state, openvino.Type.f32, openvino.PartialShape([-1, 1, -1, 1]))
    new = ops.reshape(ops.convert(token_ids, "f32"), ops.concat([batch, numbers(1), length, numbers(1)], 0), False)
    grown = ops.concat([ops.gather(past, beams, ops.constant(0)), new], 2)
    # All inputs have to matter, or they are cut away: each is summed, times 0.
    silence = ops.add(
        ops.reduce_sum(ops.multiply(grown, ops.constant(np.float32(0))), numbers(0, 1, 2, 3), False),
        ops.multiply(ops.convert(ops.reduce_sum(mask, numbers(0, 1), False), "f32"), ops.constant(np.float32(0))),
    )
    logits = ops.broadcast(silence, ops.concat([batch, length, numbers(vocabulary_size)], 0))
    logits.output(0).get_tensor().set_names({"logits"})
    return openvino.Model([ops.result(logits)], [ops.assign(grown, state)], [token_ids, mask, beams], "silent")


def _as_texts(model: openvino.Model) -> tuple[str, bytes]:
    """The model as OpenVINO's XML and its weights."""
    import tempfile
    from pathlib import Path

    import openvino

    with tempfile.TemporaryDirectory(prefix="nexus-silent-") as folder:
        path = Path(folder) / "silent.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_text(encoding="utf-8"), path.with_suffix(".bin").read_bytes()
