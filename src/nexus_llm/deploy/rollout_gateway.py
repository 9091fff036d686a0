"""One machine as the place of a rollout: a running `nexus serve`, asked over its `/admin/rollout`. A named edge.

Blue and green are two engine processes behind the one gateway, so blue answers again in milliseconds until it is
drained; afterwards it is loaded again from its folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from nexus_llm.deploy.rollout import Health, Lane, Rollout
from nexus_llm.errors import DeploymentError, PreflightError, UsageError

SERVER_SECONDS = 60.0  # for an answer of the server
QUESTION = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


class GatewayTarget:
    """A `nexus_llm.deploy.rollout.Target`; `rollout.plan.model` is the absolute path of a package folder."""

    def __init__(
        self,
        client: httpx.Client,
        *,
        pull_seconds: Callable[[], float | None] = lambda: None,
        processes: Path = Path("/proc"),
    ) -> None:
        """`client` has the server's address as its base, and what opens `/admin` in its headers. `pull_seconds` tells
        how long it took to bring the package here and check its files."""
        self._client, self._pull_seconds, self._processes = client, pull_seconds, processes
        self._asked: str | None = None
        """The folder that this process asked to load."""

    def state(self) -> dict[str, Any]:
        """What the server tells of its lanes.

        Raises:
            DeploymentError: nobody answers, or not to us.
        """
        return self._call("GET", "/admin/rollout")

    def advance(self, rollout: Rollout) -> dict[str, Any] | None:
        """See `Target`."""
        steps = {"stage": self._stage, "preflight": self._preflight, "warm": self._warm, "drain": self._drain}
        if rollout.step in steps:
            return steps[rollout.step](rollout)
        share = rollout.plan.canary_share if rollout.step == "canary" else 1.0
        state = self._with_green(rollout)
        if state["share"] != share:
            self._change(do="share", share=share)
        return {"share": share, **{colour: _counts(state[colour]) for colour in ("blue", "green")}}

    def health(self, rollout: Rollout) -> Health:
        """See `Target`."""
        state = self._with_green(rollout)
        return Health(_lane(state["green"]), _lane(state["blue"]))

    def turn_back(self, rollout: Rollout) -> dict[str, Any] | None:
        """See `Target`."""
        model, old = rollout.plan.model, rollout.facts.get("stage", {}).get("blue")
        state = self.state()
        if _folder(state, "blue") != model or old == model:
            if _folder(state, "green") == model or state["is_loading"]:
                self._change(do="keep", colour="blue")
            return {"how": "blue was warm"}
        if old is None:
            raise UsageError("nobody wrote down what answered before", fix="nexus deploy the model that you want")
        if _folder(state, "green") == old:
            self._change(do="keep", colour="green")
            return {"how": "blue was loaded again"}
        self._load(state, old)
        return None

    def _stage(self, rollout: Rollout) -> dict[str, Any]:
        state = self.state()
        if state["green"] is not None and _folder(state, "green") != rollout.plan.model:
            raise UsageError(f"{_folder(state, 'green')} stands beside it already", fix="nexus rollback")
        blue = state["blue"]
        return {"blue": blue["folder"], "fingerprint": blue["fingerprint"], "name": state["model"]}

    def _preflight(self, rollout: Rollout) -> dict[str, Any]:  # noqa: ARG002
        """Two engines need their memory at once: as much as blue's holds must be free."""
        state = self.state()
        held = _kib(self._processes / str(state["blue"]["engine_pid"]) / "status", "VmRSS")
        free = _kib(self._processes / "meminfo", "MemAvailable")
        if state["green"] is None and held is not None and free is not None and free < held:
            raise PreflightError(
                f"the engine that answers holds {held / 2**20:.1f} GiB, and {free / 2**20:.1f} GiB are free",
                fix="stop what else runs here, or swap with a pause: restart nexus serve with the new model",
            )
        return {"engine_kib": held, "free_kib": free}

    def _warm(self, rollout: Rollout) -> dict[str, Any] | None:
        state = self.state()
        if _folder(state, "green") != rollout.plan.model:
            self._load(state, rollout.plan.model)
            return None
        began = time.monotonic()
        question = QUESTION | {"model": f"{state['model']}@green"}
        patience = rollout.plan.limits.cold_start_seconds  # it queues behind everybody's questions
        answer = self._call("POST", "/v1/chat/completions", question, seconds=patience)
        return {
            "pull_seconds": self._pull_seconds(),
            "load_seconds": state["green"]["load_seconds"],
            "warm_seconds": round(time.monotonic() - began, 3),
            "completion_tokens": answer["usage"]["completion_tokens"],
        }

    def _drain(self, rollout: Rollout) -> dict[str, Any] | None:
        state = self.state()
        if state["green"] is not None:
            state = self._with_green(rollout)
            state = self._change(do="keep", colour="green")
        if state["draining"] is not None:
            return None
        if _folder(state, "blue") != rollout.plan.model:
            raise _lost(rollout)
        return {}

    def _load(self, state: dict[str, Any], folder: str) -> None:
        """Asks once, then waits; what the server says of an earlier try counts for nothing."""
        if state["is_loading"] or state["draining"] is not None:
            return
        if self._asked == folder and state["failure"]:
            raise DeploymentError(f"green cannot be loaded: {state['failure']}", fix="package the model again")
        self._change(do="load", folder=folder)
        self._asked = folder

    def _with_green(self, rollout: Rollout) -> dict[str, Any]:
        state = self.state()
        green = state["green"]
        if green is None or green["folder"] != rollout.plan.model:
            raise _lost(rollout)
        if green["state"] not in ("ready", "restarting"):
            raise DeploymentError(f"green's engine is {green['state']}", fix="read the server's log: engine.died")
        return state

    def _change(self, **change: Any) -> dict[str, Any]:
        return self._call("POST", "/admin/rollout", change)

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = SERVER_SECONDS
    ) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, json=body, timeout=httpx.Timeout(seconds, connect=10))
            document: dict[str, Any] = answer.json()
        except httpx.ReadTimeout:
            raise DeploymentError(
                f"{self._client.base_url} did not answer {path} within {seconds:g} s",
                fix="it is overloaded, or its engine hangs: nexus observe report, then the same command again",
            ) from None
        except (httpx.HTTPError, ValueError) as error:
            raise DeploymentError(
                f"no nexus serve answers at {self._client.base_url} ({type(error).__name__})",
                fix="start it: nexus serve RUN; another address: --url",
            ) from None
        if answer.status_code in (401, 403):
            raise UsageError(
                f"{self._client.base_url} lets nobody in without its token or an admin key",
                fix="run this as the user of nexus serve, or export NEXUS_API_KEY=… (nexus keys create NAME --admin)",
            )
        if answer.is_error:
            said = document.get("error", {}).get("message", answer.status_code)
            raise DeploymentError(f"{path} of the server refuses: {said}", fix="nexus rollback, then try again")
        return document


def _lost(rollout: Rollout) -> DeploymentError:
    return DeploymentError(
        f"{rollout.plan.model} is not behind {rollout.plan.service} any more: the server was started anew, or changed",
        fix=f"nexus deploy {rollout.plan.model}",
    )


def _folder(state: dict[str, Any], colour: str) -> str | None:
    lane = state[colour]
    return None if lane is None else lane["folder"]


def _counts(lane: dict[str, Any]) -> dict[str, Any]:
    return {name: lane[name] for name in ("requests", "failures", "ttft_p95_seconds")}


def _lane(lane: dict[str, Any]) -> Lane:
    return Lane(**_counts(lane))


def _kib(path: Path, name: str) -> int | None:
    """A value of one of the kernel's pages; None where there is no such page."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
