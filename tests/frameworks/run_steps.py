"""Runs steps one after the other in this process, which is a worker's stand-in: `python run_steps.py request.json`."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from orchestrator.steps import StepContext, StepError


def _run(step: dict[str, Any], root: Path) -> dict[str, Any]:
    folder = root / step["name"]
    context = StepContext(
        params=step["params"],
        inputs={role: Path(path) for role, path in step["inputs"].items()},
        output=folder / "output",
        scratch=folder / "scratch",
        project=root,
    )
    for path in (context.output, context.scratch):
        path.mkdir(parents=True)
    module, _, function = step["function"].partition(":")
    try:
        return {"summary": getattr(importlib.import_module(module), function)(context)}
    except StepError as error:
        return {
            "code": error.code, "message": error.message, "cause": error.cause, "remedy": error.remedy,
            "at": list(error.at), "notes": list(error.notes),
        }  # fmt: skip
    # Told to the test, which fails with it.
    except Exception:
        return {"code": "", "message": "unforeseen", "cause": traceback.format_exc()}


def main(path: Path) -> None:
    request = json.loads(path.read_text("utf-8"))
    results = {step["name"]: _run(step, path.parent) for step in request}
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "tensorflow", "tf2onnx", "onnx"})
    (path.parent / "results.json").write_text(json.dumps({"steps": results, "loaded": loaded}), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
