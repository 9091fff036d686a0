"""What the commands share that ask a model: which one, where the results go, and how they are told."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.chat import is_address, server_for
from nexus_llm.cli.console import print_json
from nexus_llm.cli.serve import find_model

if TYPE_CHECKING:
    from nexus_llm.evaluate.over_http import HttpLimits
    from nexus_llm.evaluate.summary import Score, Summary
    from nexus_llm.ports import Completer
    from nexus_llm.records import CompleterFacts

IN_PROCESS = "transformers"
MODEL_HELP = "A run, a model folder, a base model's name, or http(s)://… of an OpenAI-compatible server."
Served = Annotated[
    str | None, typer.Option("--served", help="Which of the server's models [default: its first].", metavar="NAME")
]
Precision = Annotated[str, typer.Option("--precision", help="float32 or bfloat16, for a model in this process.")]
Engine = Annotated[
    str, typer.Option("--engine", help="transformers in this process, or a server of ours: openvino, llama.cpp, vllm.")
]
KeyVariable = Annotated[str, typer.Option("--key-variable", help="Environment variable with a server's key.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of results: DIR/MODEL/TASK.", metavar="DIR")]
Seed = Annotated[int, typer.Option("--seed", help="Of what is drawn.")]
UsdPerHour = Annotated[
    float | None, typer.Option("--usd-per-hour", min=0, help="What the model's machine costs: adds USD per 1M tokens.")
]


@contextlib.contextmanager
def opened(
    model: str,
    *,
    served: str | None,
    precision: str,
    root: Path,
    engine: str = IN_PROCESS,
    key_variable: str = "OPENAI_API_KEY",
    limits: HttpLimits | None = None,
) -> Iterator[Completer]:
    """The model that a user means, ready to be asked; `key_variable` names the variable whose key a server is sent.

    Raises:
        EvaluationError, UsageError: no server answers there, or see `http_completer`.
        ArtifactError, ModelError, MissingExtraError: there is no such model here, or it cannot be loaded.
    """
    from nexus_llm.evaluate.over_http import HttpLimits, http_completer

    limits = limits or HttpLimits()
    if is_address(model):
        with http_completer(model, model=served, key=os.environ.get(key_variable), limits=limits) as completer:
            yield completer
        return
    folder, name = local_folder(model, root, engine)
    if engine == IN_PROCESS:
        from nexus_llm.evaluate.in_process import InProcessCompleter

        weights = weights_sha256(folder)
        yield InProcessCompleter.load(folder, precision=checked(precision), name=name, weights_sha256=weights)
        return
    with server_for(model, root, overrides=(f"serve.engine={engine}",)) as url:
        wide = replace(limits, timeout_seconds=max(limits.timeout_seconds, 600.0))
        with http_completer(url, limits=wide, weights_sha256=weights_sha256(folder)) as completer:
            yield completer


def local_folder(model: str, root: Path, engine: str = IN_PROCESS) -> tuple[Path, str]:
    """The Hugging Face folder of a run, a folder or a base model, and its name.

    Raises:
        ArtifactError, ModelError: there is none.
    """
    found = find_model(model, root=root, overrides=(f"serve.engine={engine}",))
    return found.folder, found.name


def weights_sha256(folder: Path) -> str:
    """What tells a model from an earlier one of the same name."""
    from nexus_llm.artifacts import MANIFEST, file_sha256

    manifest = folder / MANIFEST
    files = [manifest] if manifest.exists() else sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


def checked(precision: str) -> Any:
    """The precision, if it is one.

    Raises:
        UsageError: it is not.
    """
    if precision not in ("float32", "bfloat16"):
        from nexus_llm.errors import UsageError

        raise UsageError(f"--precision {precision} is not known", fix="float32 or bfloat16")
    return precision


def folder_of(out: Path, facts: CompleterFacts) -> Path:
    """Where the results of one model go."""
    return out / (re.sub(r"[^\w.-]+", "-", facts.model).strip("-.") or "model")


def tell(summaries: Sequence[Summary], facts: CompleterFacts, folder: Path, *, as_json: bool, **more: Any) -> int:
    """Prints the results, a line a task or one document; the command's exit code."""
    if as_json:
        document = {"model": facts.model, "out": str(folder), "results": [asdict(one) for one in summaries], **more}
        print_json(without_nan(document))
        return 0
    for one in summaries:
        print(f"{one.task}: {one.metric} {_number(one.scores.get(one.metric))}, {_counts(one)}")
        for name, score in one.scores.items():
            if name != one.metric:
                print(f"  {name} {_number(score)}")
        if one.speed is not None and one.speed.tokens_per_second is not None:
            print(f"  {_speed(one)}")
    print(f"items and answers: {folder}")
    return 0


def without_nan(value: Any) -> Any:
    """JSON values with null where a number is not one: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(one) for key, one in value.items()}
    return [without_nan(one) for one in value] if isinstance(value, list | tuple) else value


def _number(score: Score | None) -> str:
    if score is None or math.isnan(score.value):
        return "not known"
    spread = "" if score.standard_error is None else f" ± {score.standard_error:.2g} (standard error)"
    return f"{score.value:.4g}{spread}"


def _counts(one: Summary) -> str:
    parts = [f"{one.items - one.errors} of {one.items} items scored"]
    parts += [f"{one.errors} without an answer ({one.most_frequent_error})"] if one.errors else []
    parts += [f"{one.cut_answers} answers cut at max_new_tokens"] if one.cut_answers else []
    parts += [f"{one.cut_items} items cut to the context"] if one.cut_items else []
    return ", ".join(parts)


def _speed(one: Summary) -> str:
    assert one.speed is not None
    parts = [f"{one.speed.tokens_per_second:.1f} tokens/s as one who asks sees it"]
    parts += [f"{one.speed.machine_tokens_per_second:.0f} of all side by side"]
    if one.speed.first_token_seconds is not None:
        parts.append(f"first token after {one.speed.first_token_seconds:.2f} s")
    if one.speed.usd_per_million_tokens is not None:
        parts.append(f"{one.speed.usd_per_million_tokens:,.2f} USD per 1M tokens")
    return ", ".join(parts)
