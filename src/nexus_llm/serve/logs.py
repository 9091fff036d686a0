"""Log records as JSON lines: an event and its fields, for machines first."""

from __future__ import annotations

import json
import linecache
import logging
import sys
import time

OWN = "nexus_llm"
# What another handler's formatter leaves in a record, and may quote anything, is no field either.
_STANDARD_FIELDS = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime"))


_encoder = json.JSONEncoder(ensure_ascii=False, default=str)


class JsonLines(logging.Formatter):
    """One JSON object a record, without what may quote a prompt: the text of an exception, and what a library puts into
    its messages (asyncio's quote exceptions, httpcore's the headers of an upstream).

    Of a library's message those words stay that stand in the library's own source; logger and place say which it is.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            **_event(record),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS},
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        return _encoder.encode(line)


def _event(record: logging.LogRecord) -> dict[str, str]:
    if record.name.partition(".")[0] == OWN:
        return {"event": record.getMessage()}
    words = str(record.msg).partition("\n")[0]
    is_literal = bool(words) and any(words in line for line in linecache.getlines(record.pathname))
    return {
        "event": words if is_literal else "library",
        "logger": record.name,
        "place": f"{record.filename}:{record.lineno}",
    }


def place_of(error: BaseException) -> str:
    """Type and place of an error, and nothing else: its text may quote a prompt."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__} at {place}"


def log_to_stderr(level: str) -> None:
    """Sends everything from `level` up to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # httpx tells every request of a health check, uvicorn every start: neither is an event of ours.
    for chatty in ("httpx", "httpcore", "urllib3", "uvicorn", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
