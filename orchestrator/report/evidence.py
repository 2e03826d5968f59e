"""Finds in the store all that a report tells: the decision, both benchmarks with their raw times, and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.round_report import RoundReport
from orchestrator.artifacts.runtime_report import RuntimeReport
from orchestrator.artifacts.server_report import ServerReport
from orchestrator.artifacts.sizing import Sizing
from orchestrator.artifacts.winner import Winner
from orchestrator.steps.roles import ROUND
from orchestrator.store.receipts import Receipt
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store

__all__ = ["RAW_FILE", "Evidence", "Machine", "find_evidence"]

RAW_FILE = "raw.npz"
"""Of a benchmark's output: all measured times, seconds."""

_BENCHMARKS = {"server": "benchmark.server", "runtime": "benchmark.runtime"}
"""Role among the inputs of `select` → the step that it came from."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured on, and when.

    Attributes:
        processor: as it calls itself.
        architecture: such as `x86_64`.
        memory: bytes that each measured process could use.
        started: of the measurement, ISO time, UTC.
    """

    processor: str
    architecture: str
    memory: int
    started: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """A decision and what it rests on.

    Attributes:
        name: of the deployment.
        sizing: None if nothing won.
        runtime, server: the benchmarks; None if they did not run, or if their documents are no longer in the store.
        rounds: of the search that led to the finalists, by their number; empty without one.
        runtime_times, server_times: their raw times; None likewise.
        machine: None if nothing was measured.
        version: of mlo, which decided.
        decided: ISO time, UTC.
        serving: what the deployment has to do with the decision, a sentence without a full stop.
    """

    name: str
    decision: Decision
    sizing: Sizing | None
    runtime: RuntimeReport | None
    server: ServerReport | None
    rounds: Mapping[int, RoundReport]
    runtime_times: Path | None
    server_times: Path | None
    machine: Machine | None
    version: str
    decided: str
    serving: str


def find_evidence(
    store: Store, selected: Receipt, receipt_of: Callable[[str], Receipt | None], deployment: Deployment | None
) -> Evidence:
    """What the store has of a decision.

    Args:
        store: which it is in.
        selected: the receipt of the step `select`, with an output.
        receipt_of: step id → its receipt in the same run; one of another run is not used.
        deployment: of the same name, if there is one.

    Raises:
        DocumentRefused: E714, another version of mlo wrote it.
        ValueError: the receipt has no output.
    """
    if selected.manifest is None:
        raise ValueError("the receipt of `select` has no output")
    folder = store.trees.path(selected.manifest.digest)
    inputs = selected.parts.get("inputs", {})
    folders = {
        role: store.trees.path(inputs[role])
        for role in _BENCHMARKS
        if role in inputs and store.trees.holds(inputs[role])
    }
    times = {role: found / RAW_FILE for role, found in folders.items() if (found / RAW_FILE).is_file()}
    decision = Decision.read(folder)
    won = decision.winner is not None
    runtime = RuntimeReport.read(folders["runtime"]) if "runtime" in folders else None
    server = ServerReport.read(folders["server"]) if "server" in folders else None
    winner = selected.manifest.files.get(Winner.FILE)
    return Evidence(
        name=selected.deployment,
        decision=decision,
        sizing=Sizing.read(folder) if won else None,
        runtime=runtime,
        server=server,
        rounds=dict(reversed(list(_rounds(store, receipt_of, inputs.get("runtime"))))),
        runtime_times=times.get("runtime"),
        server_times=times.get("server"),
        machine=_machine(inputs, receipt_of, server or runtime),
        version=selected.version,
        decided=selected.started,
        serving=_serving(deployment, None if winner is None else winner.sha256),
    )


def _rounds(
    store: Store, receipt_of: Callable[[str], Receipt | None], runtime: str | None
) -> Iterator[tuple[int, RoundReport]]:
    """The rounds of the search, the last one first: each names the one before it by its digest.

    Args:
        store: which they are in.
        receipt_of: as for `find_evidence`.
        runtime: digest of the runtime benchmark, which names the last one.
    """
    measured = receipt_of(_BENCHMARKS["runtime"])
    if measured is None or measured.manifest is None or measured.manifest.digest != runtime:
        return
    known: list[Receipt] = []
    while (receipt := receipt_of(f"benchmark.round-{len(known) + 1}")) is not None:
        known.append(receipt)
    wanted = measured.parts.get("inputs", {}).get(ROUND)
    for number, receipt in reversed(list(enumerate(known, 1))):
        if receipt.manifest is not None and receipt.manifest.digest == wanted and store.trees.holds(wanted):
            yield number, RoundReport.read(store.trees.path(wanted))
            wanted = receipt.parts.get("inputs", {}).get(ROUND)


def _machine(
    inputs: dict[str, str], receipt_of: Callable[[str], Receipt | None], report: ServerReport | RuntimeReport | None
) -> Machine | None:
    """From the receipt of the benchmark that the decision rests on, the one of servers first."""
    for role, step in _BENCHMARKS.items():
        receipt = receipt_of(step) if role in inputs else None
        if receipt is None or receipt.manifest is None or receipt.manifest.digest != inputs[role] or report is None:
            continue
        found = receipt.parts.get("machine", {})
        return Machine(
            processor=str(found.get("processor", "")),
            architecture=str(found.get("architecture", "")),
            memory=report.memory,
            started=receipt.started,
        )
    return None


def _serving(deployment: Deployment | None, winner: str | None) -> str:
    if deployment is None or deployment.revision == 0:
        return "nothing is deployed under this name"
    serves = f"revision {deployment.revision} ({deployment.variant} on {deployment.backend}) serves"
    if winner is not None and deployment.decision_digest == winner:
        return f"{serves} what was decided here"
    return f"{serves}, which comes from another decision"
