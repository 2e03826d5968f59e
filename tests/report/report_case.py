"""Decisions in a store, as a run leaves them, with raw times that are drawn from known distributions."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from orchestrator.artifacts.round_report import RoundReport, RoundResult, RoundTimes
from orchestrator.artifacts.runtime_report import CandidateRuntimeResult
from orchestrator.artifacts.server_report import CandidateServerResult
from orchestrator.artifacts.verdict import Accuracy, GateResult, Verdict
from orchestrator.diagnostics import Diagnostic
from orchestrator.report.build import make_report
from orchestrator.report.evidence import find_evidence
from orchestrator.report.model import Report
from orchestrator.select.step import select
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.roles import ROUND
from orchestrator.store.digest import Manifest
from orchestrator.store.home import Home
from orchestrator.store.receipts import Receipt
from orchestrator.store.store import Store
from orchestrator.store.user_code import NO_USER_CODE
from tests.artifacts.made import verdict
from tests.optimize.select_case import MEASURED_ON, candidate, context, runtime_candidate, server_candidate

__all__ = ["NAME", "PROCESSOR", "decided", "failed_gate", "gates", "many", "report_of", "search_round"]

NAME, PROCESSOR = "digits", "Processor of the test"


def gates(name: str, measured: float = 0.177) -> Verdict:
    """A verdict that passed, with the accuracy."""
    passed = (
        GateResult("finite", "y", 0.0, 0.0, passed=True, case="all samples"),
        GateResult("max_abs_error", "y", 4.711, measured, passed=True, case="row 6 alone"),
        GateResult("min_cosine", "y", 0.99, 0.9997, passed=True, case="all samples"),
    )
    found = verdict(name, gates=passed)
    return found.model_copy(update={"accuracy": {"y": Accuracy(baseline=0.9961, variant=0.9922)}})


def failed_gate(name: str) -> Verdict:
    """A verdict that failed."""
    return verdict(
        name, passed=False, gates=[GateResult("min_cosine", "y", 0.99, 0.91, passed=False, case="all samples")]
    )


def decided(
    folder: Path,
    runtime: Sequence[CandidateRuntimeResult],
    server: Sequence[CandidateServerResult] | None,
    *,
    refused: Sequence[str] = (),
    verdicts: dict[str, Verdict] | None = None,
    raw: bool = True,
    rounds: Sequence[RoundReport] = (),
) -> Store:
    """A store in which `select` has decided about these candidates under the name `digits`.

    Args:
        folder: for everything.
        runtime, server: the rows of both reports.
        refused: candidates that are not tried; the reason of each has markup.
        verdicts: of candidates; the others passed without gates.
        raw: whether raw times are kept.
        rounds: of a search that led to them.
    """
    tried = [candidate(each.candidate) for each in runtime]
    others = [candidate(name, refused="<b>it</b> has no kernels & more") for name in refused]
    made = context(folder / "made", [*tried, *others], runtime, server, verdicts=verdicts)
    error = None
    try:
        select(made)
    except StepError as caught:
        error = replace(caught.diagnostic, notes=())
    if raw:
        _raw(made, runtime, server or ())
    store = Store.open(Home(folder / "home"))
    kept = {role: _commit(store, made.inputs[role]) for role in ("runtime", "server") if role in made.inputs}
    machine = {"processor": PROCESSOR, "architecture": "x86_64"}
    before: dict[str, str] = {}
    for number, report in enumerate(rounds, 1):
        output = folder / f"round-{number}"
        output.mkdir()
        report.write(output)
        manifest = _commit(store, output)
        _receipt(store, f"a{number}" * 32, f"benchmark.round-{number}", manifest, {"inputs": before})
        before = {ROUND: manifest.digest}
    for number, (role, manifest) in enumerate(kept.items()):
        parts: dict[str, object] = {"machine": machine, "inputs": before if role == "runtime" else {}}
        _receipt(store, str(number) * 64, f"benchmark.{role}", manifest, parts)
    inputs = {role: manifest.digest for role, manifest in kept.items()}
    _receipt(store, "f" * 64, "select", _commit(store, made.output), {"inputs": inputs}, error)
    return store


def report_of(store: Store) -> Report:
    """The report of what the store has."""
    receipt = store.receipts.latest("select", NAME)
    assert receipt is not None
    return make_report(find_evidence(store, receipt, lambda step: store.receipts.latest(step, NAME), None))


def search_round(**calls: float) -> RoundReport:
    """A round in which candidates took these seconds in the second of three turns, less before and more after."""
    results = (
        RoundResult(
            candidate=name.replace("_", "-"), variant=name, format="onnx", precision="fp32", backend="onnxruntime",
            fate="measured", reason="", error=None, same_as=None,
            times=tuple(RoundTimes(number=n, call=call * by, row=call) for n, by in enumerate((0.9, 1.0, 1.3))),
        )
        for name, call in calls.items()
    )  # fmt: skip
    return RoundReport(measured_on=MEASURED_ON, batch_sizes=(1,), seconds=5.0, candidates=tuple(results))


def many(folder: Path, count: int) -> Store:
    """A decision about so many candidates, six of them over the wire."""
    names = [f"onnx-int8:percentile={99 + number / 1000:g}" for number in range(count - 1)]
    names.append("onnx-fp32")
    runtime = [runtime_candidate(name, ratio=0.2 + 0.7 * number / count) for number, name in enumerate(names)]
    server = [server_candidate(name, p99=0.004 + 0.001 * number) for number, name in enumerate(names[:6])]
    return decided(folder, runtime, server, verdicts={name: gates(name) for name in names})


def _raw(made: StepContext, runtime: Sequence[CandidateRuntimeResult], server: Sequence[CandidateServerResult]) -> None:
    """Raw times as the benchmarks name them: log-normal, so that no two percentiles are alike."""
    random = np.random.default_rng(0)
    times = {
        f"{name}.b1.seconds": 0.001 * random.lognormal(0, 0.3, 2000)
        for name in ["baseline", *(each.candidate for each in runtime)]
    }
    np.savez(made.inputs["runtime"] / "raw.npz", **times)  # type: ignore[arg-type]  # numpy's stubs: allow_pickle
    if server:
        answers = {f"{each.candidate}.open.seconds": 0.0005 * random.lognormal(0, 0.5, 1400) for each in server}
        np.savez(made.inputs["server"] / "raw.npz", **answers)  # type: ignore[arg-type]  # likewise


def _commit(store: Store, folder: Path) -> Manifest:
    with store.scratch_folder() as scratch:
        shutil.copytree(folder, scratch / "output")
        return store.trees.commit(scratch / "output")


def _receipt(
    store: Store, key: str, step: str, manifest: Manifest, parts: dict[str, object], error: Diagnostic | None = None
) -> None:
    store.receipts.write(
        Receipt.model_validate(
            {
                "key": key, "step": step, "kind": step, "deployment": NAME, "parts": parts, "manifest": manifest,
                "outcome": "done" if error is None else "failed", "error": error, "found": NO_USER_CODE, "summary": {},
                "seconds": 1.0, "peak_bytes": None, "started": "2026-11-30T02:33:38+00:00", "version": "0.1.0",
            }
        )
    )  # fmt: skip
