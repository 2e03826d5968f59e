"""A small project and plans of small steps, run by real workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.executors.executor import Executor
from orchestrator.engine.run import run_plan
from orchestrator.engine.stop import Stop
from orchestrator.events import Event
from orchestrator.machine.fingerprint import fingerprint
from orchestrator.machine.here import Here
from orchestrator.machine.packages import version
from orchestrator.plan.resolve import Outcome, Resolver
from orchestrator.plan.step import Plan, Step
from orchestrator.spec.load import LoadedSpec, load_spec
from orchestrator.store.home import Home
from orchestrator.store.store import Store

HERE = Path(__file__).parent

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata:
  name: small
model:
  source: {kind: torchscript, weights: weights.pt}
  inputs: [{name: x, dtype: float32, shape: [batch, 4]}]
  outputs: [{name: y}]
  dims: {batch: {max: 8}}
"""


@dataclass
class Project:
    """A spec in a folder, a store, and a method to run steps."""

    folder: Path
    loaded: LoadedSpec
    home: Home
    events: list[Event] = field(default_factory=list)
    variables: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """As a new command would open it."""
        return Store.at(self.home)

    def step(self, step_id: str, function: str, **changes: Any) -> Step:
        values: dict[str, Any] = {
            "id": step_id,
            "kind": "convert",
            "function": f"steps_under_test:{function}",
            "revision": 1,
            "params": {},
            "inputs": {},
        }
        return Step(**{**values, **changes})

    def plan(self, *steps: Step) -> Plan:
        names = {name for step in steps for name in step.tools}
        here = Here(fingerprint(), {name: version(name) for name in names}, variables=self.variables)
        return Plan("small", steps, (), self.folder, here)

    def run(
        self,
        *steps: Step,
        stop: Stop | None = None,
        forced: frozenset[str] = frozenset(),
        jobs: int | None = None,
        executor: Executor | None = None,
    ) -> dict[str, Outcome]:
        plan = self.plan(*steps)
        store = self.store
        resolver = Resolver(self.loaded, plan, store)
        return run_plan(
            self.loaded,
            plan,
            resolver,
            store,
            observer=self.events.append,
            stop=stop or Stop(),
            forced=forced,
            jobs=jobs,
            executor=executor,
        )

    def text(self, outcomes: Mapping[str, Outcome], step: str) -> str:
        receipt = outcomes[step].receipt
        assert receipt is not None
        assert receipt.manifest is not None
        return (self.store.trees.path(receipt.manifest.digest) / "text.txt").read_text(encoding="utf-8")

    def runs(self) -> int:
        path = self.folder / "runs"
        return len(path.read_text(encoding="utf-8")) if path.exists() else 0

    def write_step(self, text: str = "hello", **changes: Any) -> Step:
        return self.step("write", "write", params={"text": text, "runs": str(self.folder / "runs")}, **changes)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    # A separate cache folder: otherwise steps would wait for another user's measurement.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    (folder / "weights.pt").write_text("weights", encoding="utf-8")
    home = Home(tmp_path / "home")
    home.prepare()
    return Project(folder, load_spec(folder / "spec.yaml"), home)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition, at most a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < until, "it did not come about within a minute"
            time.sleep(0.05)

    return wait
