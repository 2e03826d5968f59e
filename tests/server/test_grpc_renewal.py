"""A certificate that is renewed again and again in the middle of handshakes: the server of gRPC outlives it."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.certificates import certificate

pytestmark = [pytest.mark.frameworks, pytest.mark.e2e, pytest.mark.timeout(120)]

_SERVER = """
import asyncio, sys, threading
from pathlib import Path
from types import SimpleNamespace
import grpc.aio
from orchestrator.server.grpc_service import _credentials

async def main(folder):
    pairs = {name: [(folder / f"{name}.{end}").read_bytes() for end in ("crt", "key")] for name in ("one", "two")}
    files = SimpleNamespace(contents=pairs["one"])
    wanted = []  # the name that was read last; until then, either in turns

    def read():
        for line in sys.stdin:
            wanted[:] = [line.strip()]

    threading.Thread(target=read, daemon=True).start()
    server = grpc.aio.server()
    print(server.add_secure_port("127.0.0.1:0", _credentials(files)), flush=True)
    await server.start()
    for turn in range(10**9):
        await asyncio.sleep(0.0005)
        name = wanted[0] if wanted else ("one", "two")[turn % 2]
        if not wanted or files.contents != pairs[name]:
            files.contents = list(pairs[name])

asyncio.run(main(Path(sys.argv[1])))
"""

_CLIENT = """
import socket, sys, threading

def shake_hands(port):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()  # the server has begun a handshake by then
        except OSError:
            pass

for _ in range(16):
    threading.Thread(target=shake_hands, args=(int(sys.argv[1]),), daemon=True).start()
threading.Event().wait()
"""


def test_a_server_outlives_certificates_that_change_while_many_clients_shake_hands(tmp_path: Path) -> None:
    """Where gRPC got a new one at once, the process died of it (github.com/grpc/grpc/issues/36693)."""
    pytest.importorskip("grpc")
    for name in ("one", "two"):
        certificate(tmp_path, name)
    python = [sys.executable, "-c"]
    with subprocess.Popen(
        [*python, _SERVER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        clients = [subprocess.Popen([*python, _CLIENT, str(port)], text=True) for _ in range(3)]
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                assert server.poll() is None, f"it ended with {server.returncode}"
                time.sleep(0.2)
            for client in clients:
                client.kill()
            for name in ("one", "two"):
                print(name, file=server.stdin, flush=True)
                wanted = (tmp_path / f"{name}.crt").read_text().strip()
                deadline, shown = time.monotonic() + 30, ""
                while shown != wanted and time.monotonic() < deadline:
                    with suppress(OSError):  # those that the clients have begun come first
                        shown = ssl.get_server_certificate(("127.0.0.1", port), timeout=10).strip()
                assert shown == wanted, f"it shows the certificate {name}"
        finally:
            for process in (*clients, server):
                process.kill()
            for client in clients:
                client.wait()
    assert server.returncode == -signal.SIGKILL
