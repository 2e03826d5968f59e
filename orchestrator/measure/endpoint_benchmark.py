"""Loads servers that run anyway, wherever they are, and compares two of them: what `mlo benchmark` does.

The load is that of `benchmark.server`: an open loop on a schedule and a closed loop, in interleaved rounds, from the same generator.
What only a server shows that was started here (its memory, its CPU time, how it starts) is not known.
"""

from __future__ import annotations

import http.client
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import SplitResult

from orchestrator.artifacts.measurement import NotMeasured
from orchestrator.artifacts.server_report import (
    GeneratorLimit,
    Knee,
    MeasuredLevel,
    OpenLoop,
    Saturation,
    WireResult,
)
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import MloError
from orchestrator.machine.cpus import cpu_share, usable_cpus
from orchestrator.measure.certificate import Trust, trusting_context
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.generator_limit import generator_limit
from orchestrator.measure.knee import find_knees
from orchestrator.measure.open_inference import PORTS
from orchestrator.measure.requests import Encode, encoded_request, open_requests
from orchestrator.measure.server_report import knee_of, level_of, open_loop_of, saturation_of
from orchestrator.measure.server_rounds import LoadedServer, LoadSettings, Segment, load_in_rounds, probe, warm_up
from orchestrator.measure.session import MeasuredProcess
from orchestrator.measure.statistics import FEWEST_ROUNDS, TAIL, Comparison, compare_rounds, tail_is_slower
from orchestrator.spec.types import HttpWire, Wire

__all__ = ["Compared", "Decode", "EndpointLoad", "EndpointResult", "RunningEndpoint", "benchmark_endpoints"]

_ROUNDS = 2 * FEWEST_ROUNDS
_FIRST_TIMEOUT = 60.0
_EXCERPT = 200
_LONGER = "measure longer with --duration"

Decode = Callable[[bytes, Mapping[str, str]], Mapping[str, Any]]
"""As `ServingBackend.decode` for the model's signature."""


@dataclass(frozen=True, slots=True)
class RunningEndpoint:
    """A model that a server serves.

    Attributes:
        label: what it is called in the report.
        url: of the server.
        path: of inference requests.
        model: its name on the wire.
        encode: makes body and headers of inputs, in the protocol that the server speaks.
        decode: makes the outputs of body and headers of an answer, the latter in lower case; raises ValueError.
        wires: in which forms a request may be sent; the fastest is used.
        inputs: of requests, each by name.
        headers: of requests, such as one with a token.
        trust: which certificate it must have; None for plain HTTP.
    """

    label: str
    url: SplitResult
    path: str
    model: str
    encode: Encode
    decode: Decode
    wires: tuple[HttpWire, ...]
    inputs: Sequence[Mapping[str, Any]]
    headers: Mapping[str, str]
    trust: Trust | None

    @property
    def host(self) -> str:
        """Where it listens."""
        assert self.url.hostname is not None, "a URL that was checked has a host"
        return self.url.hostname

    @property
    def port(self) -> int:
        """The same."""
        return self.url.port or PORTS[self.url.scheme]

    @property
    def grpc_port(self) -> int:
        """None: it is loaded over HTTP."""
        return 0

    @property
    def peak(self) -> int:
        """Not known."""
        return 0

    def cpu_seconds(self) -> float:
        """Not known."""
        return 0.0

    def check(self) -> None:
        """Whether it runs is seen by its answers."""


@dataclass(frozen=True, slots=True)
class EndpointLoad:
    """How endpoints are loaded.

    Attributes:
        seconds: that all of it may take, for each endpoint.
        rate: requests per second of the open loop; None: half of what the slower endpoint reaches, at most 100.
        connections: of the closed loop.
        p99_limit: seconds, to be tested and to find the largest rate that holds it; None for no limit.
    """

    seconds: float
    rate: float | None
    connections: int
    p99_limit: float | None


@dataclass(frozen=True, slots=True)
class EndpointResult:
    """What was measured of one endpoint.

    Attributes:
        wire: the form of the requests that were sent.
        request_bytes, answer_bytes: of one request and its answer, without their headers.
        refused: scheduled requests that it refused as too busy, by reason.
        generator: what the load generator reaches by itself.
    """

    label: str
    wire: str
    request_bytes: int
    answer_bytes: int
    call: float
    connections: int
    open_loop: OpenLoop | NotMeasured
    saturation: Saturation | NotMeasured
    level: MeasuredLevel
    knee: Knee | NotMeasured | None
    refused: Mapping[str, int]
    generator: GeneratorLimit | None


