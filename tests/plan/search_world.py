"""A search with made-up outcomes: no step runs, only receipts and documents are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.artifacts.candidate import candidate_identity
from orchestrator.artifacts.measurement import MeasuredOn
from orchestrator.artifacts.round_report import RoundReport, RoundResult, RoundTimes
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.observing import observe_here
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.expand import expand, held_back
from orchestrator.plan.found import planned_model
from orchestrator.plan.resolve import Outcome
from orchestrator.plan.step import Plan, Step, Took
from orchestrator.spec.load import load_spec
from orchestrator.steps.context import Ending
from orchestrator.steps.parameters import (
    RoundParameters,
    RuntimeBenchmarkParameters,
    SelectParameters,
)
from orchestrator.store.home import Home
from orchestrator.store.receipts import Receipt
from orchestrator.store.store import Store
from orchestrator.store.user_code import NO_USER_CODE
from tests.artifacts.made import facts, verdict
from tests.plan.spec_text import DECLARED

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
MEASURED_ON = MeasuredOn(cpus=2, cpus_wanted=2.0, threads=2, how="", accelerators=None, driver=None)
TURNS = 20


def up_to_two_percent(name: str, turn: int) -> float:
    """Turns are up to 2 % slower than the first, the same for all."""
    del name
    return 1 + 0.01 * (turn % 3)


@dataclass
class World:
    """What steps would find out, and how long they would take; one ends after the other.

    Attributes:
        times: how many times as long as 1 ms a call of a candidate takes, by its name.
        failing: ids of steps of `verify` whose gates do not hold.
        broken: ids of steps that fail.
        stuck: ids of steps that are stopped when they have taken too long.
        seconds: of steps, by what their id begins with.
        turn: how many times as long as that a call takes in the turn of a number, by its name.
    """

    folder: Path
    times: Callable[[str], float]
    budget: str = "20m"
    formats: str = "[onnx]"
    precisions: str = "[fp32]"
    objective: str = "latency"
    failing: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    stuck: frozenset[str] = frozenset()
    seconds: Mapping[str, float] = field(default_factory=dict)
    turn: Callable[[str, int], float] = field(default=up_to_two_percent)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.store = Store.at(Home(self.folder / "home"))
        self.store.home.prepare()
        self.clock = BEGAN
        self.ran: list[str] = []
        self.outcomes: dict[str, Outcome] = {}

    def plan(self, *, search: bool = True) -> Plan:
        (self.folder / "digits.pt").write_bytes(b"a model")
        (self.folder / "samples.npz").write_bytes(b"")
        options = f"formats: {self.formats}, precisions: {self.precisions}, time_budget: {self.budget}"
        text = (
            DECLARED
            + f"  samples: samples.npz\nhardware: {{cpus: 2}}\noptimize_for: {self.objective}\n"
            + f"optimize: {{{options}, search: {str(search).lower()}}}\n"
        )
        (self.folder / "spec.yaml").write_text(text, encoding="utf-8")
        loaded = load_spec(self.folder / "spec.yaml")
        here = observe_here(loaded)
        here = replace(here, packages=dict.fromkeys(here.packages, "1.0"))
        return compile_plan(loaded, planned_model(loaded, None), here)

    def run(self, plan: Plan | None = None, until: str = "select") -> Plan:
        """Run everything before the step `until`, as the engine does: a step that may still change waits."""
        plan = self.plan() if plan is None else plan
        while True:
            plan = expand(plan, self.outcomes, self.store.trees)
            step = next(
                (
                    each
                    for each in plan.steps
                    if each.id not in self.outcomes
                    and not each.live
                    and each.id not in held_back(plan)
                    and each.producers <= self.outcomes.keys()
                ),
                None,
            )
            if step is None or step.id == until:
                return plan
            self.outcomes[step.id] = self.outcome(step)

    def outcome(self, step: Step) -> Outcome:
        failed = [each for each in step.producers if self.outcomes[each].status != "done"]
        if step.candidate is not None and failed:
            return Outcome("skipped", None, Diagnostic("E408", f"{failed[0]} did not succeed"))
        self.ran.append(step.id)
        seconds = next((took for name, took in self.seconds.items() if step.id.startswith(name)), 2.0)
        seconds = step.timeout if step.id in self.stuck else seconds
        began, self.clock = self.clock, self.clock + timedelta(seconds=seconds)
        if step.id in self.stuck:
            error = Diagnostic("E402", "it took too long")
            return Outcome("failed", None, error, Ending.TIMEOUT, Took(began.timestamp(), seconds))
        if step.id in self.broken:
            error = Diagnostic("E425", "it cannot be made")
            return Outcome("failed", self._receipt(step, began, seconds, error=error), error, Ending.REFUSED)
        folder = self.folder / "output"
        folder.mkdir()
        if step.kind in {"convert", "optimize"}:
            facts().write(folder)
        elif step.kind == "verify":
            verdict(step.id, passed=step.id not in self.failing).write(folder)
        elif step.id.startswith("benchmark.round"):
            self._report(step, seconds).write(folder)
        return Outcome("done", self._receipt(step, began, seconds, folder), ending=Ending.DONE)

    def _report(self, step: Step, seconds: float) -> RoundReport:
        parameters = RoundParameters.from_json(step.params)
        results = []
        for each in parameters.candidates:
            name = each.candidate
            verified = self.outcomes.get(f"verify.{name}")
            measured = name in parameters.unverified or (
                verified is not None and verified.status == "done" and f"verify.{name}" not in self.failing
            )
            turns = [0.001 * self.times(name) * self.turn(name, number) for number in range(TURNS)]
            results.append(
                RoundResult(
                    **dict(candidate_identity(each)),
                    fate="measured" if measured else "not measured",
                    reason="" if measured else "it failed verification",
                    error=None,
                    same_as=None,
                    times=tuple(RoundTimes(number=n, call=t, row=t) for n, t in enumerate(turns)) if measured else (),
                )
            )
        return RoundReport(measured_on=MEASURED_ON, batch_sizes=(1,), seconds=seconds, candidates=tuple(results))

    def _receipt(
        self, step: Step, began: datetime, seconds: float, folder: Path | None = None, error: Diagnostic | None = None
    ) -> Receipt:
        return Receipt(
            key=step.id,
            step=step.id,
            kind=step.kind,
            deployment="digits",
            outcome="done" if error is None else "failed",
            parts={},
            manifest=None if folder is None else self.store.trees.commit(folder),
            summary={},
            error=error,
            found=NO_USER_CODE,
            seconds=seconds,
            peak_bytes=None,
            started=began.isoformat(timespec="seconds"),
            version="0",
        )


def measured_in(plan: Plan, number: int) -> list[str]:
    return [
        each.candidate for each in RoundParameters.from_json(plan.step(f"benchmark.round-{number}").params).candidates
    ]


def finalists(plan: Plan) -> set[str]:
    return {
        each.candidate
        for each in RuntimeBenchmarkParameters.from_json(plan.step("benchmark.runtime").params).candidates
    }


def fates(plan: Plan) -> dict[str, tuple[str, str]]:
    searched = SelectParameters.from_json(plan.step("select").params).searched
    return {name: (each.fate, each.reason) for name, each in searched.items()}


def rounds(plan: Plan) -> list[str]:
    return [step.id for step in plan.steps if step.id.startswith("benchmark.round")]


def by_options(**faster: float) -> Callable[[str], float]:
    """A call takes 1 ms on ONNX Runtime and 10 ms on OpenVINO, times what is given for each part of a name."""

    def times(name: str) -> float:
        product = 10.0 if "openvino" in name else 1.0
        for part, factor in faster.items():
            product *= factor if part in name else 1.0
        return product

    return times
