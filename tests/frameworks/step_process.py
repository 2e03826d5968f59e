"""A process that runs step functions and runtimes on demand, for frameworks that this process must not import.

PyTorch is imported where the tests run, and TensorFlow never shares a process with it. One process for a whole session of
tests, since importing TensorFlow takes seconds. `python -m tests.frameworks.step_process` reads a line of JSON for each job
and answers with one.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from orchestrator.diagnostics import Diagnostic
from orchestrator.frameworks.source.samples import Array
from orchestrator.process.apart import keep_apart
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import SourceParameters

ROOT = Path(__file__).parents[2]
_SECONDS = 120
Made = TypeVar("Made")


@dataclass(frozen=True)
class Done:
    """What a step left."""

    folder: Path
    summary: dict[str, Any]

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def arrays(self, name: str) -> dict[str, Array]:
        with np.load(self.folder / name, allow_pickle=False) as file:
            return dict(file)


def one_model(folder: Path) -> bytes:
    """The content of the only model file that a conversion left."""
    (model,) = folder.glob("model.*")
    return model.read_bytes()


class StepProcess:
    """The parent's side."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._folder = folder
        self._jobs = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.frameworks.step_process"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(
        self, function: str, params: Mapping[str, Any], inputs: Mapping[str, Path], project: Path | None = None
    ) -> Done:
        """Run a step function of `orchestrator.frameworks`, or another by its full name.

        Args:
            function: `module:function`.
            params: of the step.
            inputs: role → path.
            project: the folder of the user's code; by default one without any.

        Raises:
            StepError: as the step.
        """
        folder = self._new_folder()
        (folder / "output").mkdir()
        (folder / "scratch").mkdir()
        summary = self._ask(
            do="step",
            function=function
            if function.startswith(("orchestrator.", "tests."))
            else f"orchestrator.frameworks.{function}",
            params=dict(params),
            inputs={role: str(path) for role, path in inputs.items()},
            folder=str(folder),
            project=str(project or folder),
        )
        return Done(folder / "output", summary)

    def call(
        self, opener: str, arguments: Mapping[str, Any], inputs: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Open a runtime, call it once; its outputs and its facts.

        Args:
            opener: `module:function` below `orchestrator.frameworks`.
            arguments: paths as paths, signatures as JSON.
            inputs: of the call.
        """
        folder = self._new_folder()
        np.savez(folder / "given.npz", **dict(inputs))  # type: ignore[arg-type]  # the stub takes names for options
        facts = self._ask(
            do="call",
            function=f"orchestrator.frameworks.{opener}",
            arguments=json.loads(json.dumps(dict(arguments), default=str)),
            folder=str(folder),
        )
        with np.load(folder / "answer.npz", allow_pickle=False) as file:
            return dict(file), facts

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=_SECONDS)

    def _new_folder(self) -> Path:
        self._jobs += 1
        folder = self._folder / str(self._jobs)
        folder.mkdir()
        return folder

    def _ask(self, **job: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.wait(_SECONDS)}"
        reply = json.loads(line)
        if "refused" in reply:
            told = Diagnostic.from_json(reply["refused"])
            raise StepError(told.code, told.message, cause=told.cause, remedy=told.remedy, at=told.at, notes=told.notes)
        assert "crashed" not in reply, reply["crashed"]
        done: dict[str, Any] = reply["done"]
        return done


def in_two_processes(folder: Path, work: Callable[[StepProcess], Made]) -> tuple[Made, Made]:
    """What the same work gives in two fresh processes, whose sets are in different orders.

    All of a test's steps in one process after the other, since starting one costs more than most steps.

    Args:
        folder: an empty one.
        work: asks the process for steps.
    """
    made = []
    for seed in ("1", "7"):
        (folder / seed).mkdir(parents=True)
        process = StepProcess(folder / seed, PYTHONHASHSEED=seed)
        try:
            made.append(work(process))
        finally:
            process.close()
    return made[0], made[1]


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "directory": Path,
    "project": Path,
    "signature": Signature.from_json,
    "source": SourceParameters.from_json,
    "inputs": lambda paths: {role: Path(path) for role, path in paths.items()},
}


def _run(job: Mapping[str, Any]) -> dict[str, Any]:
    module, _, name = job["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    folder = Path(job["folder"])
    if job["do"] == "step":
        inputs = {role: Path(path) for role, path in job["inputs"].items()}
        done: dict[str, Any] = function(
            StepContext(job["params"], inputs, folder / "output", folder / "scratch", Path(job["project"]))
        )
        return done
    arguments = {key: _FROM_JSON[key](value) if key in _FROM_JSON else value for key, value in job["arguments"].items()}
    runtime = function(**arguments)
    with np.load(folder / "given.npz", allow_pickle=False) as given:
        np.savez(folder / "answer.npz", **runtime.run(dict(given)))
    return asdict(runtime.facts())


def main(jobs: IO[str], replies: IO[str]) -> None:
    """Answer jobs until there are no more."""
    keep_apart()
    for line in jobs:
        try:
            reply: dict[str, Any] = {"done": _run(json.loads(line))}
        except StepError as error:
            reply = {"refused": error.diagnostic.as_json()}
        except Exception:  # noqa: BLE001 - the test that asked fails with it
            reply = {"crashed": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    # TensorFlow prints on standard output; what it says goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    main(sys.stdin, answers)
