"""Settings of a small model, and variants of it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.table import BACKENDS
from orchestrator.spec.signature import Signature, Tensor

SettingsFor = Callable[..., ServingSettings]

Parse = Callable[..., list[Any]]


@pytest.fixture
def settings_for() -> SettingsFor:
    """`settings_for("torchserve", max_batch_size=4)`: settings of a model that doubles rows of three numbers."""

    def make(backend: str, **changes: Any) -> ServingSettings:
        (format_name, *_) = BACKENDS[backend].formats
        settings = ServingSettings(
            name="tiny-model",
            backend=backend,
            variant=f"{format_name}-fp32",
            format=format_name,
            precision="fp32",
            signature=Signature(
                inputs=(Tensor("x", "float32", ("batch", 3)),),
                outputs=(Tensor("y", "float32", ("batch", 3)),),
                dims={"batch": (1, 64)},
                batch="batch",
            ),
            cpus=1.0,
            memory=2**31,
            max_batch_size=8,
            max_delay=0.005,
            startup_seconds=60,
            drain_seconds=5,
            model_digest="a" * 64,
            decision_digest="c" * 64,
            tools={"torch": "2.13.0+cpu"},
        )
        return replace(settings, **changes)

    return make


@pytest.fixture
def placeholder_variant(tmp_path: Path) -> Path:
    """A folder with a file of each format, and facts; nothing loads the models."""
    folder = tmp_path / "variant"
    folder.mkdir()
    for name in ("model.onnx", "model.pt", "model.pt2", "model.tflite"):
        (folder / name).write_bytes(b"a model")
    (folder / "saved_model" / "variables").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"a model")
    (folder / "saved_model" / "variables" / "variables.index").write_bytes(b"an index")
    VariantFacts(
        format="tflite", precision="fp32", exporter="a test", checked=(), frozen=(), opset=None, nodes=None, operators=None,
        names=None, weights=None, method=None, reduce_range=None, smoothed=None, float_layers=None, calibration=None, notes=(),
    ).write(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def parse() -> Iterator[Parse]:
    """`parse(("models", text), ("warmup", content))`: what TensorFlow Serving's own messages make of them.

    One process answers all tests, since it takes seconds to start.
    """
    script = Path(__file__).with_name("read_tensorflow_serving.py")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        requests, replies = reader.stdin, reader.stdout

        def ask(*contents: tuple[str, str | bytes]) -> list[Any]:
            request = [
                [kind, base64.b64encode(content.encode() if isinstance(content, str) else content).decode()]
                for kind, content in contents
            ]
            print(json.dumps(request), file=requests, flush=True)
            answers: list[Any] = json.loads(replies.readline())
            return answers

        yield ask
