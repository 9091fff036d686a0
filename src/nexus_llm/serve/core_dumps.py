"""No core dumps: a crashed engine's memory is full of prompts, and a dump of it would lie on a disk for anybody."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

_FILTER = Path("/proc/self/coredump_filter")


def forbid_core_dumps() -> None:
    """For this process and all that it starts from now on; call it before the engine is started.

    A limit of 0 forbids dumps to a file. A kernel that pipes them to a program (`man 5 core`, "Piping core dumps")
    does not look at that limit, so that on Linux the dump is told to hold no memory, too.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    with contextlib.suppress(OSError):  # no such file on macOS
        _FILTER.write_text("0")
