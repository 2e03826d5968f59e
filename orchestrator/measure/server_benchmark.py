"""The step `benchmark.server`: measures the finalists over the wire, in their real servers, with the deployed folders."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.artifacts.candidate import candidate_identity
from orchestrator.artifacts.imported import SAMPLES_FILE, Imported
from orchestrator.artifacts.measurement import MeasuredOn
from orchestrator.artifacts.runtime_report import CandidateRuntimeResult, RuntimeReport
from orchestrator.artifacts.server_report import (
    CandidateServerResult,
    LoadGenerator,
    MeasuredProgram,
    ServerReport,
    ServerSettings,
    ServiceLevel,
    WireResult,
)
from orchestrator.backends.backend import ServingBackend, ServingSettings
from orchestrator.backends.table import backend
from orchestrator.backends.wire import encode_message
from orchestrator.diagnostics import Diagnostic
from orchestrator.machine.cpu_use import cpu_time
from orchestrator.machine.cpus import cpu_share, other_cpus
from orchestrator.machine.cuda_devices import cuda_devices
from orchestrator.measure.again import measure_again
from orchestrator.measure.certificate import STARTED_HERE, make_certificate
from orchestrator.measure.container import ContainerServer, built, certificate_inside, require_engine
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.finalists import auto_batch_size, finalists, substitutes
from orchestrator.measure.generator_limit import generator_limit
from orchestrator.measure.knee import find_knees
from orchestrator.measure.measured_server import MeasuredServer
from orchestrator.measure.requests import encoded_request, open_requests, sample_rows
from orchestrator.measure.server_report import ServerResult, StartedServer, raw_arrays, server_result
from orchestrator.measure.server_rounds import (
    LoadedServer,
    LoadSettings,
    generator_failed,
    load_in_rounds,
    other_wires,
    probe,
    warm_up,
)
from orchestrator.measure.session import MeasuredProcess
from orchestrator.spec.types import Wire
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import CandidateParameters, ServerBenchmarkParameters
from orchestrator.steps.roles import variant_role
from orchestrator.steps.runtime_options import Batching

__all__ = ["benchmark"]

_READY_TIMEOUT = 180.0
_NAME = "model"
_DIGEST = "0" * 64
_DRAIN_SECONDS = 0
"""Once measured, a server has no other clients that it would have to wait for."""


def benchmark(context: StepContext) -> dict[str, Any]:
    """Start the finalists' servers and load them in turns; writes a `ServerReport` and `raw.npz` (docs/measuring.md).

    Inputs: `import`, `runtime`, and `variant:VARIANT` if they exist.
    """
    import numpy as np  # noqa: PLC0415 - as in runtime_report

    with ExitStack() as stack:
        running = _Benchmark(context, stack)
        tuned = {each.candidate for each in running.parameters.candidates if each.options.changed()}
        chosen, passed_over = finalists(running.measured, running.parameters.objective, tuned)
        results: dict[str, ServerResult] = {}
        loaded: dict[str, LoadedServer] = {}
        rate: float | None = None
        wanted = running.parameters.slo.throughput
        while chosen:
            started = running.start_all(chosen, results)
            while substitutes := running.substitutes(results, started):
                started |= running.start_all(substitutes, results)
            if started:
                load = running.load if rate is None else replace(running.load, rate=rate)
                rate = load_in_rounds([server for server, _ in started.values()], load, context.progress)
                measure_again([server for server, _ in started.values()], load, rate, context.progress)
                for server, _ in started.values():
                    other_wires(server)
                find_knees([server for server, _ in started.values()], load, rate, context.progress)
            for name, (server, start) in started.items():
                results[name] = server_result(server, start, running.load, rate, wanted)
                loaded[name] = server
            # Servers that failed in the rounds are replaced too, while there is time.
            chosen = running.substitutes(results, {}) if time.monotonic() < running.load.deadline else []
        arrays = raw_arrays(loaded)
    ServerReport(
        measured_on=MeasuredOn.of(running.share, running.devices, running.parameters.devices),
        load_generator=running.load_generator,
        memory=running.parameters.memory,
        slo=ServiceLevel(p99_latency=running.parameters.slo.p99_latency, throughput=wanted),
        objective=running.parameters.objective,
        rate=rate,
        rate_from="slo.throughput" if wanted else "slowest server",
        candidates=tuple(
            _candidate(each, results.get(each.candidate) or _left_out(each.candidate, passed_over, running.runtime))
            for each in running.parameters.candidates
        ),
    ).write(context.output)
    # As in runtime_benchmark.
    np.savez_compressed(context.output / "raw.npz", **arrays)  # type: ignore[arg-type]
    return {"servers": sorted(loaded), "rate": rate, "how": running.share.how}


def _candidate(each: CandidateParameters, result: ServerResult) -> CandidateServerResult:
    return CandidateServerResult(
        **dict(candidate_identity(each)),
        fate=result.fate,
        reason=result.reason,
        error=result.error,
        settings=result.settings,
        measured=result.measured,
    )


def _left_out(name: str, passed_over: Mapping[str, str], runtime: Mapping[str, CandidateRuntimeResult]) -> ServerResult:
    reason = passed_over.get(name) or f"dropped in the runtime benchmark: {runtime[name].reason}"
    return ServerResult("not a finalist", reason, None)


_Started = tuple[LoadedServer, StartedServer]


class _Benchmark:
    """The state shared by all servers of one benchmark; the stack stops what is started."""

    def __init__(self, context: StepContext, stack: ExitStack) -> None:
        self.parameters = parameters = ServerBenchmarkParameters.from_json(context.params)
        self._candidates = {each.candidate: each for each in parameters.candidates}
        self._context = context
        self._stack = stack
        if parameters.inside == "container":
            require_engine()
        self.signature = Imported.read(context.inputs["import"]).signature
        self.measured = RuntimeReport.read(context.inputs["runtime"]).candidates
        self.runtime = {result.candidate: result for result in self.measured}
        self.share = cpu_share(parameters.cpus)
        self.devices = cuda_devices() if parameters.devices else None
        self._tls = make_certificate(context.scratch) if parameters.tls else None
        others = other_cpus(self.share)
        self._generator = others or self.share
        self.load_generator = LoadGenerator(cpus=len(self._generator.cpus), shares_cpus=others is None)
        self.load = LoadSettings(
            rate=parameters.slo.throughput,
            p99_limit=parameters.slo.p99_latency,
            deadline=time.monotonic() + parameters.time_budget,
        )

    def start_all(self, names: Sequence[str], results: dict[str, ServerResult]) -> dict[str, _Started]:
        """Start and warm up one server after the other; returns those that run, adds the fates of the others to `results`."""
        started: dict[str, _Started] = {}
        for number, name in enumerate(names):
            self._context.progress(f"starting the server of {name}", 0.4 * number / len(names))
            found = self.start(name, len(names))
            if isinstance(found, ServerResult):
                results[name] = found
            else:
                started[name] = found
        for loaded, _ in started.values():
            warm_up(loaded, self.load, len(started))
        return started

    def substitutes(self, results: Mapping[str, ServerResult], started: Mapping[str, _Started]) -> list[str]:
        """The candidates to start in place of servers that failed, according to `results` or since they were `started`."""
        tried = {name: result.fate for name, result in results.items()}
        tried |= {name: server.fate for name, (server, _) in started.items()}
        return substitutes(self.measured, self.parameters.objective, tried)

    def start(self, name: str, servers: int) -> _Started | ServerResult:
        """A server that answers and how it started; or its fate.

        Args:
            name: of the candidate.
            servers: how many will share the time that is left.
        """
        candidate = self._candidates[name]
        settings = self._settings(candidate)
        chosen = ServerSettings(max_batch_size=settings.max_batch_size, max_delay=settings.max_delay)
        served_by = backend(candidate.backend)
        if not isinstance(served_by, ServingBackend):
            return ServerResult("no server", "it runs on devices, not in a server", chosen)
        if reason := served_by.refuses(self.signature):  # the dtypes of outputs are only known since the model was run
            return ServerResult("failed", f"{served_by.name} cannot serve it: {reason}", None)
        inside = self.parameters.inside
        if inside == "process" and (lacking := served_by.unavailable(settings.devices)):
            message = f"{served_by.name} cannot be started here"
            error = Diagnostic("E616", message, cause=lacking.reason, remedy=lacking.remedy)
            return ServerResult("no server", error.sentence, chosen, error=error)
        if inside == "process" and not self.parameters.servers[served_by.name]:
            # The step's key says that this server is not measured; with a server, the step gets another key.
            return ServerResult(
                "no server", f"{served_by.name} could not be started here when the plan was made; run mlo again", chosen
            )
        program = served_by.program(settings.devices) if self.parameters.inside == "process" else None
        folder = self._context.scratch / name
        variant = self._context.inputs[variant_role(candidate.variant)]
        try:
            container = self._container(name, settings, variant, folder)
            server = MeasuredServer(
                served_by,
                settings,
                variant,
                self.share,
                memory=settings.memory,
                folder=folder,
                container=container,
            )
            self._stack.enter_context(server)
            rows = list(sample_rows(self._context.inputs["import"] / SAMPLES_FILE, self.signature))
            ready_seconds = server.wait_ready(_READY_TIMEOUT)
            tried, first_request_seconds = self._tried(served_by, server, candidate, rows[0])
        except MeasureError as error:
            return ServerResult.failed(error, chosen)
        started = StartedServer(
            settings=chosen,
            inside=server.inside,
            image=None if container is None else container.sizes,
            program=None if program is None else MeasuredProgram(**program.as_json()),
            ready_seconds=ready_seconds,
            first_request_seconds=first_request_seconds,
        )
        generator = MeasuredProcess("orchestrator.measure.load", self._generator, memory=None, folder=folder / "load")
        self._stack.enter_context(generator)
        loaded = LoadedServer(name, server, generator, tried, next(iter(tried)), self.parameters.wires)
        if self.parameters.inside == "process":  # what publishes a container's port takes CPU time too
            # Not those of a generator that has its own: they may be so many that nobody uses a tenth of them all, and one
            # that others slow down sends its requests late, which is measured.
            loaded.cpu_time = partial(cpu_time, self.share.cpus)
            loaded.shares_cpus = self.load_generator.shares_cpus
        try:
            for wire, found in tried.items():
                if not found.refused:
                    requests = [encoded_request(served_by.encode, server.path, row, wire, _NAME) for row in rows]
                    tls = None if settings.tls is None else STARTED_HERE
                    open_requests(generator, folder, wire, requests, tls)
            probe(loaded, self.load, servers)
            if loaded.fate == "measured" and (size := loaded.wires[loaded.wire].answer_bytes) is not None:
                loaded.generator = generator_limit(
                    generator,
                    self.share,
                    folder / "canned",
                    wire=loaded.wire,
                    connections=loaded.connections,
                    answer_bytes=size,
                    tls=self._tls,
                )
        except MeasureError as error:
            return ServerResult.failed(generator_failed(error), chosen)
        return loaded, started

    def _container(self, name: str, settings: ServingSettings, variant: Path, folder: Path) -> ContainerServer | None:
        """The container to start the server in, if it is to be measured in one; the time of the build is not that of the load.

        Raises:
            MeasureError: its image cannot be built.
        """
        build = self.parameters.build
        if build is None:
            return None
        began = time.monotonic()

        def progress(line: str) -> None:
            self._context.progress(f"building the image of {name}: {line}", None)

        container = built(settings, build, variant, self.share, folder / "image", progress, self._tls)
        self.load = replace(self.load, deadline=self.load.deadline + time.monotonic() - began)
        return container

    def _tried(
        self, served_by: ServingBackend, server: MeasuredServer, candidate: CandidateParameters, row: Mapping[str, Any]
    ) -> tuple[dict[Wire, WireResult], float]:
        """Each wire after one request over it; and the seconds of the first of these requests.

        The wires over HTTP are there even where the spec names another one, so that the report can compare it with them.

        Raises:
            MeasureError: the server answers over none that may be used.
        """
        measured = self.runtime[candidate.candidate].measured
        model = None if measured is None else measured.batches[0].p50 if measured.batches[0].rows == 1 else None
        results: dict[Wire, WireResult] = {}
        first: float | None = None
        failure: MeasureError | None = None
        for wire in served_by.wires:
            if wire == "grpc" and wire not in self.parameters.wires:  # it is not offered
                continue
            size, answer_bytes, refused = 0, None, ""
            if wire == "grpc":
                size = len(encode_message(_NAME, row))  # its first call is made under load
            else:
                body, headers = served_by.encode(row, wire)
                size = len(body)
                try:
                    answer = server.first_request(body, headers)
                except MeasureError as error:
                    server.check()
                    refused = error.diagnostic.sentence
                    failure = failure or (error if wire in self.parameters.wires else None)
                else:
                    first = answer.seconds if first is None else first
                    answer_bytes = answer.size
            results[wire] = WireResult(
                wire=wire,
                request_bytes=size,
                answer_bytes=answer_bytes,
                call=None,
                model=model,
                connections=None,
                rows_per_second=None,
                refused=refused,
            )
        if failure is not None and all(each.refused for each in results.values() if each.wire in self.parameters.wires):
            raise failure
        return results, 0.0 if first is None else first

    def _settings(self, candidate: CandidateParameters) -> ServingSettings:
        parameters = self.parameters
        batching = candidate.options.batching or parameters.batching
        if batching == "auto":
            measured = self.runtime[candidate.candidate].measured
            assert measured is not None, "the runtime of a finalist was measured"
            batching = Batching(auto_batch_size(measured, parameters.slo.p99_latency), 0.0)
        served_by = backend(candidate.backend)
        offers = served_by.wires if isinstance(served_by, ServingBackend) else ()
        tls = self._tls
        if tls is not None and parameters.inside == "container":
            tls = certificate_inside(tls)
        return ServingSettings(
            name=_NAME,
            backend=candidate.backend,
            variant=candidate.variant,
            format=candidate.format,
            precision=candidate.precision,
            signature=self.signature,
            cpus=min(parameters.cpus, float(len(self.share.cpus))),
            memory=parameters.memory,
            max_batch_size=batching.max_size if self.signature.batch is not None else 1,
            max_delay=batching.max_delay,
            startup_seconds=int(_READY_TIMEOUT),
            drain_seconds=_DRAIN_SECONDS,
            model_digest=_DIGEST,
            decision_digest=_DIGEST,
            tools={},
            samples=self._context.inputs["import"] / SAMPLES_FILE,
            devices=parameters.devices,
            cuda_graphs=parameters.cuda_graphs,
            batch_sizes=parameters.batch_sizes,
            grpc="grpc" in parameters.wires and "grpc" in offers,
            tls=tls,
            options=candidate.options,
        )
