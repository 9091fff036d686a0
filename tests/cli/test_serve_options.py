"""What `nexus serve` is told on the command line reaches the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nexus_llm.cli import main
from nexus_llm.cli import serve as serve_module
from nexus_llm.recipe import ServeRecipe
from nexus_llm.serve import server


def test_the_port_for_sagemaker_and_the_database_are_both_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}
    found = serve_module.FoundModel(tmp_path, "model", ServeRecipe())
    monkeypatch.setattr(serve_module, "find_model", lambda *_args, **_options: found)
    monkeypatch.setattr(server, "run_server", lambda _folder, **options: asked.update(options))
    monkeypatch.setattr("sys.argv", ["nexus", "serve", "model", "--sagemaker-port", "9999", "--database", "keys.db"])
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, None)  # noqa: PT017
    recipe = asked["recipe"]
    assert (recipe.sagemaker, recipe.sagemaker_port, recipe.keys.database) == (True, 9999, "keys.db")


def test_a_container_that_is_started_as_serve_and_nothing_else_is_told_by_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nexus_llm.cloud.sagemaker_transform import CONTAINER

    asked: dict[str, Any] = {}

    def find(target: str, **_: Any) -> serve_module.FoundModel:
        asked["target"] = target
        return serve_module.FoundModel(tmp_path, "model", ServeRecipe())

    monkeypatch.setattr(serve_module, "find_model", find)
    monkeypatch.setattr(server, "run_server", lambda _folder, **options: asked.update(options))
    monkeypatch.setattr("sys.argv", ["nexus", "serve"])
    for name, value in CONTAINER.items():
        monkeypatch.setenv(name, value)
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, None)  # noqa: PT017
    recipe = asked["recipe"]
    assert (asked["target"], asked["host"], recipe.sagemaker_port) == ("/opt/ml/model", "0.0.0.0", 8080)
    assert recipe.sagemaker
