"""What the load generator reaches by itself: the same requests, sent to a server that answers each at once.

Nothing is subtracted from what is measured. A server's throughput is only reported where the generator reaches clearly more.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.artifacts.server_report import GeneratorLimit
from orchestrator.machine.cpus import CpuShare
from orchestrator.measure.session import MeasuredProcess
from orchestrator.spec.types import Wire
from orchestrator.steps.server_options import ServerTls

__all__ = ["generator_limit", "may_limit"]

_SECONDS, _ANSWERS, _AT_MOST = 0.3, 50, 10.0
_TIMEOUT = 10.0

_CLEARLY_MORE = 1.5
"""A generator that reaches this many times a server's throughput does not limit it: it leaves it a third of the time."""


def generator_limit(
    generator: MeasuredProcess,
    share: CpuShare,
    folder: Path,
    *,
    wire: Wire,
    connections: int,
    answer_bytes: int,
    tls: ServerTls | None = None,
) -> GeneratorLimit | None:
    """Measure the generator, which has the requests already; None if it got no answer.

    Args:
        generator: idle.
        share: the CPUs of the server that it will load.
        folder: a new one, for the log of the server that answers at once.
        wire: whose requests are sent.
        connections: that are kept busy.
        answer_bytes: the size of an answer of the server that it will load.
        tls: the certificate, if it sends over TLS.

    Raises:
        MeasureError: either process failed.
    """
    with MeasuredProcess("orchestrator.measure.canned_server", share, memory=None, folder=folder) as server:
        port = server.ask(
            {"do": "listen", "answer_bytes": answer_bytes, "tls": None if tls is None else [tls.certificate, tls.key]},
            _TIMEOUT,
        )["port"]
        command = {
            "do": "saturate",
            "wire": wire,
            "port": port,
            "timeout": _TIMEOUT,
            "connections": connections,
            "seconds": _SECONDS,
            "answers": _ANSWERS,
            "at_most": _AT_MOST,
        }
        reply = generator.ask(command, _AT_MOST + 2 * _TIMEOUT)
    if not reply["answered"]:
        return None
    return GeneratorLimit(
        connections=connections,
        requests_per_second=reply["answered"] / reply["seconds"],
        cpu_seconds_per_request=reply["generator_cpu_seconds"] / len(reply["latencies"]),
    )


def may_limit(limit: GeneratorLimit | None, requests_per_second: float) -> bool:
    """Whether the generator may be what limits this throughput; unknown counts as yes."""
    return limit is None or limit.requests_per_second < _CLEARLY_MORE * requests_per_second
