"""The erasure list: ids of records that must never reach a shard again, and what was made from a data artifact.

A plain text file, one id a line, with the reason behind a `#`. It holds no text of the records.

    # asked for by their author
    3f2a9c…  # request 17
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nexus_llm.errors import DataError

_ID = re.compile(r"[0-9a-f]{32}")


def parse(text: str, *, place: str) -> dict[str, str]:
    """Id → reason (empty where none is given), in the order of the list; the first reason of an id counts.

    Raises:
        DataError: a line is no id; names `place:line`.

    >>> parse("# asked for\\n0123456789abcdef0123456789ABCDEF  # request 17\\n", place="erased.txt")
    {'0123456789abcdef0123456789abcdef': 'request 17'}
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        word, _, reason = line.partition("#")
        identity = word.strip().lower()
        if not identity:
            continue
        if not _ID.fullmatch(identity):
            raise DataError(
                f"{place}:{number}: {word.strip()!r} is no record id",
                fix="write one id of 32 hexadecimal digits a line; nexus data why ORIGIN shows the id of a record",
            )
        found.setdefault(identity, reason.strip())
    return found


def appended(text: str, reasons: Mapping[str, str], *, place: str) -> str:
    """The list with the ids (id → reason) that it does not hold yet at its end; what stood there stays as it is.

    Raises:
        DataError: a line of the list, or one of the ids, is no id.
    """
    known = parse(text, place=place)
    lines = [
        f"{identity}  # {' '.join(reason.split())}" if reason.strip() else identity
        for identity, reason in reasons.items()
        if identity not in known
    ]
    start = text if not text or text.endswith("\n") else text + "\n"
    result = start + "".join(f"{line}\n" for line in lines)
    parse(result, place=place)
    return result


def made_from(inputs: Mapping[str, Iterable[str]], origins: Iterable[str]) -> list[str]:
    """Ids of artifacts that were made from any of `origins`, directly or over others, sorted.

    `inputs` maps each artifact's id to the ids that it was made from.

    >>> made_from({"train": ["data", "model"], "package": ["train"], "other": ["model"]}, ["data"])
    ['package', 'train']
    """
    users: dict[str, list[str]] = {}
    for identity, used in inputs.items():
        for one in used:
            users.setdefault(one, []).append(identity)
    found: set[str] = set()
    waiting = list(origins)
    while waiting:
        for user in users.get(waiting.pop(), []):
            if user not in found:
                found.add(user)
                waiting.append(user)
    return sorted(found)
