"""Listening sockets come over an inherited socket, and go again, without a lost request."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Running, Start, add_model, ends, launch

pytestmark = pytest.mark.frameworks


class Holder:
    """Who holds the sockets, with the server that they are handed to."""

    def __init__(self, config: Path) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(30)
        self._orders = 0
        argv = [
            sys.executable,
            "-m",
            "orchestrator.server",
            "--config",
            str(config),
            "--handover",
            str(theirs.fileno()),
        ]
        self.server: Running = launch(argv, pass_fds=(theirs.fileno(),))
        theirs.close()
        self.server.wait_ready()

    def order(self, *listeners: socket.socket, idle_seconds: float = 30.0) -> Any:
        """Send an order; its answer without the number, which is the order's."""
        self._orders += 1
        order = {"order": self._orders, "idle_seconds": idle_seconds, "grpc": [], "last": False}
        message = json.dumps(order).encode()
        socket.send_fds(self.channel, [message], [listener.fileno() for listener in listeners])
        return self.hear()

    def hear(self) -> Any:
        answer = json.loads(self.channel.recv(65536))
        assert answer.pop("order") == self._orders
        assert answer.pop("grpc") == []
        return answer


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    made = Holder(add_model(tmp_path, drain_seconds=3600))
    yield made
    if made.server.process.poll() is None:
        made.server.process.kill()
    made.server.wait_end()
    made.channel.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def _connect(listener: socket.socket) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=30)


def _get(connection: http.client.HTTPConnection) -> str | None:
    """The header `Connection` of an answer."""
    connection.request("GET", "/v2/health/live")
    with connection.getresponse() as answer:
        assert answer.read() == b'{"live":true}'
        return answer.getheader("connection")


def test_it_listens_on_what_is_handed_over_and_on_its_own_port(holder: Holder, listener: socket.socket) -> None:
    early = _connect(listener)
    early.connect()  # before the server listens: the kernel queues it
    port = listener.getsockname()[1]
    assert holder.order(listener) == {"listening": [port], "connections": 0}
    assert _get(early) is None
    early.close()
    assert holder.server.ask("GET", "/v2/health/ready").status == 200


def test_connections_of_a_socket_that_is_taken_back_end_with_the_next_answer_and_the_queue_is_not_lost(
    holder: Holder, listener: socket.socket
) -> None:
    holder.order(listener)
    kept = _connect(listener)
    assert _get(kept) is None
    assert holder.order() == {"listening": [], "connections": 1}
    late = _connect(listener)
    late.connect()
    assert _get(kept) == "close"
    assert holder.hear() == {"listening": [], "connections": 0}
    holder.order(listener)
    assert _get(late) is None
    late.close()
    kept.close()


@pytest.mark.parametrize("idle_seconds", [0.0, 0.3])
def test_what_stays_idle_is_closed(holder: Holder, listener: socket.socket, idle_seconds: float) -> None:
    holder.order(listener)
    kept = _connect(listener)
    _get(kept)
    assert holder.order(idle_seconds=idle_seconds)["listening"] == []
    assert kept.sock.recv(1) == b""
    kept.close()


def test_each_order_names_all_sockets(holder: Holder, listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [each.getsockname()[1] for each in (listener, other)]
        assert holder.order(listener)["listening"] == ports[:1]
        assert holder.order(listener, other)["listening"] == sorted(ports)
        assert holder.order(other)["listening"] == ports[1:]
        connection = _connect(other)
        _get(connection)
        connection.close()


def test_one_that_cannot_be_listened_on_costs_that_order_only(holder: Holder, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong, socket.create_server(("127.0.0.1", 0)) as other:
        wrong.bind(("127.0.0.1", 0))
        assert holder.order(wrong, other) == {"listening": [], "connections": 0}
        address = other.getsockname()
        other.close()
        with pytest.raises(ConnectionRefusedError):  # the server has not kept it open either
            socket.create_connection(address, timeout=30)
    assert holder.order(listener) == {"listening": [port], "connections": 0}
    connection = _connect(listener)
    assert _get(connection) is None
    connection.close()


def test_on_sigterm_it_does_not_wait_for_others_to_route_around_it(holder: Holder, listener: socket.socket) -> None:
    holder.order(listener)
    assert holder.server.stop() == 0  # drain_seconds is an hour


def test_it_continues_when_the_other_end_is_closed(holder: Holder, listener: socket.socket) -> None:
    holder.order(listener)
    holder.channel.close()
    connection = _connect(listener)
    assert _get(connection) is None
    connection.close()


def test_a_handle_that_is_not_a_socket_ends_the_server_with_69(tmp_path: Path, start: Start) -> None:
    code, message = ends(start, add_model(tmp_path), "--handover", "999")
    assert code == 69
    assert message == "--handover 999: Bad file descriptor"


def test_the_help_names_the_option() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "orchestrator.server", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--handover FD" in text
