"""gRPC on this machine: servers accept at the public port themselves, and no switch, crash or kill loses a call in vain."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest

grpc = pytest.importorskip("grpc")

from orchestrator.errors import DeployFailed  # noqa: E402 - after the check that grpcio is there
from orchestrator.server import open_inference_pb2 as pb  # noqa: E402
from orchestrator.targets.local.grpc_front import GrpcFront  # noqa: E402
from orchestrator.targets.local.records import Endpoint  # noqa: E402
from orchestrator.targets.local.steering import cannot_steer, listeners, shared_listener, steer  # noqa: E402
from tests.targets.test_handover import Own  # noqa: E402

if TYPE_CHECKING:
    from orchestrator.targets.local.revision import Revision

pytestmark = pytest.mark.frameworks

GRPC = {"grpc_port": 8081, "grpc_connection_seconds": 1.0}
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    deployment = Own(tmp_path, **GRPC)
    yield deployment
    deployment.target.stop()


def channel_to(port: int) -> Any:
    """A channel as clients have it, with connections of its own."""
    return grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])


def infer(channel: Any, *, wait: bool = False) -> float:
    stub = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelInferResponse.FromString,
    )
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(1.0)
    answer = stub(request, timeout=60, wait_for_ready=wait)
    return float(struct.unpack("<f", answer.raw_output_contents[0])[0])


def ask(port: int, *, wait: bool = False) -> float:
    with channel_to(port) as channel:
        return infer(channel, wait=wait)


def occupied(port: int) -> socket.socket:
    """A listener at the port, once a test that runs beside this one and was given it, too, has ended."""
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_server(("127.0.0.1", port), reuse_port=True)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def is_accepted_by_the_server(own: Own, port: int) -> bool:
    """Whether a connection to the public port ends at the server's process."""
    with channel_to(port) as channel:
        infer(channel)
        return any(
            each.laddr[1] == port for each in own.server().net_connections("tcp") if each.status == "ESTABLISHED"
        )


