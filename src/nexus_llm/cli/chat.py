"""`nexus chat`: a conversation in the terminal, with a server or with a run that it serves meanwhile."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_llm.cli.console import print_json
from nexus_llm.cli.options import AsJson, Root
from nexus_llm.cli.serve import find_model, require_serving, upstream_key

if TYPE_CHECKING:
    import httpx

    from nexus_llm.records import Message

READ_SECONDS = 600.0  # a long prompt on a slow machine stays silent before its first token


def chat(
    target: Annotated[
        str, typer.Argument(help="A run, a model, or a server's address.", metavar="[RUN|MODEL|URL]")
    ] = "http://127.0.0.1:8000",
    prompt: Annotated[str | None, typer.Option(help="Ask this once and print the answer, for scripts.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    model: Annotated[str | None, typer.Option(help="Which of the server's models [default: its first].")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    as_json: AsJson = False,
    root: Root = Path(),
) -> int:
    """Talk to a model. Ctrl-C stops an answer, Ctrl-D ends. A server's key comes from $OPENAI_API_KEY."""
    import httpx

    asked = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    options = {name: value for name, value in asked.items() if value is not None}
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    key = os.environ.get("OPENAI_API_KEY") if is_address(target) else None
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(READ_SECONDS, connect=5)
    with server_for(target, root) as url, httpx.Client(timeout=timeout, headers=headers) as client:
        from nexus_llm.serve.client import first_model

        name = model or first_model(client, url)
        if prompt is not None:
            messages.append({"role": "user", "content": prompt})
            return _answer_once(client, url, name, messages, options, as_json=as_json)
        _converse(client, url, name, messages, options)
    return 0


def is_address(target: str) -> bool:
    """Whether a server is meant, not a run or a model."""
    return target.startswith(("http://", "https://"))


@contextlib.contextmanager
def server_for(target: str, root: Path, *, overrides: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a server: the given one, or one that lives as long as the block."""
    if is_address(target):
        yield target
        return
    require_serving()
    found = find_model(target, root=root, overrides=overrides)
    from nexus_llm.recipe import KeysRecipe, SamplesRecipe, TelemetryRecipe
    from nexus_llm.serve.background import background_server
    from nexus_llm.serve.engines.commands import require_engine
    from nexus_llm.serve.logs import log_to_stderr
    from nexus_llm.serve.server import prepare

    require_engine(found.recipe)
    log_to_stderr("error")
    print(f"loading {found.folder} …", file=sys.stderr, flush=True)
    key = upstream_key(found.recipe)
    served, command, upstream = prepare(found.folder, name=found.name, recipe=found.recipe, upstream_key=key)
    # Only we can reach it, and a conversation with oneself is nothing to measure or to keep.
    own = {"keys": KeysRecipe(), "telemetry": TelemetryRecipe(), "samples": SamplesRecipe()}
    recipe = found.recipe.model_copy(update=own)
    with background_server(served, command, recipe=recipe, upstream=upstream) as running:
        yield running.url


def _answer_once(
    client: httpx.Client, url: str, model: str, messages: list[Message], options: dict[str, Any], *, as_json: bool
) -> int:
    from nexus_llm.serve.client import stream_chat

    text, reason, tokens = "", None, None
    for event in stream_chat(client, url, model=model, messages=messages, options=options):
        text += event.text
        reason = event.finish_reason or reason
        tokens = event.completion_tokens or tokens
        if not as_json:
            print(event.text, end="", flush=True)
    if as_json:
        print_json({"model": model, "answer": text, "finish_reason": reason, "completion_tokens": tokens})
    else:
        print(flush=True)
    return 0


def _converse(client: httpx.Client, url: str, model: str, messages: list[Message], options: dict[str, Any]) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and line editing
    print(f"{model} at {url}. Ctrl-C stops an answer, Ctrl-D ends, /new starts over.", file=sys.stderr)
    opening = list(messages)
    while (line := _read_line()) is not None:
        if line.strip() == "/new":
            messages[:] = opening
        elif line.strip():
            messages.append({"role": "user", "content": line})
            answer = _print_answer(client, url, model, messages, options)
            messages.append({"role": "assistant", "content": answer})


def _read_line() -> str | None:
    """What the user types next; None at the end, and for Ctrl-C at an empty prompt."""
    try:
        return input("\n» " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return None


def _print_answer(client: httpx.Client, url: str, model: str, messages: list[Message], options: dict[str, Any]) -> str:
    """Prints an answer as it comes and returns it; Ctrl-C keeps what there is."""
    from nexus_llm.serve.client import stream_chat

    started, first_at, answer, tokens = time.monotonic(), 0.0, "", 0
    events = stream_chat(client, url, model=model, messages=messages, options=options)
    try:
        for event in events:
            if event.text and not first_at:
                first_at = time.monotonic()
            answer += event.text
            tokens = event.completion_tokens or tokens
            print(event.text, end="", flush=True)
    except KeyboardInterrupt:
        events.close()
        print(" … stopped", end="")
    print(flush=True)
    if tokens > 1:
        rate = (tokens - 1) / max(time.monotonic() - first_at, 1e-9)
        print(f"first token after {first_at - started:.2f} s, {rate:.0f} tokens/s", file=sys.stderr)
    return answer
