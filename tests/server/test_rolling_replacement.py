"""Under load a server is replaced by another, and no request is lost."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Running, Start, add_model

pytestmark = pytest.mark.frameworks

BODY = json.dumps({"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} for name in "xy"]})
DRAIN_S = 1.0


@dataclass
class Endpoints:
    """Like a Service in Kubernetes: it probes every 50 ms and routes new connections to a ready server."""

    servers: list[Running]
    ready: list[Running] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def probe(self) -> None:
        while not self.stop.is_set():
            ready = []
            for server in self.servers:
                try:
                    if server.process.poll() is None and server.ask("GET", "/v2/health/ready").status == 200:
                        ready.append(server)
                except OSError:
                    continue
            self.ready = ready
            self.stop.wait(0.05)


def http_client(endpoints: Endpoints, answered: list[int]) -> None:
    """Requests one after another, over a connection that is kept as long as the server keeps it."""
    connection: http.client.HTTPConnection | None = None
    while not endpoints.stop.is_set():
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", endpoints.ready[-1].port, timeout=30)
        connection.request("POST", "/v2/models/m/infer", BODY)
        with connection.getresponse() as response:
            response.read()
            answered.append(response.status)
            closes = response.getheader("connection") == "close"
        if closes:
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


def replaced_under_load(
    tmp_path: Path, start: Start, client: Callable[[Endpoints, list[int]], None], **more: Any
) -> int:
    """Replace a server three times while eight clients ask; the number of requests that were answered with 200."""

    def begin(number: int) -> Running:
        folder = tmp_path / str(number)
        folder.mkdir()
        return start(add_model(folder, drain_seconds=DRAIN_S, **more))

    first = begin(0)
    endpoints = Endpoints([first], [first])
    answered: list[int] = []
    with ThreadPoolExecutor(9) as pool:
        futures = [pool.submit(endpoints.probe), *(pool.submit(client, endpoints, answered) for _ in range(8))]
        try:
            for number in range(1, 4):
                old, new = endpoints.servers[-1], begin(number)
                endpoints.servers.append(new)
                deadline = time.monotonic() + 30
                while new not in endpoints.ready and time.monotonic() < deadline:
                    time.sleep(0.01)
                seen = len(answered)
                assert old.stop() == 0
                assert len(answered) > seen
        finally:
            endpoints.stop.set()
        for future in futures:
            future.result()  # a lost request is an exception here
    assert set(answered) == {200}
    for server in endpoints.servers:
        assert not [line for line in server.log if line["level"] in {"warning", "error"}]
    return len(answered)


def test_no_http_request_is_lost(tmp_path: Path, start: Start) -> None:
    assert replaced_under_load(tmp_path, start, http_client) > 100


def test_no_grpc_call_is_lost(tmp_path: Path, start: Start) -> None:
    grpc = pytest.importorskip("grpc")
    from orchestrator.server import open_inference_pb2 as pb

    def grpc_client(endpoints: Endpoints, answered: list[int]) -> None:
        """Calls one after another; the channel moves on when its server is not ready, and retries nothing."""
        request = pb.ModelInferRequest(model_name="m")
        for name in "xy":
            tensor = request.inputs.add(name=name, datatype="FP32", shape=[1, 3])
            tensor.contents.fp32_contents.extend([1, 2, 3])
        server: Running | None = None
        channel: Any = None
        stub: Any = None
        while not endpoints.stop.is_set():
            if server not in endpoints.ready:
                if channel is not None:
                    channel.close()
                server = endpoints.ready[-1]
                channel = grpc.insecure_channel(
                    f"127.0.0.1:{server.wait_for_log('live')['grpc_port']}", [("grpc.enable_retries", 0)]
                )
                stub = channel.unary_unary(
                    "/inference.GRPCInferenceService/ModelInfer",
                    pb.ModelInferRequest.SerializeToString,
                    pb.ModelInferResponse.FromString,
                )
            stub(request, timeout=30)
            answered.append(200)
        channel.close()

    assert replaced_under_load(tmp_path, start, grpc_client, grpc_port=0) > 100