@dataclass(frozen=True, slots=True)
class Compared:
    """The second endpoint against the first.

    Attributes:
        latency: the median of a scheduled request, second to first; None if in some round most requests were refused.
        throughput: the time per request at saturation, second to first: below 1 it answers more.
        slower_tail: which of them has the slower slowest answers, beyond doubt: 1, 2, 0 if they cannot be told apart, or None if
            there were too few.
    """

    latency: Comparison | None
    throughput: Comparison | None
    slower_tail: int | None


def benchmark_endpoints(
    endpoints: Sequence[RunningEndpoint],
    load: EndpointLoad,
    progress: Callable[[str, float | None], None],
) -> tuple[list[EndpointResult], Compared | None, float]:
    """Measure one endpoint, or two in turns.

    Args:
        endpoints: one or two.
        load: how they are loaded.
        progress: called with what is being done, and how much of it is.

    Returns:
        One result for each, the comparison of two, and the rate of the open loop.

    Raises:
        MloError: E680 an endpoint does not answer, answers with an error, or failed under load.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlo-benchmark-")))
        settings = LoadSettings(
            rate=load.rate,
            p99_limit=None,  # both are measured for the same time, whatever is proven meanwhile
            deadline=time.monotonic() + load.seconds * len(endpoints),
            samples_without_limit=400 if load.p99_limit is None else 1400,
            rounds=_ROUNDS,
            connections=load.connections,
            saturated_seconds=max(2.0, load.seconds / 6),
        )
        loaded = [
            _opened(endpoint, settings, folder / str(number), stack, len(endpoints))
            for number, endpoint in enumerate(endpoints)
        ]
        for number, each in enumerate(loaded):
            progress(f"warming up {each.candidate}", 0.1 * number)
            warm_up(each, settings, len(loaded))
            _check(each)
        rate = load_in_rounds(loaded, settings, progress)
        for each in loaded:
            _check(each)
        limited = replace(settings, p99_limit=load.p99_limit)
        find_knees(loaded, limited, rate, progress)
        results = [_result(each, limited, rate) for each in loaded]
        compared = _compared(loaded[0], loaded[1]) if len(loaded) > 1 else None
    return results, compared, rate


def _opened(
    endpoint: RunningEndpoint, settings: LoadSettings, folder: Path, stack: ExitStack, servers: int
) -> LoadedServer:
    """An endpoint that answers, with its load generator."""
    folder.mkdir()
    share = cpu_share(usable_cpus())
    tried = _tried(endpoint)
    generator = MeasuredProcess("orchestrator.measure.load", share, memory=None, folder=folder / "load")
    stack.enter_context(generator)
    loaded = LoadedServer(endpoint.label, endpoint, generator, tried, next(iter(tried)), tuple(tried))
    try:
        for wire in tried:
            requests = [
                encoded_request(
                    endpoint.encode, endpoint.path, inputs, wire, endpoint.model, endpoint.headers, endpoint.url.netloc
                )
                for inputs in endpoint.inputs
            ]
            open_requests(generator, folder, wire, requests, endpoint.trust)
        probe(loaded, settings, servers)
        _check(loaded)
        size = loaded.wires[loaded.wire].answer_bytes
        if (
            endpoint.trust is None and size is not None
        ):  # the server that answers at once has no certificate that is trusted
            loaded.generator = generator_limit(
                generator,
                share,
                folder / "canned",
                wire=loaded.wire,
                connections=loaded.connections,
                answer_bytes=size,
            )
    except MeasureError as error:
        raise _failed(loaded.candidate, error.diagnostic.sentence) from error
    return loaded


def _tried(endpoint: RunningEndpoint) -> dict[Wire, WireResult]:
    """The forms of requests that the endpoint answers, each tried with one."""
    tried: dict[Wire, WireResult] = {}
    refusal: MloError | None = None
    for wire in endpoint.wires:
        body, headers = endpoint.encode(endpoint.inputs[0], wire)
        try:
            size = _first_answer(endpoint, body, headers)
        except MloError as error:
            refusal = refusal or error
            continue
        tried[wire] = WireResult(
            wire=wire,
            request_bytes=len(body),
            answer_bytes=size,
            call=None,
            model=None,
            connections=None,
            rows_per_second=None,
            refused="",
        )
    if not tried and refusal is not None:
        raise refusal
    return tried


def _first_answer(endpoint: RunningEndpoint, body: bytes, headers: Mapping[str, str]) -> int:
    """The bytes of the answer to one request.

    Raises:
        MloError: E680, there is no good answer.
    """
    if endpoint.trust is None:
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=_FIRST_TIMEOUT)
    else:
        context = trusting_context(endpoint.trust)
        connection = http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=_FIRST_TIMEOUT, context=context)
    try:
        connection.request("POST", endpoint.path, body, {**headers, **endpoint.headers})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise _failed(endpoint.label, str(error) or type(error).__name__) from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        said = content[:_EXCERPT].decode(errors="replace").strip()
        raise _failed(endpoint.label, f"it answered with status {answer.status}" + (f": {said}" if said else ""))
    try:
        endpoint.decode(content, {name.lower(): value for name, value in answer.getheaders()})
    except ValueError as error:  # such as a page to log in at
        raise _failed(endpoint.label, str(error)) from error
    return len(content)


def _check(loaded: LoadedServer) -> None:
    if loaded.failure is not None:
        raise _failed(loaded.candidate, loaded.failure.diagnostic.sentence)


def _failed(label: str, why: str) -> MloError:
    return MloError(
        Diagnostic(
            "E680",
            f"{label} cannot be measured",
            cause=why,
            remedy="check with `curl` that it answers a request; a token is given by --token-file, a private authority by --ca, "
            "inputs that it takes by --input",
        )
    )


def _result(loaded: LoadedServer, settings: LoadSettings, rate: float) -> EndpointResult:
    saturation, limit = saturation_of(loaded, _LONGER), settings.p99_limit
    wire = loaded.wires[loaded.wire]
    return EndpointResult(
        label=loaded.candidate,
        wire=wire.name,
        request_bytes=wire.request_bytes,
        answer_bytes=wire.answer_bytes or 0,
        call=loaded.call,
        connections=loaded.connections,
        open_loop=open_loop_of(loaded, rate, _LONGER),
        saturation=saturation,
        level=level_of(loaded, limit, settings.rate, saturation),
        knee=None if limit is None else knee_of(loaded, limit),
        refused=dict(loaded.refused),
        generator=loaded.generator,
    )


def _compared(first: LoadedServer, second: LoadedServer) -> Compared:
    pairs = list(zip(first.scheduled, second.scheduled, strict=True))
    medians = [(_median(other), _median(one)) for one, other in pairs]
    busy = [
        (one, other)
        for one, other in zip(first.saturated, second.saturated, strict=False)
        if one.answered and other.answered
    ]
    slowest = [sorted(each.latencies, reverse=True) for each in (first, second)]
    return Compared(
        latency=compare_rounds([other for other, _ in medians], [one for _, one in medians])
        if medians and all(math.isfinite(each) for pair in medians for each in pair)
        else None,
        throughput=compare_rounds(
            [other.seconds / other.answered for _, other in busy], [one.seconds / one.answered for one, _ in busy]
        )
        if busy
        else None,
        slower_tail=_slower_tail(slowest[0], slowest[1]),
    )


def _median(segment: Segment) -> float:
    """Of all requests of a segment, seconds; a refused one has no end, or refusing would make a server faster."""
    return median([*segment.latencies, *[math.inf] * sum(segment.refused.values())])


def _slower_tail(first: Sequence[float], second: Sequence[float]) -> int | None:
    """As in `Compared.slower_tail`; both descending."""
    verdicts = (
        tail_is_slower(first[:TAIL], len(first), second[:TAIL], len(second)),
        tail_is_slower(second[:TAIL], len(second), first[:TAIL], len(first)),
    )
    if None in verdicts:
        return None
    return 1 if verdicts[0] else 2 if verdicts[1] else 0
