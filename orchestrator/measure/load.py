"""The load generator, a separate process: `python -m orchestrator.measure.load COMMANDS REPLIES`.

It reads lines of JSON from one descriptor and writes one reply each to the other; the parent's side is
`orchestrator.measure.session`.

    {"do": "open", "wire": "json", "requests": [PATH, ...], "limit": 256, "tls": {"pem": null, "pinned": false}}
        → {"requests": n}; what is sent in turn over a wire: whole HTTP requests, or for the wire `grpc` messages of `ModelInfer`;
          the maximum of connections in an open loop; once for each wire. `tls` is null (the default) for plain TCP, "started
          here" for a server whose certificate nobody has to verify, or says what the certificate must be (`certificate.Trust`)
    {"do": "schedule", "wire": "json", "port": 8080, "timeout": 10.0, "rate": 200.0, "requests": 350, "seed": 1}
        → open loop: Poisson arrivals at the rate, independent of answers
    {"do": "saturate", "wire": "json", "port": 8080, "timeout": 10.0, "connections": 32, "seconds": 0.5, "answers": 64,
     "at_most": 20.0}
        → closed loop: each connection sends its next request when the previous one is answered; until at least so many
          seconds have passed and so many answers have come, but not longer than `at_most`

The server is on this machine, or at "host". Both reply with {"latencies": [s, ...], "sent": [s, ...], "delays": [s, ...], "refused": {TEXT: count}, "errors": {TEXT: count},
"seconds": s, "answered": n, "generator_cpu_seconds": s}. The latency of a scheduled request counts from the time at which it was
*scheduled*, not from when it was sent: if a server stalls, all waiting requests count (this avoids "coordinated omission";
MLPerf's loadgen does the same). `delays` are how late the generator itself sent the requests, and `sent` are the latencies
without these delays. A request has no latency if the server was too busy (`refused`: status 429 or 503, or no answer in time)
or if it failed (`errors`: anything else). `seconds` of a schedule end with the last answer; those of a closed loop are the
time in which the `answered` requests were (see `load_loops.steady`).
"""

from __future__ import annotations

import gc
import json
import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.measure.certificate import STARTED_HERE, Trust, client_context, trusting_context
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.load_connections import LOOPBACK, Address, Connect, Connection, Endpoint
from orchestrator.measure.load_loops import arrivals, saturate, send_on_schedule
from orchestrator.steps.context import Ending
from orchestrator.steps.failures import unexpected

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Answer commands until there are no more."""
    opened: dict[str, _Opened] = {}
    gc.disable()  # a collection in the middle of a segment would be measured
    with (
        os.fdopen(int(argv[0]), encoding="utf-8") as commands,
        os.fdopen(int(argv[1]), "w", encoding="utf-8") as replies,
    ):
        for line in commands:
            command = json.loads(line)
            try:
                if command["do"] == "open":
                    requests = opened[command["wire"]] = _open(command)
                    reply: dict[str, Any] = {"requests": len(requests.requests)}
                else:
                    reply = _load(command, opened[command["wire"]])
            except (OSError, KeyError, ValueError) as error:
                reply = {"error": MeasureError(Ending.EXCEPTION, unexpected(error)).as_json()}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
            gc.collect()
    return 0


class _Opened(NamedTuple):
    requests: tuple[bytes, ...]
    limit: int
    context: ssl.SSLContext | None


def _open(command: Mapping[str, Any]) -> _Opened:
    requests = tuple(Path(path).read_bytes() for path in command["requests"])
    if not requests:
        raise ValueError("there is no request to send")
    protocol, tls = "h2" if command["wire"] == "grpc" else "http/1.1", command.get("tls")
    context = None
    if tls == STARTED_HERE:
        context = client_context(protocol)
    elif tls is not None:
        context = trusting_context(Trust(**tls), protocol)
    return _Opened(requests, command["limit"], context)


def _load(command: Mapping[str, Any], opened: _Opened) -> dict[str, Any]:
    connect: Connect = Connection
    if command["wire"] == "grpc":
        from orchestrator.measure.grpc_connections import GrpcConnection  # noqa: PLC0415 - h2 is only needed for gRPC

        connect = GrpcConnection
    address = Address.find(command.get("host", LOOPBACK), command["port"])
    endpoint = Endpoint(address, opened.requests, opened.limit, command["timeout"], connect, opened.context)
    if command["do"] == "schedule":
        return send_on_schedule(endpoint, arrivals(command["rate"], command["requests"], command["seed"]))
    limits = {name: command[name] for name in ("seconds", "answers", "at_most")}
    return saturate(endpoint, command["connections"], **limits)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
