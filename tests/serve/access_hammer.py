"""A process that admits and settles as fast as it can until the limit is reached: several of them share a database.

Usage: python access_hammer.py DATABASE KEY_ID PROMPT_TOKENS COMPLETION_TOKENS MOST SECONDS, where MOST is how many it
takes itself: the database serves whom it likes, and one process alone must not be able to use up the limit.
Says `ready`, waits for a line on its input so that all begin together, and prints how many got in and of how many it
does not know.
"""

from __future__ import annotations

import contextlib
import sys
import time

from nexus_llm.serve.access.database import DatabaseDownError, open_database
from nexus_llm.serve.access.key_store import find_key
from nexus_llm.serve.access.ledger import Ledger, LimitReachedError, Outcome
from nexus_llm.serve.access.limits import Prices


def main(place: str, key_id: str, prompt_tokens: int, completion_tokens: int, most: int, seconds: float) -> None:
    database = open_database(place)
    key = find_key(database, key_id)
    assert key is not None
    print("ready", flush=True)
    sys.stdin.readline()
    ledger, deadline = Ledger(database, Prices()), time.monotonic() + seconds
    passed = unknown = 0
    while passed < most and time.monotonic() < deadline:
        try:
            admitted, _ = ledger.admit(key, model="m", prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        except LimitReachedError:
            break  # what is held is all that will be used, so nothing comes back
        except DatabaseDownError:
            unknown += 1  # a busy machine: it may have been counted
            continue
        passed += 1
        with contextlib.suppress(DatabaseDownError):
            ledger.record([Outcome(admitted, prompt_tokens, completion_tokens, is_finished=True)])
    database.close()
    print(passed, unknown)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]))
