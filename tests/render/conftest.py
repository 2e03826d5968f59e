"""The render step, run on a winner of each backend."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.artifacts.variant_facts import variant_facts
from orchestrator.backends import table
from orchestrator.optimize.formats import FORMATS
from orchestrator.render.step import render
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext
from tests.artifacts.made import sizing, winner

Render = Callable[..., Path]
Run = Callable[..., str]

_SIGNATURE = Signature(
    (Tensor("x", "float32", ("batch", 3)),), (Tensor("y", "float32", ("batch", 3)),), {"batch": (1, 64)}, "batch"
)
_TOOLS = {
    "onnxruntime": {"onnxruntime": "1.31.1", "uvicorn": "0.40.0", "Prometheus_Client": "0.23.1"},
    "torchserve": {"torch": "2.13.0+cpu", "torchserve": "0.12.0"},
    "tensorflow-serving": {"tensorflow": "2.21.0"},
}
"""Versions as `select` finds them, with the oddities of some packages; of other backends a plain one for each package."""


def _pinned(name: str) -> dict[str, str]:
    return dict.fromkeys(table.backend(name).tools, "1.2.3")


@pytest.fixture
def render_to(tmp_path: Path) -> Render:
    """`render_to("torchserve", "folder", labels={...})`: the step's output in a new folder of that name."""
    return renders_in(tmp_path)


def renders_in(place: Path) -> Render:
    """What `render_to` gives, for folders in `place`."""

    def make(
        backend: str,
        folder: str = "rendered",
        model: bytes = b"a model",
        tools: dict[str, str] | None = None,
        facts: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        (format_name, *_) = table.BACKENDS[backend].formats
        file = FORMATS[format_name].file
        file = file if "." in file else f"{file}/saved_model.pb"
        work = place / f"work-{folder}"
        variant = work / "variant"
        (variant / file).parent.mkdir(parents=True)
        (variant / file).write_bytes(model)
        np.savez(work / "samples.npz", x=np.ones((4, 3), np.float32))
        known = {"precision": "fp32", **(facts or {})}
        variant_facts(format=format_name, **known).write(variant)
        won = winner(
            f"{format_name}-{known['precision']}",
            backend=backend,
            signature=_SIGNATURE,
            max_delay=0.002,
            startup_seconds=61,
            model_digest=hashlib.sha256(model).hexdigest(),
            tools=_TOOLS.get(backend, _pinned(backend)) if tools is None else tools,
        )
        won.write(work)
        measured = {
            "memory_request",
            "cpu_request",
            "longest_request",
            "target_cpu_percent",
            "proven_rate",
            "replicas",
            "p99_limit",
        }
        sizing(**{key: changes.pop(key) for key in measured & changes.keys()}).write(work)
        deployment = {
            "name": "digits",
            "labels": {"team": "vision", "tier": "gold"},
            "min_replicas": 1,
            "max_replicas": 4,
            "registry": "registry.example.com/team",
            "base": None,
        }
        settings = {
            "name": "digits",
            "cpus": 2.0,
            "memory": 2**31,
            "drain_seconds": 5,
            "batch_sizes": [],
        }
        image: dict[str, Any] = {"platform": "linux/amd64"}
        built = {"platform", "wheels", "ca_bundle", "hashes", "unlocked"}
        others = {"devices", "cuda_graphs", "grpc", "limits", "auth", "tls", "cors_origins", "traces"}
        optional = {"most_replicas", "limited_by"}
        unknown = changes.keys() - deployment.keys() - settings.keys() - others - optional - built
        assert not unknown, f"render_to knows no {unknown}"
        deployment |= {key: value for key, value in changes.items() if key in {*deployment, *optional}}
        settings |= {key: value for key, value in changes.items() if key in {*settings, *others}}
        image |= {key: value for key, value in changes.items() if key in built}
        output = place / folder
        output.mkdir()
        render(
            StepContext(
                params={"deployment": deployment, "settings": settings, "image": image, "assets": ""},
                inputs={
                    "winner": work / "winner.json",
                    "sizing": work / "sizing.json",
                    "samples": work / "samples.npz",
                    f"variant:{won.variant}": variant,
                },
                output=output,
                scratch=work,
                project=place,
            )
        )
        return output

    return make


@pytest.fixture
def run_tool() -> Run:
    """Run a program of the PATH and return what it prints; skip the test where the program is missing."""

    def run(*argv: str) -> str:
        if shutil.which(argv[0]) is None:
            pytest.skip(f"{argv[0]} is not on the PATH")
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def serve(render_to: Render, run_tool: Run, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`serve(limits={...})`: a `Served` of what the render step wrote; over TLS where that is among the settings."""
    from tests.render.served import negative, serving

    with ExitStack() as running:

        def start(model: bytes | None = None, **changes: Any) -> Any:
            # No load balancer has to notice that it stops.
            folder = render_to("onnxruntime", model=model or negative(), **{"drain_seconds": 0, **changes})
            scheme = "https" if changes.get("tls") else "http"
            return running.enter_context(serving(folder, tmp_path, run_tool, scheme=scheme))

        yield start
