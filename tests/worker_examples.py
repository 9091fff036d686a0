"""Work for worker processes, which import it by name."""

from __future__ import annotations

import os
import signal
import time


class Squares:
    """Square numbers, some later than others."""

    def __call__(self, item: int) -> int:
        time.sleep(0.02 * (item % 3))
        return item * item


class Dies:
    """Kills its own process at the number 3."""

    def __call__(self, item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item


class ProcessIds:
    """The id of the process that works."""

    def __call__(self, item: int) -> int:
        time.sleep(0.01)
        return os.getpid()


class Sleeps:
    """Takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, item: int) -> int:
        time.sleep(self.seconds)
        return item
