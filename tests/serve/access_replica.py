"""A gateway in a process of its own with the fake engine, for tests of several that share a database.

Usage: python access_replica.py DATABASE FOLDER ENGINE_SETTINGS. Prints its address; stops when stdin is closed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nexus_llm.recipe import KeysRecipe, ServeRecipe
from nexus_llm.serve.background import background_server
from nexus_llm.serve.engines.process import EngineCommand
from nexus_llm.serve.model_folder import SamplingDefaults, ServedModel


def main(database: str, tokenizer: str, settings: str) -> None:
    from nexus_llm.chat import ChatTokenizer

    given = json.loads(Path(tokenizer).read_text(encoding="utf-8"))
    model = ServedModel(
        name="echo",
        weights=Path("none"),
        tokenizer=ChatTokenizer(given["json"], template=given["template"], config={"eos_token": "<|im_end|>"}),
        context_tokens=2_000,
        stop_token_ids=(2,),
        sampling=SamplingDefaults(temperature=0.0),
        fingerprint="0123456789abcdef",
    )
    recipe = ServeRecipe(
        keys=KeysRecipe(database=database, usd_per_million_prompt_tokens=1000, usd_per_million_completion_tokens=1000)
    )
    with background_server(model, EngineCommand("fake", json.loads(settings)), recipe=recipe) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
