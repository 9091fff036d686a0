"""The engine's process: `python -m nexus_llm.serve.engines.child NAME SETTINGS SOCKET`.

It reads requests from the socket between steps and writes one message a step. `step()` holds the GIL for its whole
time, so a thread that reads beside it would not help. The process ends when the gateway's end of the socket closes,
and, on Linux, is killed by the kernel when the gateway dies in the middle of a step.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import asdict
from typing import Any

from nexus_llm.serve.engines import wire
from nexus_llm.serve.engines.port import Engine, EngineDelta, EngineFacts, EngineStep
from nexus_llm.serve.logs import place_of

ENGINES = {
    "fake": ("fake", "FakeEngine", "FakeSettings"),
    "llama.cpp": ("llama_cpp", "LlamaCppEngine", "LlamaCppSettings"),
    "openvino": ("openvino", "OpenVinoEngine", "OpenVinoSettings"),
    "transformers": ("transformers", "TransformersEngine", "TransformersSettings"),
    "vllm": ("vllm", "VllmEngine", "VllmSettings"),
}
"""Name → module below `engines`, its engine and its settings."""
RECEIVE_BYTES = 1 << 16
IDLE_SECONDS = 2  # then there is a step with nothing to do: what the engine runs may have ended meanwhile
SIGN_OF_LIFE_SECONDS = 5.0  # steps that bring nothing new for so long still say that the engine is not hung
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Loads the engine, says so, and works until the gateway hangs up. Returns the exit code."""
    name, settings, descriptor, parent = arguments
    _die_with_parent(int(parent))
    # Ctrl-C in a terminal reaches the whole process group; the gateway alone decides when to stop. And it finds what an
    # engine leaves behind by its group. No session of its own: Linux would share the processor out anew among sessions.
    with contextlib.suppress(PermissionError):  # it leads one already
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    is_ready = False
    with socket.socket(fileno=int(descriptor)) as gateway:
        try:
            engine, facts = load_engine(name, json.loads(settings))
            with contextlib.closing(engine):
                gateway.sendall(wire.encode({"ready": asdict(facts)}))
                is_ready = True
                work(engine, gateway)
        except (BrokenPipeError, ConnectionResetError):
            return 0
        except Exception as error:  # noqa: BLE001 - whatever it is, the gateway has to hear of it
            with contextlib.suppress(OSError):
                reason = place_of(error) if is_ready else _reason(error)
                gateway.sendall(wire.encode({"fatal": reason}))
            return 1
    return 0


def load_engine(name: str, settings: dict[str, Any]) -> tuple[Engine, EngineFacts]:
    """The engine of that name, loaded; only its own module is imported."""
    module_name, engine_name, settings_name = ENGINES[name]
    module = importlib.import_module(f"nexus_llm.serve.engines.{module_name}")
    loaded: tuple[Engine, EngineFacts] = getattr(module, engine_name).load(getattr(module, settings_name)(**settings))
    return loaded


def work(engine: Engine, gateway: socket.socket) -> None:
    """Steps while anything is live, rests while nothing is, and returns when the gateway hangs up."""
    splitter = wire.LineSplitter()
    live: set[int] = set()
    told_at = time.monotonic()
    pause_share = 0.0  # seconds of rest after each second of all cores' work
    has_cancelled = False  # an engine frees what was cancelled in its next step, so there has to be one
    # Not `select`: under a gateway with a thousand open connections our descriptor has a number that it cannot take.
    news = select.poll()
    news.register(gateway, select.POLLIN)
    while True:
        if news.poll(0 if live or has_cancelled else IDLE_SECONDS * 1_000):
            data = gateway.recv(RECEIVE_BYTES)
            if not data:
                return
            for message in splitter.feed(data):
                pause_share = message.get("pause", pause_share)
                has_cancelled = has_cancelled or "cancel" in message
                refused = _obey(message, engine, live)
                if refused is not None:
                    gateway.sendall(wire.encode(wire.step_message(EngineStep([refused], 0.0))))
            continue  # more may have come: requests that arrive together start together
        busy = time.process_time()
        step = engine.step()
        live.difference_update(delta.id for delta in step.deltas if delta.finish)
        if step.deltas or has_cancelled or time.monotonic() - told_at > SIGN_OF_LIFE_SECONDS:
            gateway.sendall(wire.encode(wire.step_message(step)))
            told_at = time.monotonic()
        has_cancelled = False
        if pause_share:
            # Not the time on the clock: who waits for a core that others have would rest for that, too.
            time.sleep(pause_share * (time.process_time() - busy) / (os.cpu_count() or 1))


def _obey(message: wire.Message, engine: Engine, live: set[int]) -> EngineDelta | None:
    """Carries out one message; gives the delta that says so where the engine refuses a request."""
    if "add" in message:
        request = wire.read_request(message)
        try:
            engine.add(request)
        except ValueError:
            return EngineDelta(request.id, [], [], "refused")
        live.add(request.id)
    elif "cancel" in message:
        engine.cancel(message["cancel"])
        live.discard(message["cancel"])
    return None


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew our wish
        os._exit(0)


def _reason(error: Exception) -> str:
    """Type and first line only: a native library's message may go on for pages. No prompt has been seen yet."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
