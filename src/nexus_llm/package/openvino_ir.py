"""OpenVINO's own files (IR) of a packaged model: f16, or int8 in blocks of 32 weights.

OpenVINO GenAI builds the graph itself when it reads a GGUF file, with the cache inside and the tokenizer beside it, and
writes it down when asked; no torch and no exporter takes part. What it reads wrongly is put right here: it rounds the
rotary frequencies and ignores their scaling (version 2026.4.1), so the exact ones are written into the graph.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nexus_llm import gguf_format
from nexus_llm.errors import MissingExtraError, PackagingError

GRAPH = "openvino_model.xml"


def write_ir(gguf: Path, model: Path, folder: Path, work: Path) -> None:
    """Writes graph, weights and tokenizer of the GGUF file into `folder`; `model` holds config.json.

    The same file gives the same bytes.

    Raises:
        MissingExtraError: OpenVINO GenAI is not installed.
        PackagingError: the graph is not the one that is known, or the scaling of the model's rope is not.
    """
    try:
        import openvino
        import openvino_genai
    except ImportError as error:
        raise MissingExtraError.for_extra("serve", error.name or "openvino_genai") from error
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    work.mkdir(parents=True, exist_ok=True)
    link = work / "model.gguf"  # the graph is written beside the file that is read
    link.unlink(missing_ok=True)
    link.symlink_to(gguf.resolve())
    openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
    folder.mkdir(exist_ok=True)
    for graph in sorted(work.glob("openvino_*.xml")):
        read = openvino.Core().read_model(graph)
        if graph.name == GRAPH:
            _set_rope(read, config)
        _name_by_place(read)
        openvino.save_model(read, folder / graph.name, compress_to_fp16=False)


def _set_rope(graph: Any, config: dict[str, Any]) -> None:
    """Puts the model's exact rotary frequencies, scaled where it wants that, in the place of the rounded ones."""
    import openvino

    half = gguf_format.head_dim(config) // 2
    plain = gguf_format.rope_theta(config) ** (-np.arange(half) / half)
    found = [
        node
        for node in graph.get_ops()
        if node.get_type_name() == "Constant"
        and sorted(node.get_output_shape(0))[-1:] == [half]
        and int(np.prod(list(node.get_output_shape(0)))) == half
        and np.allclose(np.asarray(node.data, dtype=np.float64).ravel(), plain, rtol=2e-3, atol=1e-7)
    ]
    if len(found) != 1:
        raise PackagingError(
            f"the graph that OpenVINO GenAI makes has {len(found)} places with rotary frequencies, not one",
            fix="install the pinned version of openvino-genai, or ship GGUF: --set package.formats=[gguf-q8_0]",
        )
    (old,) = found
    exact = gguf_format.rope_frequencies(config).reshape(list(old.get_output_shape(0)))
    new = openvino.opset13.constant(exact, dtype=np.float32)
    for user in list(old.output(0).get_target_inputs()):
        consumer = user.get_node()
        if consumer.get_type_name() == "Convert":  # from float16
            for target in list(consumer.output(0).get_target_inputs()):
                target.replace_source_output(new.output(0))
        else:
            user.replace_source_output(new.output(0))


def _name_by_place(graph: Any) -> None:
    """Names every step by its place in the graph: OpenVINO counts its nodes through the life of the process."""
    graph.set_friendly_name("model")
    for place, node in enumerate(graph.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{place}")
