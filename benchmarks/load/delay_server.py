"""An HTTP server whose delays are known: `python delay_server.py KIND SEED`; prints its port.

It answers each request, however many there are, after a time that is drawn for it: `fixed` 10 ms, `exponential` with a mean of
10 ms, `stalls` 10 ms, but the whole server stands still for 0.2 s at every 500th request. `delays` draws the same numbers.

It never sleeps but for the stalls: a timer of a virtual machine is often milliseconds late, which would be added to the known
delays. So it keeps one CPU busy.
"""

from __future__ import annotations

import heapq
import itertools
import random
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the scripts of this folder are no package

from orchestrator.measure.canned_server import canned_answer  # noqa: E402

KINDS = ("fixed", "exponential", "stalls")
STALL_EVERY, STALL_SECONDS = 500, 0.2
HEAD_END = b"\r\n\r\n"


def delays(kind: str, seed: int) -> Iterator[float]:
    """Seconds, one after the other, without end; not the stalls."""
    draw = random.Random(seed)
    while True:
        yield {"fixed": 0.010, "exponential": draw.expovariate(1 / 0.010), "stalls": 0.010}[kind]


def serve(kind: str, seed: int) -> None:
    answer, drawn = canned_answer(200), delays(kind, seed)
    clients: dict[int, socket.socket] = {}
    due: list[tuple[float, int]] = []
    number = itertools.count(1)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, select.epoll() as epoll:
        print(listener.getsockname()[1], flush=True)
        epoll.register(listener.fileno(), select.EPOLLIN)
        while True:
            for file, _ in epoll.poll(0):
                if file == listener.fileno():
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    clients[connection.fileno()] = connection
                    epoll.register(connection.fileno(), select.EPOLLIN)
                elif not clients[file].recv(65536):  # a request comes in one piece
                    clients.pop(file).close()
                else:
                    heapq.heappush(due, (time.perf_counter() + next(drawn), file))
                    if kind == "stalls" and next(number) % STALL_EVERY == 0:
                        time.sleep(STALL_SECONDS)
            while due and due[0][0] <= time.perf_counter():
                _, file = heapq.heappop(due)
                if file in clients:
                    clients[file].send(answer)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
