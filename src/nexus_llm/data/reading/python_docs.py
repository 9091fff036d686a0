"""The Python language reference and the standard library's docstrings as documents, from files alone.

Nothing is imported: a standard module may open a window (`turtle`), a browser (`antigravity`) or print (`this`) when
it is. Source text is parsed instead, which takes about two seconds for the 350 public modules of CPython 3.11.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from nexus_llm.data.rows import document_id
from nexus_llm.records import Document

# Tests, tools and tables rather than a library that people read about.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages", "encodings", "pydoc_data"}
    | {"ensurepip", "distutils"}
)
_TOPICS = Path("pydoc_data", "topics.py")
# About a page of print: long enough to have context, short enough that many fit into a held-out split.
_DOCUMENT_CHARACTERS = 2_500
# A class with less to say than this is told about together with its module.
_CLASS_CHARACTERS = 600
# A section of the reference shorter than this joins the one before it.
_SECTION_CHARACTERS = 400
_SECTION_MAX_CHARACTERS = 4_000

_HEADING = re.compile(r"^(?=\S.*\n(\*{3,}|={3,}|-{3,}|~{3,})$)", re.MULTILINE)

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def standard_library() -> Path:
    """The folder with this Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def source_files(library: Path) -> list[Path]:
    """The files that are read, relative to `library`, sorted: the topics and every public module."""
    found = [_TOPICS] if (library / _TOPICS).exists() else []
    for folder, folders, names in os.walk(library):
        # Pruned in place, so that site-packages with its thousands of files is never entered.
        folders[:] = [name for name in folders if _is_public_name(name) and name not in _SKIPPED_FOLDERS]
        here = Path(folder).relative_to(library)
        found += [here / name for name in names if name.endswith(".py") and _is_public_name(name[:-3])]
    return sorted(found)


def fingerprint(library: Path) -> str:
    """sha256 in hex over the names and bytes of all files that are read."""
    total = hashlib.sha256()
    for path in source_files(library):
        total.update(f"{path.as_posix()}\0".encode())
        total.update(hashlib.sha256((library / path).read_bytes()).digest())
    return total.hexdigest()


def documents_of(library: Path, path: Path, *, source: str) -> Iterator[Document]:
    """The documents of one file of `source_files`, in the file's order. A file that does not parse has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            tree = ast.parse((library / path).read_bytes())
        except (SyntaxError, ValueError):
            return
    texts = _topic_texts(tree) if path == _TOPICS else _module_texts(tree, _dotted_name(path))
    for origin, text in texts:
        yield Document(id=document_id(source, origin), source=source, origin=origin, text=text)


def split_at_headings(text: str) -> list[str]:
    """A reference page as sections: cut before each underlined heading, and between paragraphs where one is long.

    Pages repeat whole sections of one another. Cut at the same places, repeated sections become exact duplicates,
    which deduplication removes; sections of a fixed length would overlap unseen.
    """
    sections: list[str] = []
    for piece in _HEADING.split(text)[0::2]:
        if sections and min(len(sections[-1]), len(piece)) < _SECTION_CHARACTERS:
            sections[-1] += piece
        else:
            sections.append(piece)
    return [
        part.strip("\n") for section in sections for part in _pack(section.split("\n\n"), limit=_SECTION_MAX_CHARACTERS)
    ]


def _topic_texts(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(statement.value)
            for name, text in sorted(topics.items()):
                yield from _numbered(f"topics.{name}", split_at_headings(text))


def _module_texts(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """(dotted name, text) of the module itself and of each class that has much to say."""
    head = f"Module {module}\n\n{_docstring(tree)}".rstrip()
    entries = []
    for node in tree.body:
        if isinstance(node, _Function) and _is_documented(node):
            entries.append(_function_text(node, prefix=f"{module}."))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            name = f"{module}.{node.name}"
            parts = _class_texts(node, name)
            if sum(map(len, parts)) < _CLASS_CHARACTERS:
                entries += ["\n\n".join(parts)] if parts else []
            else:
                yield from _numbered(name, _pack(parts, limit=_DOCUMENT_CHARACTERS))
    if entries or _docstring(tree):
        yield from _numbered(module, _pack([head, *entries], limit=_DOCUMENT_CHARACTERS))


def _class_texts(node: ast.ClassDef, name: str) -> list[str]:
    """The class's own paragraph and one for each documented public method; empty where nothing is documented."""
    methods = [
        _function_text(child, prefix=f"{node.name}.")
        for child in node.body
        if isinstance(child, _Function) and _is_documented(child)
    ]
    docstring = _docstring(node)
    if not methods and not docstring:
        return []
    bases = f"({', '.join(ast.unparse(base) for base in node.bases)})" if node.bases else ""
    return [f"class {name}{bases}\n\n{_indented(docstring)}".rstrip(), *methods]


def _function_text(node: _Function, *, prefix: str) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{prefix}{node.name}({ast.unparse(node.args)}){returns}\n\n{_indented(_docstring(node))}"


def _is_documented(node: _Function) -> bool:
    is_public = not node.name.startswith("_") or node.name == "__init__"
    return is_public and bool(_docstring(node))


def _docstring(node: ast.Module | ast.ClassDef | _Function) -> str:
    return (ast.get_docstring(node, clean=True) or "").strip()


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in inspect.cleandoc(text).split("\n")) if text else ""


def _pack(parts: list[str], *, limit: int) -> list[str]:
    """Neighbouring parts joined by an empty line into texts of at most `limit` characters; longer parts stay."""
    packed: list[str] = []
    for part in parts:
        if packed and len(packed[-1]) + len(part) + 2 <= limit:
            packed[-1] += f"\n\n{part}"
        else:
            packed.append(part)
    return packed


def _numbered(name: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts, start=1):
        yield (name if len(texts) == 1 else f"{name}#{number}"), text


def _is_public_name(name: str) -> bool:
    return name == "__init__" or (name.isidentifier() and not name.startswith("_"))


def _dotted_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
