"""A port on loopback whose connections reach a pod through the cluster's API, as `kubectl port-forward` does."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, MloError
from orchestrator.targets.kubernetes.connection import Cluster

__all__ = ["Relay"]

_LOOPBACK = "127.0.0.1"
_BUFFER = 1 << 16


class Relay:
    """Listens on a free port of loopback until `close`; each connection is a connection to a pod.

    Args:
        cluster: whose API takes the connections there.
        namespace: of the pods.
        pod: the name of the pod for the next connection.
        port: of the pod.
    """

    def __init__(self, cluster: Cluster, namespace: str, pod: Callable[[], str], port: int) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._pod = pod
        self._port = port
        self._listening = socket.create_server((_LOOPBACK, 0), backlog=64)
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{_LOOPBACK}:{self._listening.getsockname()[1]}"

    def check(self) -> None:
        """Connect to a pod once.

        Raises:
            DeployFailed: E666 the cluster does not forward connections to it.
        """
        try:
            _, forward = self._connect()
        except MloError:
            raise
        except Exception as error:  # the package raises what its many parts raise
            raise DeployFailed(
                Diagnostic(
                    "E666",
                    f"the cluster forwards no connections to pod {self._pod()}",
                    cause=_said(error),
                    remedy=f"`kubectl port-forward -n {self._namespace} pod/{self._pod()} {self._port}` has to work: the API server"
                    " must reach the kubelets, and you may need the right `create pods/portforward`",
                )
            ) from error
        forward.close()

    def close(self) -> None:
        """Take no more connections."""
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
                far, forward = self._connect()
            except Exception:  # noqa: BLE001 - the package raises what its many parts raise; the client names what it sees
                return
            try:
                back = threading.Thread(target=_copy, args=(far, client), name="answer", daemon=True)
                back.start()
                _copy(client, far, half=True)
                back.join()
            finally:
                forward.close()

    def _connect(self) -> tuple[socket.socket, Any]:
        from kubernetes.client import CoreV1Api  # noqa: PLC0415 - an extra
        from kubernetes.stream import portforward  # noqa: PLC0415

        # The package swaps a method of the client while it connects, so each connection has a client of its own.
        api = CoreV1Api(Cluster(self._cluster.context).client)
        forward = portforward(
            api.connect_get_namespaced_pod_portforward, self._pod(), self._namespace, ports=str(self._port)
        )
        far = forward.socket(self._port)
        far.settimeout(None)  # the package leaves it non-blocking
        return far, forward


def _said(error: Exception) -> str:
    """The cluster's own message, which the package wraps in the whole answer."""
    text = " ".join(str(getattr(error, "reason", None) or error).split())
    found = re.search(r'"message":"((?:[^"\\]|\\.)*)"', text)
    return found[1].replace('\\"', '"') if found else text


def _copy(source: socket.socket, sink: socket.socket, *, half: bool = False) -> None:
    """Copy until the source ends.

    Args:
        source: is read.
        sink: is written.
        half: whether the end of the source ends nothing else: a port-forward cannot close one direction alone.
    """
    with contextlib.suppress(OSError):  # the other side is gone, and with it the connection
        while data := source.recv(_BUFFER):
            sink.sendall(data)
    if not half:
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
