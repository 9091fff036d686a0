"""Items of benchmarks that stand in the training text are found."""

from __future__ import annotations

from pathlib import Path

from data_artifacts import write_artifact, write_files
from nexus_llm.chat import ChatTokenizer
from nexus_llm.pipeline.contamination import overlaps
from nexus_llm.ports import SilentProgress
from tiny_model import write_tiny_model


def test_an_item_that_the_run_was_trained_on_is_found_and_one_of_its_test_text_is_not(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(write_tiny_model(tmp_path / "model"))
    data = write_artifact(tmp_path, "data", {}, files=lambda folder: write_files(folder, tokenizer))
    texts = {
        "planted": {
            "0": ["Which animal?", "the QUICK, brown fox jumps over 13 lazy dogs!"],
            "1": ["Nobody has ever written this sentence into that text before now."],
            "2": ["too short"],
        },
        "short": {"0": ["nothing to look for"]},
    }
    found = overlaps(data.folder, texts, SilentProgress())
    planted = found["planted"]
    assert (planted.items, planted.checked, planted.overlapping, planted.share) == (3, 2, ("0",), 0.5)
    assert found["short"].share is None