class Load:
    """Clients that do not repeat calls that failed: kept channels, and a new one for each call."""

    def __init__(self, port: int, each: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(2 * each)
        self._clients = [self._pool.submit(kind) for kind in (self._kept, self._fresh) for _ in range(each)]

    def _kept(self) -> list[float]:
        answers: list[float] = []
        with channel_to(self._port) as channel:
            while not self._over.is_set():
                answers.append(infer(channel))
        return answers

    def _fresh(self) -> list[float]:
        answers: list[float] = []
        while not self._over.is_set():
            answers.append(ask(self._port))
        return answers

    def end(self) -> list[list[float]]:
        """What each client was answered; its error if a call failed."""
        self._over.set()
        answers = [client.result(60) for client in self._clients]
        self._pool.shutdown()
        return answers


def test_the_server_accepts_at_the_port_after_the_one_for_http(own: Own) -> None:
    port = own.deploy(1) + 1
    assert ask(port) == 1.0
    assert is_accepted_by_the_server(own, port)
    assert own.target.observe().grpc == f"127.0.0.1:{port}"
    assert Endpoint.read(own.folder) == Endpoint(port=port - 1, grpc_port=port)


def test_switches_under_load_fail_no_call(own: Own) -> None:
    port = own.deploy(1) + 1
    load = Load(port, 4)
    for revision in range(2, 5):
        own.deploy(revision)
        assert ask(port) == revision  # once the switch is done, no new connection goes to the former
    time.sleep(2.0)  # a connection is a second old, or a tenth more, when its client has to connect anew
    answers = load.end()
    assert all({4.0} <= set(client) for client in answers)
    assert is_accepted_by_the_server(own, port)


def test_a_candidate_takes_no_calls_before_the_switch(own: Own) -> None:
    port = own.deploy(1) + 1
    own.start(2)
    assert {ask(port) for _ in range(20)} == {1.0}
    own.target.drop(2)
    assert ask(port) == 1.0


def _has_ended(process: psutil.Process) -> bool:
    """Whether none of its threads is left: the first of them may be a zombie while others still hold the sockets."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE and len(process.threads()) <= 1
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("guard", [False, True], ids=["server", "guard"])
def test_after_a_kill_new_calls_wait_and_the_server_accepts_again(
    own: Own, eventually: Eventually, guard: bool
) -> None:
    port = own.deploy(1) + 1
    killed = own.server()
    (own.supervisor().children()[0] if guard else killed).kill()
    eventually(lambda: _has_ended(killed))
    # A connection that is made while the supervisor learns of the death may still be reset.
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(partial(ask, wait=True), [port] * 8)) == {1.0}
    eventually(lambda: is_accepted_by_the_server(own, port))


def test_a_killed_supervisor_frees_the_port_and_the_next_one_serves_there(own: Own) -> None:
    own.deploy(1)
    port = own.deploy(2) + 1
    own.supervisor().kill()
    own.target.prepare(own.live)
    with channel_to(port) as channel:
        assert infer(channel, wait=True) == 2.0
    assert is_accepted_by_the_server(own, port)


def test_a_revision_without_grpc_closes_the_port_and_one_with_it_opens_it_again(
    own: Own, eventually: Eventually
) -> None:
    port = own.deploy(1) + 1
    own._settings = {}
    own.deploy(2)
    eventually(lambda: listeners(port) == 0)  # the former finishes what it has
    assert own.target.observe().grpc is None
    own._settings = GRPC
    own.deploy(3)
    assert ask(port) == 3.0


def test_a_port_that_is_in_use_is_named_and_the_former_revision_stays(own: Own) -> None:
    own._settings = {}
    port = own.deploy(1) + 1
    own._settings = GRPC
    with occupied(port), pytest.raises(DeployFailed) as refused:
        own.start(2)
    assert refused.value.diagnostics[0].code == "E618"
    assert f"port {port}" in refused.value.diagnostics[0].cause
    assert own.target.observe().revision == 1


def test_stop_frees_the_port_although_channels_are_kept(own: Own) -> None:
    port = own.deploy(1) + 1
    with channel_to(port) as channel:
        assert infer(channel) == 1.0
        own.target.stop()
    assert listeners(port) == 0


def test_where_the_system_cannot_steer_connections_are_relayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay alone: to the server that takes the traffic, after waiting for it, and to nobody if it has no gRPC."""

    async def check(front: GrpcFront, private: socket.socket, current: SimpleNamespace) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        front.open(port)
        assert (front.ports, front.shared, front.obstacle) == ([port], [], "not this system")
        assert await front.direct_to(None)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"sent at once")
        await asyncio.sleep(0.1)
        current.ready.set()
        accepted, _ = await asyncio.get_running_loop().sock_accept(private)
        assert await asyncio.get_running_loop().sock_recv(accepted, 100) == b"sent at once"
        accepted.send(b"answered")
        accepted.close()
        assert await reader.read() == b"answered"
        writer.close()
        current.launching.grpc_port = None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        front.close(port)
        await front.end()

    monkeypatch.setattr("orchestrator.targets.local.grpc_front.cannot_steer", lambda _: "not this system")
    with socket.create_server(("127.0.0.1", 0)) as private:
        private.settimeout(0)
        launching = SimpleNamespace(grpc_port=private.getsockname()[1])
        current = SimpleNamespace(launching=launching, ready=asyncio.Event())
        asyncio.run(check(GrpcFront(lambda: cast("Revision", current)), private, current))


def test_new_connections_go_where_they_are_steered() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with shared_listener(port) as first:
        if (reason := cannot_steer(first)) is not None:
            pytest.skip(reason)
        with pytest.raises(OSError, match="in use"):
            shared_listener(port)
        with socket.socket(first.family) as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            second.bind(first.getsockname())
            second.listen()
            second.settimeout(0)
            assert listeners(port) == 2
            for index, member in enumerate((first, second)):
                steer(first, index)
                clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
                for client in clients:
                    member.accept()[0].close()
                    client.close()
