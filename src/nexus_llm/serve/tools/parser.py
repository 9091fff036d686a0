"""An answer that arrives in pieces, taken apart into text and calls. Text before a call goes out at once."""

from __future__ import annotations

from dataclasses import dataclass

from nexus_llm.serve.tools.calls import Call
from nexus_llm.serve.tools.formats import CallFormat


@dataclass(frozen=True, slots=True)
class Parsed:
    text: str
    calls: tuple[Call, ...] = ()


class CallParser:
    """Whatever the pieces were, the texts joined and the calls in order are the same.

    White space before a call, and behind the last one, is dropped. What looks like a call but is none, or is cut off by
    the end of the answer, comes out as the text that it is.
    """

    def __init__(self, call_format: CallFormat) -> None:
        self._format = call_format
        self._rest = ""
        """Not decided yet."""
        self._spaces = ""
        """White space that is text only if text follows, or if no call came before the end."""
        self._is_in_call = False
        self._has_text = False
        self.has_calls = False

    def push(self, piece: str) -> Parsed:
        """What this piece makes sure."""
        # Only a closing bracket or mark can end a call; without this, a long one would be read again for each token.
        is_hopeless = self._is_in_call and "{" in self._rest and not set(piece) & {"}", "]", ">"}
        self._rest += piece
        return Parsed("") if is_hopeless else self._advance(is_whole=False)

    def flush(self) -> Parsed:
        """What was held back, once nothing more comes."""
        return self._advance(is_whole=True)

    def _advance(self, *, is_whole: bool) -> Parsed:
        text: list[str] = []
        calls: list[Call] = []
        while self._rest:
            if not self._is_in_call:
                start = self._format.start(self._rest, has_text=self._has_text, has_calls=self.has_calls)
                at = len(self._rest) if is_whole and not start.is_call else start.at
                self._say(self._take(at), text)
                self._is_in_call = start.is_call
                if not start.is_call:
                    break
            reading = self._format.read(self._rest, is_whole=is_whole)
            if reading is None:
                break
            self._is_in_call = False
            read = self._take(reading.end)
            if reading.calls:
                self._spaces = ""
                self.has_calls = True
                calls += reading.calls
            else:
                self._say(read, text)
        if is_whole and not self.has_calls:
            text.append(self._spaces)
            self._spaces = ""
        return Parsed("".join(text), tuple(calls))

    def _take(self, length: int) -> str:
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken

    def _say(self, said: str, text: list[str]) -> None:
        """Lets text out, but for the white space at its end."""
        words = said.rstrip()
        if not words:
            self._spaces += said
            return
        text += [self._spaces, words]
        self._spaces = said[len(words) :]
        self._has_text = True
