"""A lightweight client: keeps requests in flight on several connections, and prints its measurements as JSON.

python load.py PORT CONNECTIONS SECONDS REQUEST_FILE SERVER_PID

REQUEST_FILE contains one complete HTTP request. The first second is not counted.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from pathlib import Path

import psutil

WARM_UP_S = 1.0


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children, exact: `psutil` counts in ticks of 10 ms."""
    total = 0.0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return total


def main() -> None:
    port, connections, seconds, file, pid = sys.argv[1:]
    request = Path(file).read_bytes()
    selector = selectors.EpollSelector()
    sockets: list[socket.socket] = []
    for _ in range(int(connections)):
        connection = socket.create_connection(("127.0.0.1", int(port)), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        sockets.append(connection)
    sent: dict[socket.socket, float] = {}
    for connection in sockets:
        sent[connection] = time.perf_counter()
        connection.sendall(request)
    latencies: list[float] = []
    counting_from = time.perf_counter() + WARM_UP_S
    end = counting_from + float(seconds)
    server_cpu = own_cpu = began = 0.0
    now = time.perf_counter()
    while now < end:
        if not began and now >= counting_from:
            latencies.clear()
            began, server_cpu, own_cpu = now, cpu_seconds(int(pid)), time.process_time()
        # With one connection, no selector is needed.
        ready = sockets if len(sockets) == 1 else [key.fileobj for key, _ in selector.select(30)]
        for connection in ready:
            data = connection.recv(262144)
            if not data.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not answered: {data[:500]!r}")
            head = data.index(b"\r\n\r\n") + 4
            lower = data[:head].lower()
            length = int(lower[lower.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
            missing = head + length - len(data)
            while missing > 0:
                missing -= len(connection.recv(262144))
            now = time.perf_counter()
            latencies.append(now - sent[connection])
            sent[connection] = now
            connection.sendall(request)
    elapsed = time.perf_counter() - began
    latencies.sort()
    count = len(latencies)
    print(
        json.dumps(
            {
                "requests_per_s": count / elapsed,
                "p50_ms": latencies[count // 2] * 1e3,
                "p99_ms": latencies[int(count * 0.99)] * 1e3,
                "server_cpu_us": (cpu_seconds(int(pid)) - server_cpu) / count * 1e6,
                "client_cpu_us": (time.process_time() - own_cpu) / count * 1e6,
                "busy": (cpu_seconds(int(pid)) - server_cpu + time.process_time() - own_cpu) / elapsed,
            }
        )
    )


main()
