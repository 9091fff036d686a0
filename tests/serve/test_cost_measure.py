"""What the capacity model is calibrated with, measured on a server with the fake engine."""

from __future__ import annotations

import numpy as np
import pytest

from lying_api import lying_api, status
from nexus_llm.cli.cost_calibrate import server_measure
from nexus_llm.cost.capacity.calibration import LoadTest
from nexus_llm.errors import ServingError
from running_server import RunningServer, StartServer


def test_a_closed_loop_comes_with_the_tokens_that_the_server_counted(start: StartServer) -> None:
    server = start(step_seconds=0.01, end_token_id=2)  # a client of one that answers at once would measure itself
    measure = server_measure(server.url, None, api_key="none")
    found = measure(LoadTest("fitted", 200, 6, 10, concurrency=2))
    assert found.concurrency == 2
    assert len(found.demand) == 10
    assert set(found.demand.output_tokens) == {6}
    assert found.demand.input_tokens.mean() == pytest.approx(200, abs=30)
    assert (found.ttft > 0).all()
    np.testing.assert_array_less(found.ttft, found.e2e + 1e-9)
    assert 0 < found.e2e.max() <= found.seconds + 1e-6


def test_an_open_loop_comes_with_the_times_at_which_requests_were_due(echo_server: RunningServer) -> None:
    found = server_measure(echo_server.url, None, api_key="none")(LoadTest("open", 50, 4, 12, requests_per_second=30.0))
    assert found.concurrency is None
    assert found.demand.arrived_seconds[0] == 0
    assert (np.diff(found.demand.arrived_seconds) > 0).all()


def test_a_load_test_with_failed_requests_is_no_measurement() -> None:
    async def refuse(writer, body, number) -> None:  # type: ignore[no-untyped-def]
        writer.write(status(500))

    with lying_api(refuse) as lying, pytest.raises(ServingError, match="only 0 of 4"):
        server_measure(lying.url, None, api_key="none")(LoadTest("fitted", 20, 2, 4, concurrency=2))
