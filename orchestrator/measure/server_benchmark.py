"""The step `benchmark.server`: the finalists in their real servers, over the wire, from the folders that are deployed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.artifacts.imported import SAMPLES_FILE, Imported
from orchestrator.backends.backend import ServingBackend, ServingSettings
from orchestrator.backends.table import backend
from orchestrator.machine.cpus import cpu_share, other_cpus
from orchestrator.machine.cuda_devices import cuda_devices
from orchestrator.measure.finalists import NO_SERVER, auto_batch_size, finalists, substitutes
from orchestrator.measure.measured_server import MeasuredServer, ServerError
from orchestrator.measure.server_report import contender_report, raw_arrays
from orchestrator.measure.server_rounds import Contender, LoadSettings, load_in_rounds, warm_up
from orchestrator.measure.session import MeasuredProcess
from orchestrator.steps import StepContext
from orchestrator.store.atomic import pretty_json

__all__ = ["benchmark"]

_READY_TIMEOUT = 180.0
_BODIES = 64
_NAME = "model"
_DIGEST = "0" * 64
_CONNECTIONS_AT_MOST = 256
_REQUEST_TIMEOUT = 10.0


def benchmark(context: StepContext) -> dict[str, Any]:
    """Start the finalists' servers and load them in turns; leaves `report.json` and `raw.npz` (docs/measuring.md).

    Params: `candidates`, `cpus`, `memory` (bytes), `slo`, `batching`, `objective`, `time_budget` (seconds), `present` (which
    servers planning found), and where there are any `settings` (name, digests). Inputs: `import`, `runtime`, and `variant:NAME` of the finalists.
    """
    import numpy as np  # noqa: PLC0415 - as in runtime_report

    with ExitStack() as stack:
        running = _Benchmark(context, stack)
        chosen, passed_over = finalists(running.measured, context.params["objective"])
        rows: dict[str, dict[str, Any]] = {}
        contenders: dict[str, Contender] = {}
        rate: float | None = None
        wanted = context.params["slo"]["throughput"]
        while chosen:
            started = running.start_all(chosen, rows)
            while spare := running.substitutes(rows, started):
                started |= running.start_all(spare, rows)
            if started:
                load = running.load if rate is None else replace(running.load, rate=rate)
                rate = load_in_rounds(list(started.values()), load, context.progress)
            for variant, contender in started.items():
                rows[variant] |= contender_report(contender, running.load, rate or 0.0, wanted)
            contenders |= started
            # What failed in the rounds is replaced too, as long as there is time.
            chosen = running.substitutes(rows, {}) if time.monotonic() < running.load.deadline else []
        arrays = raw_arrays(contenders)
    report = {
        "measured_on": {**running.share.as_json(), **running.devices, "load_generator": running.generator_note},
        "memory": context.params["memory"],
        "slo": dict(context.params["slo"]),
        "objective": context.params["objective"],
        "rate": rate,
        "rate_from": "slo.throughput" if wanted else "half of what the slowest server reaches, at most 100/s",
        "candidates": [
            {**row, **(rows.get(row["variant"]) or _left_out(row["variant"], passed_over, running.runtime))}
            for row in context.params["candidates"]
        ],
    }
    (context.output / "report.json").write_bytes(pretty_json(report))
    # As in runtime_benchmark.
    np.savez_compressed(context.output / "raw.npz", **arrays)  # type: ignore[arg-type]
    return {"servers": sorted(contenders), "rate": report["rate"], "how": running.share.how}


def _left_out(variant: str, passed_over: Mapping[str, str], runtime: Mapping[str, Any]) -> dict[str, Any]:
    reason = passed_over.get(variant) or f"in the runtime benchmark: {runtime[variant]['reason']}"
    return {"fate": "not a finalist", "reason": reason}


class _Benchmark:
    """What all servers of one benchmark have in common; what is started is ended by the stack."""

    def __init__(self, context: StepContext, stack: ExitStack) -> None:
        params = context.params
        self._context = context
        self._stack = stack
        self.signature = Imported.read(context.inputs["import"]).signature
        report = json.loads((context.inputs["runtime"] / "report.json").read_bytes())
        self.measured = report["candidates"]
        self.runtime = {row["variant"]: row for row in report["candidates"]}
        self.share = cpu_share(params["cpus"])
        self.devices = cuda_devices().used(params["devices"]) if "devices" in params else {}
        others = other_cpus(self.share)
        self._generator = others or self.share
        self.generator_note = (
            f"the load generator ran on {len(others.cpus)} other CPUs"
            if others
            else "the load generator shared the server's CPUs: a server alone on them reaches more"
        )
        self.load = LoadSettings(
            rate=params["slo"]["throughput"],
            p99_limit=params["slo"]["p99_latency"],
            deadline=time.monotonic() + params["time_budget"],
        )

    def start_all(self, variants: Sequence[str], rows: dict[str, dict[str, Any]]) -> dict[str, Contender]:
        """Start one server after the other; `rows` gets what is known of each, the answer holds those that run."""
        contenders = {}
        for number, variant in enumerate(variants):
            self._context.progress(f"starting the server of {variant}", 0.4 * number / len(variants))
            rows[variant], contender = self.start(variant)
            if contender is not None:
                contenders[variant] = contender
        return contenders

    def substitutes(self, rows: Mapping[str, Mapping[str, Any]], started: Mapping[str, Contender]) -> list[str]:
        """Whom to start in place of those that failed, in `rows` or since they were `started`."""
        tried = {variant: started[variant].fate if variant in started else row["fate"] for variant, row in rows.items()}
        return substitutes(self.measured, self._context.params["objective"], tried)

    def start(self, variant: str) -> tuple[dict[str, Any], Contender | None]:
        """What is known of a server before it is loaded, and the warmed-up server unless it failed."""
        row = self.runtime[variant]
        settings = self._settings(row)
        facts: dict[str, Any] = {"max_batch_size": settings.max_batch_size, "max_delay": settings.max_delay}
        served_by = backend(row["backend"])
        if not isinstance(served_by, ServingBackend):
            return {**facts, "fate": NO_SERVER, "reason": "a device runs it, not a server"}, None
        if reason := served_by.refuses(self.signature):  # what the outputs are is known only since the model was run
            return {"fate": "failed", "reason": f"{served_by.name} cannot serve it: {reason}"}, None
        if reason := served_by.unavailable(settings.devices):
            said = f"{served_by.name} cannot be started here: {reason}"
            return {**facts, "fate": NO_SERVER, "reason": said}, None
        if not self._context.params["present"].get(served_by.name, True):
            # Its key says that nothing is measured on this server; what is there since then gets another key.
            said = f"{served_by.name} could not be started here when this was planned"
            return {**facts, "fate": NO_SERVER, "reason": said}, None
        program = served_by.program(settings.devices)
        facts["program"] = None if program is None else program.as_json()
        folder = self._context.scratch / variant
        try:
            server = MeasuredServer(
                served_by,
                settings,
                self._context.inputs[f"variant:{variant}"],
                self.share,
                memory=settings.memory,
                folder=folder,
            )
            self._stack.enter_context(server)
            bodies, headers = self._requests(served_by, folder)
            facts["ready_seconds"] = server.wait_ready(_READY_TIMEOUT)
            facts["first_request_seconds"] = server.first_request(bodies[0].read_bytes(), headers)
        except ServerError as error:
            return {**facts, "fate": error.fate, "reason": str(error)}, None
        generator = MeasuredProcess("orchestrator.measure.load", self._generator, memory=None, folder=folder / "load")
        self._stack.enter_context(generator)
        command = {
            "do": "open",
            "url": server.url,
            "headers": headers,
            "bodies": [str(body) for body in bodies],
            "limit": _CONNECTIONS_AT_MOST,
            "timeout": _REQUEST_TIMEOUT,
        }
        generator.ask(command, _READY_TIMEOUT)
        contender = Contender(variant, server, generator)
        warm_up(contender, self.load.connections)
        return facts, contender

    def _settings(self, row: Mapping[str, Any]) -> ServingSettings:
        params = self._context.params
        given = params.get("settings", {})
        batching = params["batching"]
        if batching == "auto":
            max_size, max_delay = auto_batch_size(row, params["slo"]["p99_latency"]), 0.0
        else:
            max_size, max_delay = batching["max_size"], float(batching["max_delay"])
        return ServingSettings(
            name=given.get("name", _NAME),
            backend=row["backend"],
            variant=row["variant"],
            format=row["format"],
            precision=row["precision"],
            signature=self.signature,
            cpus=min(params["cpus"], float(len(self.share.cpus))),
            memory=params["memory"],
            max_batch_size=max_size if self.signature.batch is not None else 1,
            max_delay=max_delay,
            startup_seconds=int(_READY_TIMEOUT),
            drain_seconds=given.get("drain_seconds", 1),
            model_digest=given.get("model_digest", _DIGEST),
            spec_digest=given.get("spec_digest", _DIGEST),
            decision_digest=given.get("decision_digest", _DIGEST),
            tools=given.get("tools", {}),
            samples=self._context.inputs["import"] / SAMPLES_FILE,
            devices=params.get("devices", 0),
            cuda_graphs=params.get("cuda_graphs", False),
            batch_sizes=tuple(params.get("batch_sizes", ())),
        )

    def _requests(self, served_by: ServingBackend, folder: Path) -> tuple[list[Path], dict[str, str]]:
        """Requests of one row each, made of real samples, and the headers that they share."""
        import numpy as np  # noqa: PLC0415 - as in runtime_report

        with np.load(self._context.inputs["import"] / SAMPLES_FILE, allow_pickle=False) as samples:
            inputs = {tensor.name: samples[tensor.name] for tensor in self.signature.inputs}
        rows = min(_BODIES, len(next(iter(inputs.values()))))
        bodies: list[Path] = []
        shared: dict[str, str] = {}
        for number in range(rows):
            if self.signature.batch is None:
                row = {name: array[number] for name, array in inputs.items()}
            else:
                row = {name: array[number : number + 1] for name, array in inputs.items()}
            body, headers = served_by.encode(row)
            shared = shared or dict(headers)
            if dict(headers) == shared:  # a header that depends on the body would be wrong for the others
                path = folder / f"request-{number}"
                path.write_bytes(body)
                bodies.append(path)
        return bodies, shared
