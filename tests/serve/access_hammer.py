"""A process that admits and settles as fast as it can until the limit is reached: several of them share a database.

Usage: python access_hammer.py DATABASE KEY_ID PROMPT_TOKENS COMPLETION_TOKENS SECONDS. Prints how many got in.
"""

from __future__ import annotations

import sys
import time

from nexus_llm.serve.access.database import open_database
from nexus_llm.serve.access.key_store import find_key
from nexus_llm.serve.access.ledger import Ledger, LimitReachedError, Outcome
from nexus_llm.serve.access.limits import Prices


def main(place: str, key_id: str, prompt_tokens: int, completion_tokens: int, seconds: float) -> None:
    database = open_database(place)
    key = find_key(database, key_id)
    assert key is not None
    ledger, passed, deadline = Ledger(database, Prices()), 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            admitted, _ = ledger.admit(key, model="m", prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        except LimitReachedError:
            break  # what is held is all that will be used, so nothing comes back
        passed += 1
        ledger.record([Outcome(admitted, prompt_tokens, completion_tokens, is_finished=True)])
    database.close()
    print(passed)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
