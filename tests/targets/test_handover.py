"""mlo's own server accepts on the deployment's socket: nothing stands between, and no switch, crash or kill loses a request in vain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import helper, numpy_helper

from orchestrator.backends.table import serving_backend
from orchestrator.errors import DeployFailed
from orchestrator.targets.local.front import Front
from orchestrator.targets.local.handover import Handover
from orchestrator.targets.local.journal import Journal
from orchestrator.targets.local.target import LocalTarget
from orchestrator.targets.target import Release
from tests.server.conftest import signature, write_server
from tests.targets.conftest import StandIn

pytestmark = pytest.mark.frameworks

Eventually = Callable[[Callable[[], bool]], None]
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}).encode()
POST = b"POST /v2/models/m/infer HTTP/1.%d\r\nHost: h\r\nContent-Length: %d\r\n%b\r\n%b"


class Own:
    """A deployment of y = revision * x on mlo's own server, or on the stand-in."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder / "deployment"
        self.target = LocalTarget(self.folder)
        self.live: Release | None = None
        self._servings = folder
        self._settings = settings

    def serving(self, revision: int) -> Path:
        folder = self._servings / f"r{revision}"
        folder.mkdir()
        tensor: tuple[str, list[int | str]] = ("float32", ["batch", 1])
        found = signature({"x": tensor}, {"y": tensor}, {"batch": [1, 8]})
        weight = numpy_helper.from_array(np.array(revision, np.float32), "factor")
        node = helper.make_node("Mul", ["x", "factor"], ["y"])
        write_server(folder, [node], found, [weight], drain_seconds=20, **self._settings)
        (folder / "behaviour.json").write_text(json.dumps({"factor": revision}))
        return folder

    def start(self, revision: int, server: str = "onnxruntime") -> str:
        self._started = Release(revision, self.serving(revision), server, "m", 1, 60)
        started = self.target.start(self._started)
        assert started.url is not None
        return started.url

    def deploy(self, revision: int, server: str = "onnxruntime") -> int:
        port = int(self.target.prepare(self.live).rpartition(":")[2])
        self.start(revision, server)
        self.target.switch(revision)
        self.live = self._started
        return port

    def supervisor(self) -> psutil.Process:
        return psutil.Process(int((self.folder / "supervisor.lock").read_text()))

    def server(self) -> psutil.Process:
        pid = self.target.observe().pid
        assert pid is not None
        return psutil.Process(pid)

    def is_served_by_itself(self, port: int) -> bool:
        """Whether a connection to the port ends at the server's process."""
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            assert ask_over(client)[0] == 200
            mine = client.getsockname()[1]
            return any(each.raddr[1:] == (mine,) for each in self.server().net_connections("tcp"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    stand_in = StandIn()
    choose: Callable[[str], Any] = lambda name: stand_in if name == "stand-in" else serving_backend(name)  # noqa: E731
    monkeypatch.setattr("orchestrator.targets.local.launching.serving_backend", choose)
    deployment = Own(tmp_path)
    yield deployment
    deployment.target.stop()


def ask_over(client: socket.socket, version: int = 1, headers: bytes = b"") -> tuple[int, float, bool]:
    """Status, the model's answer, and whether the server closes the connection; an error if it does not answer."""
    client.sendall(POST % (version, len(BODY), headers, BODY))
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        assert more, "the connection was closed without an answer"
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        more = client.recv(65536)
        assert more, "the answer was cut off"
        body += more
    return int(head[9:12]), json.loads(body)["outputs"][0]["data"][0], b"connection: close" in head.lower()


def ask(port: int) -> float:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        status, answer, _ = ask_over(client)
        assert status == 200
        return answer


class Load:
    """Clients that retry nothing: kept connections, a new one for each request, and HTTP/1.0."""

    def __init__(self, port: int, each: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(3 * each)
        kinds = (self._kept, self._fresh, self._old)
        self._clients = [self._pool.submit(kind) for kind in kinds for _ in range(each)]

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=60)

    def _kept(self) -> list[float]:
        answers: list[float] = []
        client = self._connect()
        while not self._over.is_set():
            status, answer, closes = ask_over(client)
            assert status == 200
            answers.append(answer)
            if closes:
                client.close()
                client = self._connect()
        client.close()
        return answers

    def _fresh(self, version: int = 1, headers: bytes = b"Connection: close\r\n") -> list[float]:
        answers: list[float] = []
        while not self._over.is_set():
            with self._connect() as client:
                status, answer, closes = ask_over(client, version, headers)
                assert (status, closes) == (200, True)
                answers.append(answer)
        return answers

    def _old(self) -> list[float]:
        return self._fresh(0, b"")

    def end(self) -> list[list[float]]:
        """What each client was answered; its error if a request failed."""
        self._over.set()
        answers = [client.result(60) for client in self._clients]
        self._pool.shutdown()
        return answers


def test_nothing_stands_between_the_server_and_its_clients(own: Own) -> None:
    port = own.deploy(1)
    assert own.is_served_by_itself(port)
    assert ask(port) == 1.0


def test_switches_under_load_fail_no_request(own: Own) -> None:
    port = own.deploy(1)
    load = Load(port, 8)
    for revision in range(2, 5):
        own.deploy(revision)
        assert ask(port) == revision  # after the switch, no request goes to the previous one
    answers = load.end()
    assert all({2.0, 3.0} <= set(client) for client in answers)
    assert own.is_served_by_itself(port)


def test_switches_between_the_gateway_and_the_server_fail_no_request(own: Own) -> None:
    port = own.deploy(1, "stand-in")
    load = Load(port, 3)
    own.deploy(2)
    assert own.is_served_by_itself(port)
    own.deploy(3, "stand-in")
    assert ask(port) == 3.0
    assert all({2.0} <= set(client) for client in load.end())


def test_a_connection_that_is_kept_gets_one_more_answer_from_the_former(own: Own, eventually: Eventually) -> None:
    port = own.deploy(1)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        assert ask_over(client) == (200, 1.0, False)
        former = own.server()
        own.deploy(2)
        assert ask(port) == 2.0
        assert former.is_running()
        assert ask_over(client) == (200, 1.0, True)
        assert client.recv(1) == b""
    eventually(lambda: not former.is_running())
    assert "r1 | " in "\n".join(own.target.logs(200))


def test_a_candidate_takes_no_traffic_before_the_switch(own: Own) -> None:
    port = own.deploy(1)
    private = int(own.start(2).rpartition(":")[2])
    assert {ask(port) for _ in range(20)} == {1.0}
    assert ask(private) == 2.0
    own.target.drop(2)
    assert ask(port) == 1.0


def test_a_successor_that_fails_leaves_the_former_listening(own: Own) -> None:
    port = own.deploy(1)
    folder = own.serving(2)
    (folder / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(DeployFailed):
        own.target.start(Release(2, folder, "onnxruntime", "m", 1, 60))
    assert own.is_served_by_itself(port)


@pytest.mark.parametrize("guard", [False, True], ids=["server", "guard"])
def test_after_a_kill_new_requests_wait_and_the_server_listens_again(
    own: Own, eventually: Eventually, guard: bool
) -> None:
    port = own.deploy(1)
    server = own.server()
    (own.supervisor().children()[0] if guard else server).kill()
    # What a server has accepted when it is killed is lost with it, and without its guard it lives for another moment.
    eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, [port] * 8)) == {1.0}
    eventually(lambda: own.is_served_by_itself(port))
    assert own.target.observe().health == "healthy"


def test_a_server_that_does_not_come_back_is_spoken_for(own: Own) -> None:
    port = own.deploy(1)
    (own._servings / "r1" / "model.onnx").write_bytes(b"damaged")
    own.server().kill()
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v2/models/m/infer", BODY)
    answer = connection.getresponse()
    assert answer.status == 503
    assert "revision 1 is restarting: the server exited with code 66" in json.loads(answer.read())["error"]
    connection.close()


def test_a_killed_supervisor_frees_the_port_and_the_next_one_serves_there(own: Own) -> None:
    own.deploy(1)
    port = own.deploy(2)
    own.supervisor().kill()
    assert own.target.prepare(own.live) == f"http://127.0.0.1:{port}"  # at once: the orphans may not be gone yet
    assert ask(port) == 2.0
    assert own.is_served_by_itself(port)


def test_another_port_is_served_beside_the_former_one_until_the_switch(own: Own) -> None:
    former = own.deploy(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    LocalTarget(own.folder, port).prepare()
    assert own.is_served_by_itself(former)
    assert own.is_served_by_itself(port)
    own.start(2)
    own.target.switch(2)
    assert ask(port) == 2.0
    with pytest.raises(ConnectionRefusedError):
        ask(former)


def test_stop_frees_the_port_although_connections_are_kept(own: Own) -> None:
    port = own.deploy(1)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        assert ask_over(client) == (200, 1.0, False)
        own.deploy(2)  # the former waits for this client
        family = own.supervisor().children(recursive=True)
        own.target.stop()
        assert client.recv(1) == b""
    assert not any(process.is_running() for process in family)
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_new_requests_wait_for_a_server_that_is_ended_by_hand(own: Own, eventually: Eventually) -> None:
    port = own.deploy(1)
    former = own.server()
    os.kill(former.pid, signal.SIGTERM)
    assert {ask(port) for _ in range(50)} == {1.0}
    eventually(lambda: not former.is_running())
    assert ask(port) == 1.0


def test_a_server_that_confirms_late_is_asked_again(own: Own, eventually: Eventually) -> None:
    port = own.deploy(1)
    first = own.server()
    own.start(2)
    (second,) = {each for guard in own.supervisor().children() for each in guard.children()} - {first}
    second.suspend()
    try:
        own.target.switch(2)
        assert "revision 2 does not confirm that it listens" in "\n".join(own.target.logs(200))
    finally:
        second.resume()
    eventually(lambda: "the listening sockets are handed over correctly again" in "\n".join(own.target.logs(200)))
    assert all(own.is_served_by_itself(port) for _ in range(10))


def test_an_answer_to_an_older_order_does_not_count() -> None:
    async def check(listener: socket.socket) -> None:
        handover = Handover()
        with socket.socket(fileno=os.dup(handover.fd)) as server:
            handover.started()

            def answer(order: int, listening: list[int], connections: int) -> None:
                told = {"order": order, "listening": listening, "grpc": [], "connections": connections}
                server.send(json.dumps(told).encode())

            async def order(*listeners: socket.socket) -> tuple[asyncio.Task[bool], int]:
                ordered = asyncio.create_task(handover.listen_on(listeners, 30.0))
                await asyncio.sleep(0)
                message, handles, _, _ = socket.recv_fds(server, 4096, 16)
                for handle in handles:
                    os.close(handle)
                return ordered, json.loads(message)["order"]

            given, number = await order(listener)
            answer(number, [listener.getsockname()[1]], 0)
            assert await given
            taken_back, later = await order()
            assert later == number + 1
            gone = asyncio.create_task(handover.until_gone(60.0))
            answer(number, [], 0)
            await asyncio.sleep(0.05)
            assert not taken_back.done()
            assert not gone.done()
            answer(later, [], 1)
            assert await taken_back
            assert not gone.done()
            answer(later, [], 0)
            await gone
            unanswered, _ = await order()
            await handover.until_gone(0.05)  # at most
            handover.close()
            await unanswered

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(check(listener))


def test_an_error_in_the_background_is_in_the_journal_and_the_handover_is_tried_again(tmp_path: Path) -> None:
    class Failing(Front):
        attempts = 0

        async def settle(self) -> None:
            self.attempts += 1
            if self.attempts == 1:
                raise OSError(24, "Too many open files")
            await super().settle()

    async def check() -> None:
        journal = Journal(tmp_path)
        front = Failing(journal)
        front.retry()  # nothing has failed
        front.settle_soon()
        await asyncio.sleep(0.05)
        assert front.attempts == 1
        front.retry()
        await asyncio.sleep(0.05)
        front.retry()
        await asyncio.sleep(0.05)
        assert front.attempts == 2
        await front.close()
        journal.close()

    asyncio.run(check())
    failed, mended = (tmp_path / "serving.log").read_text().splitlines()
    assert "the listening sockets cannot be handed over: OSError(24, 'Too many open files')" in failed
    assert "the listening sockets are handed over correctly again" in mended
