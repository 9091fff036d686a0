"""The list of what the server emits is what a real server emits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nexus_llm.observe
from nexus_llm.serve.model_folder import ServedModel
from observed_server import everything_told

EMITTED = Path(nexus_llm.observe.__file__).parent / "emitted.json"


def test_the_list_is_what_real_servers_told(echo_model: ServedModel, tmp_path: Path) -> None:
    told = everything_told(echo_model, tmp_path)
    if os.environ.get("NEXUS_WRITE_GOLDEN"):
        EMITTED.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    assert "request.failed" not in told["log"], "a client that leaves in the middle of its body is no fault of ours"
    listed = json.loads(EMITTED.read_text(encoding="utf-8"))
    assert told == listed, "make it again: NEXUS_WRITE_GOLDEN=1 pytest " + __file__
