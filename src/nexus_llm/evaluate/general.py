"""General text, to see what tuning costs elsewhere: passages that ship with the package, or a user's own files."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from nexus_llm.errors import DataError

_SHIPPED = "general_text.jsonl"
_ENDINGS = (".jsonl", ".txt", ".md")


def general_files(path: str | None) -> list[Path]:
    """The files that hold the text, sorted: what ships with the package where `path` is None.

    Raises:
        DataError: there is nothing readable at `path`.
    """
    if path is None:
        return [Path(str(resources.files("nexus_llm.evaluate") / _SHIPPED))]
    place = Path(path).expanduser()
    files = [place] if place.is_file() else sorted(one for one in place.rglob("*") if one.is_file())
    usable = [one for one in files if one.suffix in _ENDINGS]
    if not usable:
        raise DataError(
            f"evaluate.general_path: {path} " + ("does not exist" if not place.exists() else "has no file to read"),
            fix=f"name a file or folder with {', '.join(_ENDINGS)}, or null for the passages that ship with nexus",
        )
    return usable


def read_general(files: list[Path]) -> list[tuple[str, str]]:
    """(name, text) of every passage: a line of jsonl with `text`, or a whole txt or md file. Empty ones are left out.

    Raises:
        DataError: a file is no UTF-8, or a line has no text.
    """
    passages: list[tuple[str, str]] = []
    for file in files:
        try:
            content = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8 ({error})", fix="save it as UTF-8") from error
        passages += _lines(file, content) if file.suffix == ".jsonl" else [(file.name, content)]
    return [(name, text) for name, text in passages if text.strip()]


def _lines(file: Path, content: str) -> list[tuple[str, str]]:
    passages = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            passages.append((str(row.get("id") or f"{file.name}:{number}"), str(row["text"])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{file}:{number} is no JSON object with a "text"', fix="mend or remove that line"
            ) from error
    return passages
