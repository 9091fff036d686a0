"""What a job prints, from CloudWatch Logs, whatever service runs it: every line once, from all of its streams.

Source: docs.aws.amazon.com, CloudWatch Logs API reference (DescribeLogStreams, GetLogEvents), read 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nexus_llm.cloud.aws_errors import error_code

MAX_PAGES = 1000  # of one stream in one poll: 10,000 lines each


@dataclass(frozen=True, slots=True)
class LogStreams:
    """Where a job prints to: all streams of a group whose names begin alike, one a machine, start or attempt."""

    group: str
    prefix: str

    def __str__(self) -> str:
        return f"CloudWatch group {self.group}, streams {self.prefix}…"


@dataclass
class JobLog:
    """A reader that remembers how far it has read."""

    logs: Any
    """The boto3 client of CloudWatch Logs."""
    place: LogStreams
    _tokens: dict[str, str] = field(default_factory=dict)
    _last: dict[str, int] = field(default_factory=dict)
    """Stream → time of its newest line, in milliseconds."""

    def new_lines(self) -> list[str]:
        """Lines since the last call, in the order of their times; none before the job's first."""
        try:
            streams = list(self._streams())
        except Exception as error:
            if error_code(error) == "ResourceNotFoundException":
                return []
            raise
        found = [event for stream in streams for event in self._events(stream)]
        return [text for _, text in sorted(found, key=lambda event: event[0])]

    def _streams(self) -> Iterator[str]:
        request: dict[str, Any] = {"logGroupName": self.place.group, "logStreamNamePrefix": self.place.prefix}
        for _ in range(MAX_PAGES):
            answer = self.logs.describe_log_streams(**request)
            yield from (stream["logStreamName"] for stream in answer["logStreams"])
            if not answer.get("nextToken"):
                return
            request["nextToken"] = answer["nextToken"]

    def _events(self, stream: str) -> Iterator[tuple[int, str]]:
        for _ in range(MAX_PAGES):
            answer = self._page(stream)
            for event in answer["events"]:
                self._last[stream] = max(event["timestamp"], self._last.get(stream, 0))
                yield event["timestamp"], event["message"]
            token = answer["nextForwardToken"]
            # The end of a stream gives back the token that it was asked with; a page before it may be empty.
            if token == self._tokens.get(stream):
                return
            self._tokens[stream] = token

    def _page(self, stream: str) -> dict[str, Any]:
        request: dict[str, Any] = {"logGroupName": self.place.group, "logStreamName": stream, "startFromHead": True}
        if stream in self._tokens:
            try:
                return dict(self.logs.get_log_events(**request, nextToken=self._tokens[stream]))
            except Exception as error:
                if error_code(error) != "InvalidParameterException":
                    raise
                del self._tokens[stream]  # tokens live for a day: a laptop may sleep longer
        return dict(self.logs.get_log_events(**request, startTime=self._last.get(stream, -1) + 1))
