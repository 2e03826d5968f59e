"""A port on loopback whose connections reach a pod through the cluster's API, as `kubectl port-forward` does."""

from __future__ import annotations

import contextlib
import itertools
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, MloError
from orchestrator.targets.kubernetes.connection import Cluster
from orchestrator.targets.kubernetes.objects import namespaced

__all__ = ["Relay", "in_turn"]

_LOOPBACK = "127.0.0.1"
_BUFFER = 1 << 16
_CONNECTING = 15.0
"""Seconds until a connection to a pod is there, or has been lost, whatever number of tries: fewer than a client waits for its answer."""
_AGAIN = (0.5, 1.0, 2.0)
"""Seconds before each further try of a connection that the cluster does not forward."""
_ENDING = 5.0
"""Seconds for which the end of a connection in one direction is waited for in the other one."""
_DATA = b"\x00"
_BINARY, _CLOSE = 2, 8
"""Kinds of messages of RFC 6455."""


class Relay:
    """Listens on a free port of loopback until `close`; each connection is a connection to a pod.

    Args:
        cluster: whose API takes the connections there.
        namespace: of the pods.
        pod: the name of the pod for the next connection.
        port: of the pod.
        tls: whether the pod takes requests over TLS.
    """

    def __init__(
        self, cluster: Cluster, namespace: str, pod: Callable[[], str], port: int, *, tls: bool = False
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._pod = pod
        self._port = port
        self._tls = tls
        self._closed = False
        self.lost = 0
        """How many connections the cluster has not forwarded, or has broken off while both ends wanted to go on."""
        self._counting = threading.Lock()
        self._listening = socket.create_server((_LOOPBACK, 0), backlog=64)
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http{'s' if self._tls else ''}://{_LOOPBACK}:{self._listening.getsockname()[1]}"

    def check(self) -> None:
        """Connect to a pod, after several tries if need be.

        Raises:
            DeployFailed: E666 the cluster does not forward connections to it.
        """
        try:
            far = self._connected()
        except MloError:
            raise
        except Exception as error:  # the packages raise what their many parts raise
            raise DeployFailed(
                Diagnostic(
                    "E666",
                    f"the cluster forwards no connections to pod {self._pod()}",
                    cause=_said(error),
                    remedy=f"`kubectl port-forward -n {self._namespace} pod/{self._pod()} {self._port}` has to work: the API server"
                    " must reach the kubelets, and you may need the right `create pods/portforward`",
                )
            ) from error
        far.shutdown()

    def close(self) -> None:
        """Take no more connections."""
        self._closed = True
        with contextlib.suppress(OSError):  # not connected, which is what is wanted: it wakes the thread
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), name="relayed", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection. Where the pod cannot be reached, the client sees a connection that is closed without an answer."""
        with client:
            try:
                far = self._connected()
            except Exception:  # noqa: BLE001 - the packages raise what their many parts raise; the client names what it sees
                self._note_lost()
                return
            below, ended = far.sock, threading.Event()  # the package forgets the former once it is broken off

            def answers() -> None:
                if _answers(far, client) and not ended.is_set():
                    self._note_lost()
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

            back = threading.Thread(target=answers, name="answers", daemon=True)
            back.start()
            try:
                with contextlib.suppress(OSError):  # the client is gone, and with it the connection
                    while data := client.recv(_BUFFER):
                        try:
                            far.send_binary(_DATA + data)
                        except (OSError, _websocket_error()):
                            back.join(_ENDING)  # it sees the end too, and whether the pod has said farewell before
                            break
            finally:
                ended.set()
                with contextlib.suppress(OSError):
                    below.shutdown(socket.SHUT_RDWR)  # wakes the other thread
                back.join()
                far.shutdown()

    def _connected(self) -> Any:
        """A connection to a pod. One that the cluster does not forward is tried again, of which the client notices nothing."""
        until, pauses = time.monotonic() + _CONNECTING, iter(_AGAIN)
        while True:
            try:
                return self._connect(max(0.0, until - time.monotonic()))
            except Exception:
                pause = next(pauses, None)
                if pause is None or self._closed or time.monotonic() + pause > until:
                    raise
                time.sleep(pause)

    def _note_lost(self) -> None:
        with self._counting:
            self.lost += 1

    def _connect(self, seconds: float) -> Any:
        """A websocket to the pod's port, as the API has it: each message begins with its channel, data has the first one."""
        from kubernetes.stream.ws_client import create_websocket, get_websocket_url  # noqa: PLC0415 - an extra

        client = self._cluster.client
        path = namespaced("v1", self._namespace, "pods", self._pod()) + "/portforward"
        _, url, headers, *_ = client.param_serialize(
            method="GET", resource_path=path, header_params={}, auth_settings=["BearerToken"]
        )
        where = get_websocket_url(url, [("ports", str(self._port))])
        return _within(seconds, lambda: create_websocket(client.configuration, where, headers))


def in_turn(pods: Callable[[], Sequence[str] | None]) -> Callable[[], str]:
    """Another one of those pods for each connection; no name where there are none."""
    turn = itertools.count()

    def pod() -> str:
        found = pods()
        return found[next(turn) % len(found)] if found else ""

    return pod


def _within(seconds: float, connect: Callable[[], Any]) -> Any:
    """A websocket, which the package opens without any limit of time.

    Raises:
        TimeoutError: the API server takes the connection and does not answer.
    """
    opened: queue.Queue[Any] = queue.Queue()
    late = threading.Event()

    def work() -> None:
        try:
            far = connect()
        except Exception as error:  # noqa: BLE001 - raised below
            opened.put(error)
            return
        opened.put(far)
        if late.is_set():
            far.shutdown()

    threading.Thread(target=work, name="connecting", daemon=True).start()
    try:
        found = opened.get(timeout=seconds)
    except queue.Empty:
        late.set()
        raise TimeoutError(f"the API server has not answered within {_CONNECTING:g} s") from None
    if isinstance(found, Exception):
        raise found
    return found


def _answers(far: Any, client: socket.socket) -> bool:
    """Copy what comes back until either side ends; whether the cluster has broken it off without a farewell.

    The first message of each channel only repeats the port.
    """
    begun: set[int] = set()
    while True:
        try:
            kind, frame = far.recv_data_frame(control_frame=True)
        except (OSError, _websocket_error()):
            return True
        if kind == _CLOSE:
            return False
        if kind != _BINARY or not frame.data:
            continue
        channel = frame.data[0]
        if channel not in begun:
            begun.add(channel)
        elif frame.data[:1] != _DATA:  # the pod refused the connection
            return False
        else:
            try:
                client.sendall(frame.data[1:])
            except OSError:  # the client is gone
                return False


def _websocket_error() -> type[Exception]:
    from websocket import WebSocketException  # noqa: PLC0415 - of the extra

    return WebSocketException


def _said(error: Exception) -> str:
    """The cluster's own message, which the package wraps in the whole answer."""
    text = " ".join(str(getattr(error, "reason", None) or error).split())
    found = re.search(r'"message":"((?:[^"\\]|\\.)*)"', text)
    return found[1].replace('\\"', '"') if found else text
