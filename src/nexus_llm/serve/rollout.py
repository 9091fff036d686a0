"""Another model takes over from the one that answers: loaded beside it, given a share, kept or sent away.

`/admin/rollout` is for who holds an admin key; on a server without keys, for who can read the token that `nexus serve`
leaves in a file of the user's: a page in a browser or a proxied stranger has neither.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header
from pydantic import BaseModel, ConfigDict, Field

from nexus_llm.errors import NexusError, ServingError
from nexus_llm.serve.access.caller import current_caller
from nexus_llm.serve.api_errors import ApiError
from nexus_llm.serve.engines.supervisor import EngineState
from nexus_llm.serve.lanes import Colour, Lane, Lanes
from nexus_llm.serve.logs import place_of

log = logging.getLogger("nexus_llm.serve.rollout")
DRAIN_POLL_SECONDS = 0.05
GREEN_RESTS = 2.0  # seconds after each of work: the check takes longer, blue's users notice it less


class ModelRollout:
    """Changes the lanes of a running server, one change at a time."""

    def __init__(self, lanes: Lanes, *, load: Callable[[Path], Awaitable[Lane]], drain_seconds: float) -> None:
        """`load` gives a lane whose engine is ready, or raises and leaves nothing behind."""
        self.lanes = lanes
        self.failure: str | None = None
        """Why the last model could not be loaded."""
        self._load = load
        self._drain_seconds = drain_seconds
        self._changes = asyncio.Lock()
        self._swaps = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: Lane | None = None

    async def load(self, folder: Path) -> None:
        """Loads the packaged model in `folder` as green; both engines need their memory meanwhile.

        Raises:
            ServingError: there is a green one already, nothing runs that it could follow, or it cannot be loaded.
            ModelError: its tokenizer cannot be read.
        """
        async with self._changes:
            if self.lanes.green is not None:
                raise ServingError("another model stands beside this one already", fix="nexus rollback")
            if self.lanes.blue.engine.state is not EngineState.READY:
                raise ServingError("there is no running engine to swap", fix="wait until the server is ready")
            self.failure = None
            try:
                self.lanes.add_green(await self._load(folder))
            except Exception as error:
                self.failure = _reason(error)
                raise
            self._begin(self._give_way(self.lanes.all[-1]))
            log.info("rollout.loaded", extra={"fingerprint": self.lanes.all[-1].model.fingerprint})

    def begin_loading(self, folder: Path) -> None:
        """The same without waiting; `document` tells what came of it."""

        async def work() -> None:
            try:
                await self.load(folder)
            except Exception as error:  # noqa: BLE001 - whoever asked is gone, and looks at `document`
                log.error("rollout.load_failed", extra={"reason": _reason(error)})

        self._begin(work())

    async def finish(self, keep: Colour) -> None:
        """Gives one colour everything; returns once the other's last answer is given, or its time to drain is over."""
        async with self._changes:
            gone = self._leaving = self.lanes.keep(keep)
            if gone is None:
                return
            kept = self.lanes.blue.model.fingerprint
            log.info("server.swapped", extra={"fingerprint": kept, "open": gone.engine.open_generations})
            loop = asyncio.get_running_loop()
            deadline = loop.time() + self._drain_seconds
            try:
                while gone.engine.open_generations and loop.time() < deadline:
                    await asyncio.sleep(DRAIN_POLL_SECONDS)
            finally:  # also when the server stops meanwhile
                await gone.engine.stop()
                self._leaving = None

    async def _give_way(self, green: Lane) -> None:
        """Slows green down while it is only tried and blue has answers to give: on a CPU both want the same cores."""
        while self.lanes.green is green and not self.lanes.share:
            green.engine.pause(GREEN_RESTS if self.lanes.blue.engine.open_generations else 0.0)
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        green.engine.pause(0.0)

    async def finish_soon(self, keep: Colour) -> None:
        """The same, but returns once the requests go that way."""
        task = self._begin(self.finish(keep))
        while self.lanes.green is not None and not task.done():
            await asyncio.sleep(0)

    async def swap(self, folder: Path) -> None:
        """Serves the packaged model in `folder` from now on, under the same name; see `load` and `finish`."""
        async with self._swaps:
            await self.load(folder)
            await self.finish("green")

    async def close(self) -> None:
        """Ends what is being loaded, and green."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.lanes.green is not None:
            await self.lanes.green.engine.stop()

    def document(self) -> dict[str, Any]:
        """The lanes as JSON values. Times in seconds; paths as they were given."""
        lanes: dict[Colour, Lane | None] = {"blue": self.lanes.blue, "green": self.lanes.green}
        return {
            "model": self.lanes.blue.model.name,
            "share": self.lanes.share,
            "is_loading": self._changes.locked() and self.lanes.green is None and self._leaving is None,
            "failure": self.failure,
            "draining": None if self._leaving is None else self._leaving.engine.open_generations,
            **{colour: lane and _lane_document(lane) for colour, lane in lanes.items()},
        }

    def _begin(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _lane_document(lane: Lane) -> dict[str, Any]:
    return {
        "folder": None if lane.folder is None else str(lane.folder),
        "fingerprint": lane.model.fingerprint,
        "state": str(lane.engine.state),
        "engine_pid": lane.engine.pid,
        "load_seconds": lane.engine.facts and lane.engine.facts.load_seconds,
        **lane.tally.document(),
    }


class RolloutChange(BaseModel):
    """One change; the members after `do` belong to it."""

    model_config = ConfigDict(extra="forbid")
    do: Literal["load", "share", "keep"]
    folder: Path | None = None
    """`load`: an absolute path on the server's machine."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """`share`: of the requests that green gets."""
    colour: Colour = "blue"
    """`keep`: the one that stays."""


def add_rollout_routes(app: FastAPI, rollout: ModelRollout, *, token: str | None) -> None:
    """Adds the routes; `token` opens them where there are no keys, None: nobody can."""

    def check(authorization: str) -> None:
        if current_caller() is not None:
            return  # the gate has looked at the key
        if token is None or not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise ApiError(403, "This needs the server's own token, or a server with keys.", code="admin_only")

    @app.get("/admin/rollout", include_in_schema=False)
    async def state(authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        check(authorization)
        return rollout.document()

    @app.post("/admin/rollout", include_in_schema=False)
    async def change(body: RolloutChange, authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        check(authorization)
        if body.do == "load":
            if body.folder is None or not body.folder.is_absolute():
                raise ApiError(400, "load needs folder, an absolute path.", param="folder", code="invalid_value")
            if rollout.lanes.green is not None or rollout.document()["is_loading"]:
                raise ApiError(409, "Another model stands beside this one already.", code="rollout_open")
            rollout.begin_loading(body.folder)
            await asyncio.sleep(0)  # so that the answer says that it loads
        elif body.do == "keep":
            await rollout.finish_soon(body.colour)
        elif rollout.lanes.green is None:
            raise ApiError(409, "There is no green model to share with.", code="no_green")
        else:
            rollout.lanes.share = body.share
        return rollout.document()


def _reason(error: Exception) -> str:
    return error.what if isinstance(error, NexusError) else place_of(error)
